"""What runs on many processes and other engines, run as far as a CPU goes: `python -m scale` (docs/scale.md)."""
