"""What `compare.json` holds, as frozen values: the page and the table of `sirl compare` read these.

Shares are from 0 to 1; None where no seed has a figure. What each figure means is told in `sirl.compare.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sirl.results.values import Share
from sirl.stats import Estimate


@dataclass(frozen=True)
class Mean:
    """Mean, least and most over seeds; rates and d' have a 95% interval, rates one over `n` goals or prompts."""

    mean: float
    min: float | None = None
    max: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def share(self) -> Share:
        """A rate as charts take it."""
        return Share(self.mean, self.low, self.high, self.n or 0)


@dataclass(frozen=True)
class Start:
    """The same of the base model that the runs of a method began with."""

    dsr: Mean | None = None
    over_refusal: Mean | None = None


@dataclass(frozen=True)
class MethodResult:
    """A method over its seeds; `on_front` is None where it has no place in the picture."""

    model: str
    seeds: int
    description: str = ""
    source: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    start: Start = field(default_factory=Start)
    dominated_by: list[str] | None = None
    on_front: bool | None = None
    on_wrapped_front: bool | None = None
    dsr: Mean | None = None
    worst_case: Mean | None = None
    over_refusal: Mean | None = None
    plain: Mean | None = None
    sounds_harmful: Mean | None = None
    partly_refused: Mean | None = None
    wrapped: Mean | None = None
    empty: Mean | None = None
    empty_attacked: Mean | None = None
    choices: Mean | None = None
    distinct_refusals: Mean | None = None
    commonest_sentence: Mean | None = None
    kl: Mean | None = None
    perplexity_rise: Mean | None = None
    dprime: Mean | None = None
    train_seconds: Mean | None = None
    answer_seconds: Mean | None = None


@dataclass(frozen=True)
class RunResult:
    """One run: `status` is "done", or "failed" for a `reason`."""

    method: str
    seed: int
    status: str
    folder: str = ""
    reason: str = ""
    gap: str | None = None
    dsr_before: float | None = None
    change: Estimate | None = None
    rose: bool | None = None
    dsr: Share | None = None
    worst_case: Share | None = None
    over_refusal: Share | None = None
    plain: Share | None = None
    sounds_harmful: Share | None = None
    partly_refused: Share | None = None
    wrapped: Share | None = None
    empty: Share | None = None
    empty_attacked: Share | None = None
    choices: Share | None = None


@dataclass(frozen=True)
class Within:
    """The best checks of a method within the limit, and how many of its `trails` have one (`seeds`)."""

    dsr: Mean | None = None
    over_refusal: Mean | None = None
    seeds: int = 0
    trails: int = 0


@dataclass(frozen=True)
class AtEqual:
    """Who is ahead at equal over-refusal, on the development set."""

    limit: float
    methods: dict[str, Within]


@dataclass(frozen=True)
class Foretold:
    """The gap of a base model and what became of its DSR; `agrees` is None where that is not known."""

    model: str
    seed: int
    folder: str
    gap: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    dsr_before: float | None = None
    dsr_after: float | None = None
    change: Estimate | None = None
    rose: bool | None = None
    agrees: bool | None = None


@dataclass(frozen=True)
class Comparison:
    """All of it; `front` and `wrapped_front` name the methods that no other one dominates."""

    model: str
    methods: dict[str, MethodResult]
    front: list[str]
    rows: list[RunResult]
    gap: list[Foretold]
    seeds: list[int] = field(default_factory=list)
    wrapped_front: list[str] = field(default_factory=list)
    at_equal_over_refusal: AtEqual | None = None
