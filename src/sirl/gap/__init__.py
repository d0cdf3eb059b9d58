"""The entropy gap: is there an instinct to train? Sampling, analysis, and how the result is shown.

What computes is loaded when it is asked for: settings alone, as the YAML of a run needs them, take no scipy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sirl.gap.types import (
    Comparison,
    GapConfig,
    GapResult,
    GapSample,
    GapSampling,
    LengthCheck,
    PromptClass,
    WithinPrompt,
)

if TYPE_CHECKING:
    from sirl.gap.analysis import analyse_gap, sample_gap
    from sirl.gap.view import gap_svg, render_gap_table

_LAZY = {
    "analyse_gap": "sirl.gap.analysis",
    "gap_svg": "sirl.gap.view",
    "render_gap_table": "sirl.gap.view",
    "sample_gap": "sirl.gap.analysis",
}

__all__ = [
    "Comparison",
    "GapConfig",
    "GapResult",
    "GapSample",
    "GapSampling",
    "LengthCheck",
    "PromptClass",
    "WithinPrompt",
    "analyse_gap",
    "gap_svg",
    "render_gap_table",
    "sample_gap",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sirl.gap' has no attribute {name!r}")
