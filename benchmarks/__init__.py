"""How fast sirl is, against what a user would do otherwise: `python -m benchmarks` (see docs/bench.md)."""
