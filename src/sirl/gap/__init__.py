"""The entropy gap: is there an instinct to train? Sampling, analysis, and how the result is shown."""

from sirl.gap.analysis import analyse_gap, sample_gap
from sirl.gap.types import Comparison, GapConfig, GapResult, GapSample, Kind, LengthCheck, WithinPrompt
from sirl.gap.view import gap_svg, render_gap_table

__all__ = [
    "Comparison",
    "GapConfig",
    "GapResult",
    "GapSample",
    "Kind",
    "LengthCheck",
    "WithinPrompt",
    "analyse_gap",
    "gap_svg",
    "render_gap_table",
    "sample_gap",
]
