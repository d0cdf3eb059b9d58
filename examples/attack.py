"""Attack two models with the same prompts, judge the answers and write a report.

python examples/attack.py BASE HARDENED RUN_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from sirl import load_engine, load_judge, load_prompts
from sirl.attacks import resolve_attacks
from sirl.attacks.run import run_attacks
from sirl.judges.run import judge_attempts
from sirl.report import render_report


def compare(base: str, hardened: str, run_dir: str, goals: str = "demo/behaviours", names: str = "direct,aim") -> Path:
    """Returns the path of the report."""
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = load_prompts(goals, limit=20, with_category=True)
    for phase, model in (("before", base), ("after", hardened)):
        attempts = run_attacks(
            load_engine(model),
            resolve_attacks(names),
            prompts,
            phase=phase,
            max_new_tokens=64,
            path=folder / "attempts.jsonl",
        )
        judge_attempts(attempts, load_judge("refusal"), path=folder / "verdicts.jsonl")
    return render_report(folder)


if __name__ == "__main__":
    print(compare(*(sys.argv[1:] or ["demo@0", "demo", "runs/example-attack"])))
