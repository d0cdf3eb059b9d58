"""Which columns of a table make a prompt, by the names that published sets give them.

Names are compared without case, blanks, dashes and underscores: `BehaviorID` is `behavior_id`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sirl.errors import UserError

PROMPT_COLUMNS = (
    "prompt",
    "question",
    "instruction",
    "text",
    "goal",  # before `behavior`, which is a short name in JailbreakBench
    "behavior",
    "query",
    "request",
    "forbidden_prompt",
    "messages",
    "conversations",
    "conversation",
    "adversarial",
    "vanilla",
)
"""Names tried in order where the user names no column."""

ID_COLUMNS = ("id", "behavior_id", "prompt_id", "question_id")
CATEGORY_COLUMNS = ("category", "semantic_category", "harm_category")
CONTEXTS = ("context_string", "context")
"""HarmBench's, in its file and on the hub: a text that the request is about, put before it."""
INPUTS = {"instruction": ("input", "context")}
"""What an instruction (Alpaca, Dolly) is to be applied to, put behind it."""
IMAGE = "image_file_name"
_INSTEAD = {"adversarial": "vanilla"}
"""WildJailbreak's rows have one or both; the first is what is asked where there is one."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read: the prompt's, what stands in where its cell is empty, and what is joined to it."""

    prompt: str
    instead: str | None = None
    before: str | None = None
    behind: str | None = None
    image: str | None = None
    id: str | None = None
    category: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them, the prompt's first."""
        parts = (self.prompt, self.instead, self.before, self.behind, self.image, self.id, self.category)
        return list(dict.fromkeys(name for name in parts if name is not None))

    def prompt_of(self, row: Mapping[str, Any]) -> Any:
        """The prompt of a row, with what belongs to it.

        Raises:
            ValueError: it cannot be asked in text, with the reason.
        """
        value = row[self.prompt]
        if self.instead is not None and _is_blank(value):
            value = row[self.instead]
        if self.image is not None and not _is_blank(row[self.image]):
            raise ValueError(f"asks about an image ({self.image}); only text is read")
        if self.before is not None and isinstance(row[self.before], str) and not _is_blank(row[self.before]):
            value = _joined(row[self.before], "\n\n---\n\n", value)
        if self.behind is not None and not _is_blank(row[self.behind]):
            value = _joined(value, "\n\n", row[self.behind])
        return value


def known_header(header: Sequence[str], column: str | None) -> bool:
    """Whether a header has a column of prompts."""
    return any(_matches(header, name) for name in ((column,) if column else PROMPT_COLUMNS))


def prompt_column(header: Sequence[str], column: str | None, where: str) -> str:
    """The column of the prompts: the user's, or the first known one.

    Raises:
        UserError: there is none, or more than one of that name; `where` stands before it.
    """
    for name in (column,) if column else PROMPT_COLUMNS:
        if _matches(header, name):
            return _only(header, name, where)
    expected = repr(column) if column else f"(one of {', '.join(PROMPT_COLUMNS)})"
    raise UserError(f"{where} has no prompt column {expected}; found {names(header)}")


def choose_columns(
    header: Sequence[str], prompt: str, where: str, *, named: bool = False, with_category: bool = False
) -> Columns:
    """What is read beside the column `prompt`, which the user chose if it was `named`.

    Raises:
        UserError: a column that is read is there twice; `where` stands before it.
    """

    def find(*candidates: str) -> str | None:
        for name in candidates:
            if _matches(header, name) and (found := _only(header, name, where)) != prompt:
                return found
        return None

    key = _key(prompt)
    behind = find(*INPUTS[key]) if key in INPUTS else None
    before = find(*CONTEXTS[: 1 if find("input") else 2])  # beside an `input` it is an instruction's
    return Columns(
        prompt,
        instead=find(_INSTEAD[key]) if key in _INSTEAD and not named else None,
        before=before if before != behind else None,
        behind=behind,
        image=find(IMAGE),
        id=find(*ID_COLUMNS),
        category=find(*CATEGORY_COLUMNS) if with_category else None,
    )


def label(value: Any) -> str | None:
    """An id or a category as text; None where the cell is empty or NaN (as pandas writes an empty one)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    return None if text.casefold() in ("", "nan") else text


def is_prefill_column(name: str) -> bool:
    """Whether an assistant's turn at the end of a conversation is what the answer begins with."""
    return _key(name) == "prompt"


def names(columns: Iterable[str]) -> str:
    """Column names, for a message."""
    return ", ".join(map(str, columns)) or "no columns"


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", str(name)).casefold()


def _matches(header: Sequence[str], name: str) -> list[str]:
    """Columns of that name: those spelled exactly so, or else all that differ in case and such only."""
    exact = [column for column in header if column == name]
    return exact or [column for column in header if _key(column) == _key(name)]


def _only(header: Sequence[str], name: str, where: str) -> str:
    found = _matches(header, name)
    if len(found) > 1:
        raise UserError(f"{where} has more than one column {name!r} ({names(header)}); leave one of them")
    return found[0]


def _is_blank(value: Any) -> bool:
    return label(value) is None


def _joined(first: Any, between: str, second: Any) -> str:
    if not isinstance(first, str) or not isinstance(second, str):
        raise ValueError("a context can be joined only to a text, not to a list of messages")
    return f"{first.strip()}{between}{second.strip()}"
