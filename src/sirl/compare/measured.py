"""What is known of one run of a comparison, and means over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sirl.evals.told_apart import Sides
from sirl.results.development import Check

Table = dict[str, Any]
Units = dict[str, tuple[float, float]]
"""Refused and scored answers, by goal or prompt."""
STARTS = ("dsr", "over_refusal")
"""Rates of which a run has the base model's as well."""
LEAST_RISE = 0.1
"""Of the DSR, for it to have risen. Rewarding noise has moved it by half of that, beyond chance over goals."""


@dataclass(frozen=True)
class Failed:
    """A run without figures, and why in one line."""

    reason: str


@dataclass(frozen=True)
class Measured:
    """The figures of a run, and what its rates are made of: by name, units (`start/NAME`: of the base model).

    `told` has what d' is made of: refusals of harmful and of benign requests in the same wrappings.
    `strata` has the units of `CLUSTERED` rates once more, by attack, as those are means over attacks. `trail` has the
    checks on the development set while it was trained, `deployed` the one whose policy was deployed.
    """

    row: Table
    units: dict[str, Units]
    trail: Sequence[Check] = ()
    deployed: Check | None = None
    strata: Mapping[str, Sequence[Units]] = field(default_factory=dict)
    told: Sides | None = None


def spread(values: Sequence[float]) -> Table | None:
    """Mean, least and most over seeds; None where no seed has a value."""
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values)} if values else None
