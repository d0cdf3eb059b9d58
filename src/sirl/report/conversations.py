"""The conversations behind the numbers: pairs of answers before and after, and what they can be filtered by.

A report has the greedy pairs, most of them cut short; `sirl view` has all of them. Pairs that were drawn by hash
(`sirl.report.samples`) come first, with their token entropies, then what got through, then the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sirl.report.samples import Sample, benign_status, pair_status, pick_samples, sample_of
from sirl.results.attacks import with_origins
from sirl.results.load import Run, Scored, whole_attempts
from sirl.run_folder import ATTACKS, BENIGN

MAX_PAIRS = 3_000
"""Pairs in one report: those of 6,000 attempts."""
SHORT = 500
"""Characters of each text in pairs that were not drawn."""

KINDS = {"attack": "attacks", "benign": "benign prompts", "wrapped": "benign, in the attacks' wrappings"}
"""What a pair is: its prompt attacks, is benign, or is benign in the wrapping of an attack."""
STATUSES = (
    *("still broken", "regressed", "fixed", "held"),
    *("newly refused", "still refused", "newly answered", "still answered", "unscored"),
)
"""How the answers changed, those first that a reader looks for first."""
FILTERS = ("kind", "attack", "category", "before", "after", "status")


@dataclass(frozen=True)
class Pair:
    """Answers to one request before and after; one of them may be missing."""

    kind: str
    status: str
    rows: dict[str, Scored]

    @property
    def first(self) -> Scored:
        return next(iter(self.rows.values()))

    @property
    def facets(self) -> dict[str, str]:
        """What the pair can be filtered by, each a text that may be empty."""
        attempt = self.first.attempt
        outcomes = {phase: self.rows[phase].outcome if phase in self.rows else "" for phase in ("before", "after")}
        return {
            "kind": self.kind,
            "attack": "" if self.kind == "benign" else attempt.attack,
            "category": attempt.category or "",
            **outcomes,
            "status": self.status,
        }

    @property
    def key(self) -> tuple[str, str, str]:
        attempt = self.first.attempt
        return self.kind, attempt.attack, attempt.goal_id


def pairs_of(run: Run, decodings: Sequence[str] = ("greedy", "sample")) -> list[Pair]:
    """Every pair of a run, ordered by status, then as they were asked."""
    parts = {"attack": with_origins(run.attacks or []), "benign": run.benign or [], "wrapped": run.wrapped or []}
    pairs = [pair for kind, rows in parts.items() for pair in _pairs(kind, rows, decodings)]
    return sorted(pairs, key=lambda pair: STATUSES.index(pair.status))


def _pairs(kind: str, rows: Iterable[Scored], decodings: Sequence[str]) -> list[Pair]:
    groups: dict[tuple[str, str, str], dict[str, Scored]] = {}
    for row in rows:
        attempt = row.attempt
        if attempt.decoding in decodings:
            groups.setdefault((attempt.decoding, attempt.attack, attempt.goal_id), {})[attempt.phase] = row
    status = pair_status if kind == "attack" else benign_status
    return [Pair(kind, status(group), group) for group in groups.values()]


def choices_of(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """By filter, the values that there are, in order; `status` as in `STATUSES`, the others by name."""
    found = {name: {pair.facets[name] for pair in pairs} - {""} for name in FILTERS}
    ordered = {name: sorted(values) for name, values in found.items()}
    return {
        **ordered,
        "kind": [kind for kind in KINDS if kind in found["kind"]],
        "status": [status for status in STATUSES if status in found["status"]],
    }


def conversation_section(run: Run) -> dict[str, Any] | None:
    """What the report shows: samples with their facets, the choices of the filters, and how many pairs there are."""
    greedy = pairs_of(run, ("greedy",))
    pairs = greedy or pairs_of(run)
    if not pairs:
        return None
    attacks, benign = (partial(whole_attempts, run.path / suite.attempts) for suite in (ATTACKS, BENIGN))
    drawn: dict[tuple[str, str, str], Sample] = {}
    for kind, rows, whole in (("attack", with_origins(run.attacks or []), attacks), ("benign", run.benign, benign)):
        for sample in pick_samples(rows or [], benign=kind == "benign", whole=whole):
            drawn[(kind, sample.attack, sample.goal_id)] = sample
    by_key = {pair.key: pair for pair in pairs}
    shown = [(by_key[key].facets, sample) for key, sample in drawn.items() if key in by_key]
    rest = [pair for pair in pairs if pair.key not in drawn][: max(0, MAX_PAIRS - len(shown))]
    shown += [(pair.facets, sample_of(pair.status, pair.rows, pair.kind != "attack", SHORT)) for pair in rest]
    return {
        "samples": shown,
        "drawn": len(drawn),
        "choices": choices_of([by_key[key] for key in drawn if key in by_key] + rest),
        "kinds": KINDS,
        "left_out": len(pairs) - len(shown),
        "sampled": len(pairs_of(run)) - len(pairs),
    }
