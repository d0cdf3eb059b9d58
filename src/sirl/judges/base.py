"""What a judge is: it labels responses, and says `unscored` where it cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sirl.records import Label


@dataclass(frozen=True)
class JudgeItem:
    """One response to label, with the request it answers (empty where unknown). Both are hostile text."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Judgement:
    """A label and why it was given, in a few words of the judge's own: never text of the response."""

    label: Label
    reason: str = ""


class Judge(Protocol):
    """Anything that labels responses in batches.

    `judge` returns one judgement for each item, in order. An item that cannot be judged gets `unscored` with a reason,
    never an exception for the whole batch and never a guess.
    """

    name: str

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Label every item."""
        ...
