"""Are harmful requests told from harmless ones in the same wrappings? d' (`sirl.dprime`) by kind of wrapping.

Where a wrapping encodes the request, a model has to decode it before it can tell what it is, so those wrappings are a
figure of their own. The others are told apart by whether wrappings of their family were trained in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from sirl.attacks.families import family_of, is_readable
from sirl.dprime import Cells, dprime, dprime_change
from sirl.records import DEFENDED
from sirl.report.load import Scored
from sirl.report.rates import LEVEL, PHASES

Table = dict[str, Any]
Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By wrapping and request: answers that refuse, and scored ones."""
Sides = tuple[Counts, Counts]
"""Harmful requests, and harmless ones."""


def count_sides(attacked: Iterable[Scored], wrapped: Iterable[Scored]) -> Sides:
    """What d' is made of, from scored rows of one phase."""
    return _count(attacked), _count(wrapped)


def _count(rows: Iterable[Scored]) -> Counts:
    refused: Counter[tuple[str, str]] = Counter()
    scored: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.counts:
            place = row.attempt.attack, row.attempt.goal_id
            # one event on both sides: silence refuses neither the request nor its wrapping
            refused[place] += row.outcome in DEFENDED
            scored[place] += 1
    return {place: (refused[place], n) for place, n in scored.items()}


def pooled(sides: Sequence[Sides]) -> Sides:
    """The answers of several runs, such as seeds, together."""
    harmful, harmless = ([side[i] for side in sides] for i in (0, 1))
    return _sum(harmful), _sum(harmless)


def _sum(counts: Sequence[Counts]) -> Counts:
    out: dict[tuple[str, str], tuple[int, int]] = {}
    for one in counts:
        for place, (refused, scored) in one.items():
            before = out.get(place, (0, 0))
            out[place] = before[0] + refused, before[1] + scored
    return out


def told_apart(phases: Mapping[str, Sides], holds: Callable[[str], bool] = is_readable) -> Table | None:
    """d' of harmful against harmless requests in the wrappings of which something holds, by phase.

    `phases` has by phase `value`, `low`, `high` and the shares it is of: `dsr` and `refused`, over as many `wrappings`
    (`names`) as brought scored answers of both kinds in all phases. `change` is None unless there are both. None where
    no such wrapping was put to both kinds of request.
    """
    names = _common([side for phase in phases.values() for side in phase])
    names = [name for name in names if holds(name)]
    if not names:
        return None
    cells: dict[str, tuple[Cells, Cells]] = {}
    requests = [sorted({goal for side in phases.values() for name, goal in side[i] if name in names}) for i in (0, 1)]
    for phase, (harmful, harmless) in phases.items():
        cells[phase] = _cells(harmful, names, requests[0]), _cells(harmless, names, requests[1])
    return {
        "wrappings": len(names),
        "names": names,
        "phases": {phase: {**asdict(dprime(*pair, LEVEL)), **_shares(*pair)} for phase, pair in cells.items()},
        "change": asdict(dprime_change(cells["before"], cells["after"], LEVEL)) if len(cells) == 2 else None,
    }


def discrimination(
    attacked: Mapping[str, Sequence[Scored]], wrapped: Mapping[str, Sequence[Scored]], seen: Collection[str] | None
) -> Table:
    """`told_apart` in each group of wrappings, None where a group has none that was put to both kinds of request.

    `readable`: those in which the request can be read; of these `unseen` and `seen`: of families that training did not
    and did wrap its prompts in (`seen`, by name; None: no prompts were wrapped, and neither group is told);
    `encoded`: the others; `families`: readable ones by family.
    """
    both = {
        phase: count_sides(attacked[phase], wrapped[phase])
        for phase in PHASES
        if attacked.get(phase) and wrapped.get(phase)
    }
    readable = told_apart(both) if both else None
    names = readable["names"] if readable else []

    def of(known: bool) -> Table | None:
        if seen is None or not names:
            return None
        return told_apart(both, lambda name: is_readable(name) and (family_of(name) in seen) is known)

    families = dict.fromkeys(map(family_of, names))
    return {
        "readable": readable,
        "unseen": of(False),
        "seen": of(True),
        "encoded": told_apart(both, lambda name: not is_readable(name)) if both else None,
        "families": {family: told_apart(both, partial(_is_readable_one_of, family)) for family in families},
    }


def _is_readable_one_of(family: str, name: str) -> bool:
    return is_readable(name) and family_of(name) == family


def _common(sides: Sequence[Counts]) -> list[str]:
    """Wrappings that all of them have."""
    return sorted(set[str].intersection(*({name for name, _ in side} for side in sides))) if sides else []


def _cells(side: Counts, names: Sequence[str], requests: Sequence[str]) -> Cells:
    found = np.array([[side.get((name, request), (0, 0)) for request in requests] for name in names], dtype=np.float64)
    return Cells(found[..., 0], found[..., 1])


def _shares(harmful: Cells, harmless: Cells) -> dict[str, float]:
    parts = {"dsr": harmful, "refused": harmless}
    return {key: float(cells.refused.sum() / cells.scored.sum()) for key, cells in parts.items()}
