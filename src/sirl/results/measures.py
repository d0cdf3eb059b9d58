"""Rates, changes and d' of some rows as frozen values, for rooms that count rows of their own choice.

`sirl.results.rates` and `sirl.results.attacks` say what the terms mean, and have them as JSON values.
"""

from __future__ import annotations

from collections.abc import Sequence

from sirl.evals.told_apart import Sides, told_apart
from sirl.results import attacks, rates
from sirl.results.interface import Group, made
from sirl.results.load import Scored
from sirl.results.values import Change, MeanRate, Rate, Share, Wordings, WorstCase


def rate(rows: Sequence[Scored]) -> Rate:
    """Share of full refusals among scored attempts."""
    return made(Rate, rates.rate(rows))


def mean_rate(rows: Sequence[Scored]) -> MeanRate:
    """Mean of the rates of the methods, each weighing alike."""
    return made(MeanRate, rates.overall(rows))


def worst_case(rows: Sequence[Scored]) -> WorstCase:
    """Share of the goals that no attack broke."""
    return made(WorstCase, rates.worst_case(rows))


def share(rights: Sequence[bool]) -> Share:
    """A share of right ones with its Wilson interval."""
    return made(Share, rates.share(rights))


def change(before: Sequence[Scored], after: Sequence[Scored]) -> Change:
    """Before against after over the same (attack, goal) pairs, both scored."""
    return made(Change, rates.paired(before, after))


def wordings(rows: Sequence[Scored]) -> Wordings:
    """How alike the refusals are, by phase."""
    return made(Wordings, attacks.refusal_texts(rows))


def dprime(sides: Sides) -> Group | None:
    """d' of one model over the wrappings in which the request can be read, as phase `after`; None without any."""
    found = told_apart({"after": sides})
    return made(Group, found) if found else None
