"""What there is to be seen of a text, if anything."""

from __future__ import annotations

import re
import unicodedata

_BREAKS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co"})
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u034f\u115f\u1160\u2800\u3164\uffa0]")
_STOPS = frozenset(".,:;!?\u2026-\u2013\u2014*_'\"`")
_CONTROL = re.compile(r"<\|[^|>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>", re.IGNORECASE)


def says_nothing(text: str) -> bool:
    """Whether a text has nothing to read: blanks, invisible characters, control tokens of chat templates, and at most
    an ellipsis or a lone mark of punctuation ("...", "?")."""
    marks = "".join(visible(_CONTROL.sub("", text)).split())
    return not marks or (len(marks) <= 3 and len(set(marks)) == 1 and marks[0] in _STOPS)


def visible(text: str) -> str:
    """The text without characters that are not seen, and with one kind of line break."""
    text = _SELECTORS.sub("", _BREAKS.sub("\n", text))
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _HIDDEN)
