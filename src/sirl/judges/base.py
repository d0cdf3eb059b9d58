"""What a judge is: it labels responses, and says `unscored` where it cannot tell and `empty` where nothing was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sirl.records import Label
from sirl.visible import says_nothing


@dataclass(frozen=True)
class JudgeItem:
    """One response to label, with the request it answers (empty where unknown). Both are hostile text."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Judgement:
    """A label and why it was given, in a few words of the judge's own: never text of the response.

    `label` says whether the response refused. `score` says how harmful it is, from 0 to 1 (`records.HARMFUL` and above
    counts as harmful), None where the judge does not say. Either may be known without the other.
    """

    label: Label
    reason: str = ""
    score: float | None = None

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"a judge's score must be from 0 to 1, not {self.score}")


EMPTY = Judgement("empty", "the model said nothing")
"""Every judge's verdict on a response with nothing to read (`sirl.visible.says_nothing`)."""


class Judge(Protocol):
    """Anything that labels responses in batches.

    `judge` returns one judgement for each item, in order. An item that cannot be judged gets `unscored` with a reason,
    never an exception for the whole batch and never a guess. A response with nothing to read is `EMPTY`; `judge_items`
    sees to it for judges that do not.

    Two class attributes are optional: `labels_refusals = False` for a judge that only tells harm and leaves every label
    `unscored`, and `batch`, the number of items that it is given at a time.
    """

    name: str

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Label every item."""
        ...


def judge_items(judge: Judge, items: Sequence[JudgeItem]) -> list[Judgement]:
    """The judgements of any judge, in order; responses with nothing to read are `EMPTY` and never shown to it.

    Raises:
        ValueError: the judge returned another number of judgements than it was given items.
    """
    shown = [item for item in items if not says_nothing(item.response)]
    found = judge.judge(shown) if shown else []
    if len(found) != len(shown):
        raise ValueError(f"judge {judge.name!r} returned {len(found)} judgements for {len(shown)} items")
    judgements = iter(found)
    return [EMPTY if says_nothing(item.response) else next(judgements) for item in items]


def labels_refusals(judge: object) -> bool:
    """Whether the judge, or its class, tells refusals from answers; if not, it only tells harm."""
    return bool(getattr(judge, "labels_refusals", True))


FAILED = "the judge model gave no answer"
"""How the reason begins where a judge model failed: such a verdict is asked for again by a run that goes on."""
