"""What was measured on the development set while a policy was trained, and which policy was deployed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of `development.jsonl`: shares from 0 to 1, d' with its interval, and `kl` in nats per token.

    None is what was not measured, or could not be scored.
    """

    step: int | None = None
    dsr: float | None = None
    over_refusal: float | None = None
    wrapped: float | None = None
    dprime: float | None = None
    dprime_low: float | None = None
    dprime_high: float | None = None
    empty: float | None = None
    distinct: float | None = None
    repetition: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Selection:
    """`chosen.json`: the check whose policy was deployed, by which rule, and the limit that ended training early."""

    chosen: Check | None = None
    rule: str | None = None
    ended_by: str | None = None

    @property
    def step(self) -> int | None:
        """Of which update the deployed policy is."""
        return self.chosen.step if self.chosen else None
