"""Lists as users write them: names with commas between."""

from __future__ import annotations

import os
from collections.abc import Iterable


def comma_list(given: str | Iterable[str], *, files: bool = False) -> list[str]:
    """The names in a text with commas, or in several, without blanks around them; two commas in a row count as one.

    `files`: a text that is the name of a file, which may have commas, stays whole.
    """
    out: list[str] = []
    for text in [given] if isinstance(given, str) else given:
        whole = files and os.path.isfile(text)
        out += [text] if whole else [name for name in map(str.strip, text.split(",")) if name]
    return out
