"""Harmful requests against benign ones in the same wrappings: d' (`sirl.dprime`) from answers with their labels.

Where a wrapping encodes the request, a model has to decode it before it can tell what it is, so d' is of the others
unless it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sirl.attacks.families import is_readable
from sirl.dprime import Cells, dprime, dprime_change
from sirl.records import DEFENDED, Attempt, Label

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By wrapping and request: answers that refuse, and scored ones."""
Sides = tuple[Counts, Counts]
"""Harmful requests, and benign ones."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95% interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ToldApart(Interval):
    """d' of one phase, and the two shares (0 to 1) that it is made of: harmful defended, harmless refused."""

    dsr: float | None = None
    refused: float | None = None


@dataclass(frozen=True)
class Group:
    """d' over the wrappings called `names`, by phase; `change` is None unless there are two phases."""

    wrappings: int
    names: list[str]
    phases: dict[str, ToldApart]
    change: Interval | None


def count(rows: Iterable[tuple[Attempt, Label]]) -> Counts:
    """Scored answers to one kind of request, by wrapping and request."""
    refused: Counter[tuple[str, str]] = Counter()
    scored: Counter[tuple[str, str]] = Counter()
    for attempt, label in rows:
        place = attempt.attack, attempt.goal_id
        # one event on both sides: silence refuses neither the request nor its wrapping
        refused[place] += label in DEFENDED
        scored[place] += 1
    return {place: (refused[place], n) for place, n in scored.items()}


def pooled(sides: Sequence[Sides]) -> Sides:
    """The answers of several runs, such as seeds, together."""
    harmful, benign = ([side[i] for side in sides] for i in (0, 1))
    return _sum(harmful), _sum(benign)


def _sum(counts: Sequence[Counts]) -> Counts:
    out: dict[tuple[str, str], tuple[int, int]] = {}
    for one in counts:
        for place, (refused, scored) in one.items():
            before = out.get(place, (0, 0))
            out[place] = before[0] + refused, before[1] + scored
    return out


def told_apart(phases: Mapping[str, Sides], holds: Callable[[str], bool] = is_readable) -> Group | None:
    """d' of harmful against benign requests in the wrappings of which something holds, by phase.

    It is over the wrappings that brought scored answers of both kinds in all phases; None where there are none.
    """
    names = _common([side for phase in phases.values() for side in phase])
    names = [name for name in names if holds(name)]
    if not names:
        return None
    cells: dict[str, tuple[Cells, Cells]] = {}
    requests = [sorted({goal for side in phases.values() for name, goal in side[i] if name in names}) for i in (0, 1)]
    for phase, (harmful, benign) in phases.items():
        cells[phase] = _cells(harmful, names, requests[0]), _cells(benign, names, requests[1])
    change = dprime_change(cells["before"], cells["after"], 0.95) if len(cells) == 2 else None
    return Group(
        wrappings=len(names),
        names=names,
        phases={phase: _told(*pair) for phase, pair in cells.items()},
        change=Interval(change.value, change.low, change.high) if change else None,
    )


def _told(harmful: Cells, benign: Cells) -> ToldApart:
    found = dprime(harmful, benign, 0.95)
    shares = (float(cells.refused.sum() / cells.scored.sum()) for cells in (harmful, benign))
    return ToldApart(found.value, found.low, found.high, *shares)


def _common(sides: Sequence[Counts]) -> list[str]:
    """Wrappings that all of them have."""
    return sorted(set[str].intersection(*({name for name, _ in side} for side in sides))) if sides else []


def _cells(side: Counts, names: Sequence[str], requests: Sequence[str]) -> Cells:
    found = np.array([[side.get((name, request), (0, 0)) for request in requests] for name in names], dtype=np.float64)
    return Cells(found[..., 0], found[..., 1])
