"""How alike a model's answers are: which sentence stands in most of them, however it is worded."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SAME_SENTENCE = 0.6
"""Sentences that share at least this much of their words (Jaccard) count as wordings of one sentence."""

MAX_CHARS = 300
NGRAM = 4


@dataclass(frozen=True)
class Commonest:
    """A sentence as first written, in how many of the texts it stands in any wording, and how many wordings it has."""

    text: str
    count: int
    share: float
    wordings: int


@dataclass
class _Cluster:
    text: str
    texts: set[int] = field(default_factory=set)
    wordings: int = 0


def sentences(text: str) -> list[str]:
    """Sentences of a short answer, at . ! ? or a line break; at least one, which may be empty."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [part for part in parts if part] or [""]


def commonest_sentence(texts: Sequence[Sequence[str]]) -> Commonest:
    """The sentence that stands in most of some texts, each given as the sentences that count.

    Raises:
        ValueError: there are no texts.
    """
    clusters = _clusters(texts)
    if not clusters:
        raise ValueError("no texts")
    top = max(clusters, key=lambda c: len(c.texts))
    return Commonest(top.text, len(top.texts), len(top.texts) / len(texts), top.wordings)


def sameness(texts: Sequence[str], groups: Sequence[int]) -> list[float]:
    """Of each text, the largest share of the other groups' texts that hold one of its sentences, in any wording."""
    out, sizes = [0.0] * len(texts), Counter(groups)
    for cluster in _clusters([sentences(text) for text in texts]):
        held = Counter(groups[i] for i in cluster.texts)
        for i in cluster.texts:
            others = len(texts) - sizes[groups[i]]
            share = (len(cluster.texts) - held[groups[i]]) / others if others else 0.0
            out[i] = max(out[i], share)
    return out


def _clusters(texts: Sequence[Sequence[str]]) -> list[_Cluster]:
    """The sentences of some texts, all wordings of one together.

    Counting whole sentences alone would take "I can't help with that." and "I can not help you with that." for variety.
    A sentence joins the first one that it shares `SAME_SENTENCE` of its words with.
    """
    clusters: list[_Cluster] = []
    index = _Index()
    known: dict[str, _Cluster] = {}
    for i, parts in enumerate(texts):
        for part in parts:
            key = " ".join(part.split()).casefold()
            if key not in known:
                words = frozenset(re.findall(r"\w+", key))
                place = index.first_like(words)
                if place is None:
                    index.add(words)
                    clusters.append(_Cluster(part[:MAX_CHARS]))
                    place = len(clusters) - 1
                clusters[place].wordings += 1
                known[key] = clusters[place]
            known[key].texts.add(i)
    return clusters


class _Index:
    """Which clusters hold a word, so that a sentence is compared with all of them in one count.

    Comparing it with each of them in turn takes minutes for the answers of one update at full length.
    """

    def __init__(self) -> None:
        self._places: dict[str, array[int]] = {}
        self._sizes = array("i")

    def add(self, words: frozenset[str]) -> None:
        """The words of the next cluster."""
        for word in words:
            self._places.setdefault(word, array("i")).append(len(self._sizes))
        self._sizes.append(len(words))

    def first_like(self, words: frozenset[str]) -> int | None:
        """The first cluster that shares `SAME_SENTENCE` of its words with these (Jaccard); None where none does."""
        held = [np.frombuffer(self._places[word], dtype=np.intc) for word in words if word in self._places]
        if not held:
            return None
        shared = np.bincount(np.concatenate(held))
        places = np.flatnonzero(shared >= SAME_SENTENCE * len(words) - 1e-9)  # of a union they share no larger part
        common = shared[places]
        alike = common / (len(words) + np.frombuffer(self._sizes, dtype=np.intc)[places] - common) >= SAME_SENTENCE
        return int(places[alike.argmax()]) if alike.any() else None


def repetition_rate(token_ids: Sequence[object]) -> float:
    """Share of a completion's 4-grams that it has used before: 0 for fresh text, near 1 for a loop."""
    grams = [tuple(token_ids[i : i + NGRAM]) for i in range(len(token_ids) - NGRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_rate(texts: Sequence[str]) -> float:
    """Share of responses that are unlike all others, by whole text: 1 / n where all are the same template."""
    return len(set(texts)) / len(texts) if texts else 1.0
