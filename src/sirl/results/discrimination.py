"""Are harmful requests told from harmless ones in the same wrappings? d' by kind and family of wrapping.

Wrappings that encode the request are a figure of their own. The others are told apart by whether wrappings of their
family were trained in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from sirl.attacks.families import family_of, is_readable
from sirl.evals.told_apart import Group, Sides, count, told_apart
from sirl.results.interface import Discrimination
from sirl.results.load import Scored
from sirl.results.rates import PHASES


def count_sides(attacked: Iterable[Scored], wrapped: Iterable[Scored]) -> Sides:
    """What d' is made of, from rows of one phase."""
    harmful, harmless = (
        count((row.attempt, row.outcome) for row in rows if row.counts)  # type: ignore[misc]  # scored: a label
        for rows in (attacked, wrapped)
    )
    return harmful, harmless


def discrimination(
    attacked: Mapping[str, Sequence[Scored]], wrapped: Mapping[str, Sequence[Scored]], seen: Collection[str] | None
) -> Discrimination:
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
    names = readable.names if readable else []

    def of(known: bool) -> Group | None:
        if seen is None or not names:
            return None
        return told_apart(both, lambda name: is_readable(name) and (family_of(name) in seen) is known)

    families = dict.fromkeys(map(family_of, names))
    return Discrimination(
        readable=readable,
        unseen=of(False),
        seen=of(True),
        encoded=told_apart(both, lambda name: not is_readable(name)) if both else None,
        families={family: told_apart(both, partial(_is_readable_one_of, family)) for family in families},
    )


def _is_readable_one_of(family: str, name: str) -> bool:
    return is_readable(name) and family_of(name) == family
