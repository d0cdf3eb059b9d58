"""Is there an instinct to train? Entropy of refusals against that of answers, for one model.

python examples/measure_gap.py MODEL [PROMPTS]
"""

from __future__ import annotations

import sys

from sirl import load_engine, load_judge, load_prompts
from sirl.gap import GapConfig, GapResult, analyse_gap, render_gap_table, sample_gap


def measure(model: str, prompts: str = "demo/behaviours", config: GapConfig | None = None) -> GapResult:
    """Draw responses to harmful prompts, judge them, and compare their entropies."""
    config = config or GapConfig(k=4, max_new_tokens=64)
    goals = [("harmful", prompt) for prompt in load_prompts(prompts, limit=32)]
    samples = sample_gap(load_engine(model), load_judge("refusal"), goals, config)
    return analyse_gap(samples, config)


if __name__ == "__main__":
    print(render_gap_table(measure(*(sys.argv[1:] or ["demo"]))))
