"""Unlabeled prompts from wherever the user keeps them."""

from sirl.prompts.columns import PROMPT_COLUMNS
from sirl.prompts.load import (
    BUNDLED,
    bundled_path,
    check_disjoint,
    drawn_prompts,
    is_file,
    load_prompts,
    normalise,
    parts_of,
)

__all__ = [
    "BUNDLED",
    "PROMPT_COLUMNS",
    "bundled_path",
    "check_disjoint",
    "drawn_prompts",
    "is_file",
    "load_prompts",
    "normalise",
    "parts_of",
]
