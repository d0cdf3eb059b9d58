"""The words by which `sirl.attacks.rewriting` puts a request into the past or the future."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tense:
    """The words that put a question into another tense.

    `auxiliary` says what an auxiliary turns into; those of `kept` stay and get `when` behind the question. Those of
    `fronted` stay too, with `when` before the question: to move them, one would have to know where the subject ends
    ("is the cat allowed in" -> "will the cat be allowed in").
    """

    when: str
    asks: str
    singular: str
    plural: str
    known: str
    auxiliary: Mapping[str, str]
    kept: tuple[str, ...]
    fronted: tuple[str, ...] = ()

    @property
    def people(self) -> str:
        """Auxiliary, subject and time, before a verb in its plain form."""
        return f"{self.asks} people {self.when}"


PAST = Tense(
    when="in the past",
    asks="did",
    singular="was",
    plural="were",
    known="was known",
    auxiliary={
        "is": "was",
        "are": "were",
        "am": "was",
        "isn't": "wasn't",
        "aren't": "weren't",
        "do": "did",
        "does": "did",
        "don't": "didn't",
        "doesn't": "didn't",
        "has": "had",
        "have": "had",
        "can": "could",
        "can't": "couldn't",
        "will": "would",
        "won't": "wouldn't",
        "may": "might",
        "shall": "should",
    },
    kept=("did", "was", "were", "had", "could", "would", "might", "should", "must", "ought"),
)
FUTURE = Tense(
    when="in the future",
    asks="will",
    singular="will be",
    plural="will be",
    known="will be known",
    auxiliary={
        "do": "will",
        "does": "will",
        "did": "will",
        "don't": "won't",
        "doesn't": "won't",
        "didn't": "won't",
        "can": "could",
        "can't": "couldn't",
    },
    kept=("will", "won't", "could", "would", "may", "might", "shall", "should", "must", "ought"),
    fronted=("is", "are", "am", "isn't", "aren't", "was", "were", "has", "have", "had"),
)
