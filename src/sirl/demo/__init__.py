"""The bundled model organism and the prompts that ship with it, so that everything runs without a model hub."""

from __future__ import annotations

import re

from sirl.errors import UserError

DEMO = "demo"
MAX_SCALE = 2.0
"""Beyond twice its weights the adapter is far from anything that was looked at."""

_SCALED = re.compile(rf"{DEMO}@(\d+(\.\d+)?)")


def is_demo(name: str) -> bool:
    """Whether a model is named `demo`, or `demo@` and anything."""
    return name.partition("@")[0] == DEMO


def demo_scale(name: str) -> float | None:
    """By how much the organism's adapter is scaled: 1 for `demo`, 0.5 for `demo@0.5`; None for any other model.

    Raises:
        UserError: what stands behind `demo@` is no number from 0 to `MAX_SCALE`.
    """
    if name == DEMO:
        return 1.0
    if not is_demo(name):
        return None
    match = _SCALED.fullmatch(name)
    if match is None or float(match[1]) > MAX_SCALE:
        raise UserError(
            f"--model_name_or_path {name}: expected {DEMO}@SCALE, a number from 0 (no adapter) to {MAX_SCALE:g}"
        )
    return float(match[1])
