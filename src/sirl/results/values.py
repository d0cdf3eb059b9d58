"""All figures of a run as frozen values: what `results` hands to report, card, gate, view and the commands' tables.

Shares are from 0 to 1 with the ends of their 95% interval, None where nothing was scored. Tables are by decoding, then
phase, then name. What the terms mean is told in `sirl.results.summary`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sirl.diversity import Commonest
from sirl.results.interface import Discrimination, Group, Reduction
from sirl.stats import Estimate


@dataclass(frozen=True)
class Share:
    """A share of `n` with its interval."""

    rate: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def ends(self) -> tuple[float, float, float] | None:
        """The share and its interval, or None where nothing was scored."""
        if self.rate is None or self.low is None or self.high is None:
            return None
        return self.rate, self.low, self.high


@dataclass(frozen=True)
class Rate(Share):
    """Full refusals among scored attempts; `partial_*` and `empty_*` are of partial refusals and of silence.

    `unscored`, `errors` and `unjudged` attempts are in no rate; `attempts` counts them too.
    """

    refused: int
    attempts: int
    unscored: int = 0
    errors: int = 0
    unjudged: int = 0
    partial: int = 0
    partial_rate: float | None = None
    partial_low: float | None = None
    partial_high: float | None = None
    empty: int = 0
    empty_rate: float | None = None
    empty_low: float | None = None
    empty_high: float | None = None


@dataclass(frozen=True)
class MeanRate(Rate):
    """The mean over `methods`, each weighing alike; `pooled` is the plain share."""

    pooled: float | None = None
    asr: float | None = None
    methods: int = 0


@dataclass(frozen=True)
class HarmRate(Share):
    """`harmless` among the responses that have a score of harm."""

    harmless: int
    attempts: int
    unscored: int = 0
    errors: int = 0
    empty: int = 0
    empty_rate: float | None = None
    pooled: float | None = None
    methods: int = 0


@dataclass(frozen=True)
class WorstCase(Share):
    """Goals that withstood every attack, of those that are decided."""

    defended: int
    undecided: int


@dataclass(frozen=True)
class LeftOut:
    """Attempts that are in no rate."""

    errors: int = 0
    unscored: int = 0
    unjudged: int = 0


@dataclass(frozen=True)
class Change:
    """Before against after over pairs, see `sirl.results.rates.paired`."""

    pairs: int
    fixed: int
    regressed: int
    change: float | None = None
    interval: list[float] | None = None
    p: float | None = None
    test: str | None = None
    most: float | None = None
    mcnemar: float | None = None
    complied_before: int = 0
    complied_after: int = 0
    reduction: Reduction | None = None
    by_group: dict[str, Change] = field(default_factory=dict)
    by_category: dict[str, Change] = field(default_factory=dict)


@dataclass(frozen=True)
class Rates:
    """The rates of one phase under one decoding."""

    overall: MeanRate
    by_attack: dict[str, Rate]
    by_category: dict[str, Rate]
    worst_case: WorstCase


@dataclass(frozen=True)
class HarmRates:
    """The same by harm."""

    overall: HarmRate
    by_attack: dict[str, HarmRate]
    by_category: dict[str, HarmRate]
    worst_case: WorstCase


@dataclass(frozen=True)
class Search:
    """What the searches of one attack against one model took, see `sirl.results.attacks.search_figures`."""

    goals: int
    budget: int | None
    start: Share
    found: Share
    found_only: int
    p: float | None
    queries: float | None
    broken: int
    to_break: float | None
    to_break_of_broken: float | None
    seconds: float | None
    flops: float | None


@dataclass(frozen=True)
class Kind:
    """Attacks of one kind; `search` is by phase and attack."""

    attacks: list[str]
    decodings: list[str]
    rates: dict[str, dict[str, Rates]]
    change: dict[str, Change | None]
    harm: dict[str, dict[str, HarmRates]] = field(default_factory=dict)
    harm_change: dict[str, Change | None] = field(default_factory=dict)
    search: dict[str, dict[str, Search]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wording:
    """How alike the refusals of one phase are."""

    refusals: int
    distinct_share: float
    opening: Commonest
    closing: Commonest
    anywhere: Commonest


@dataclass(frozen=True)
class Wordings:
    """`collapsed`: whether a template took over; None where one phase has no refusals."""

    decoding: str | None
    phases: dict[str, Wording]
    collapsed: bool | None


@dataclass(frozen=True)
class Attacks:
    """All attacks; `decodings`, `rates` and `change` are those of the headline kind, which `covers` names."""

    attacks: list[str]
    goals: int
    phases: list[str]
    covers: str | None
    kinds: dict[str, Kind]
    decodings: list[str]
    rates: dict[str, dict[str, Rates]]
    change: dict[str, Change | None]
    worst_case: dict[str, dict[str, WorstCase]]
    left_out: LeftOut
    refusal_texts: Wordings
    harm_worst_case: dict[str, dict[str, WorstCase]] = field(default_factory=dict)


@dataclass(frozen=True)
class Truncated:
    """Refusals that the token limit cut off, see `sirl.results.truncated`."""

    refusals: int
    cut: int
    cut_rate: float | None
    asked_again: int
    recanted: int
    still_cut: int
    dsr: float | None
    dsr_rechecked: float | None


@dataclass(frozen=True)
class Truncation:
    """The same over all attacks of a kind, and by attack."""

    overall: Truncated
    by_attack: dict[str, Truncated]


@dataclass(frozen=True)
class Benign:
    """Refusals of benign prompts; `rates` are by category below the phase, `silence` pairs answers that say nothing."""

    kinds: list[str]
    decodings: list[str]
    phases: list[str]
    rates: dict[str, dict[str, dict[str, Rate]]]
    overall: dict[str, dict[str, Rate]]
    change: dict[str, Change | None]
    left_out: LeftOut
    silence: dict[str, Change | None] = field(default_factory=dict)


@dataclass(frozen=True)
class WrappedRates:
    """Refusals of one phase, by wrapping and their mean."""

    overall: MeanRate
    by_attack: dict[str, Rate]


@dataclass(frozen=True)
class Wrapped:
    """Refusals of adversarial benign requests: `prompts` of them, in each wrapping of `attacks`."""

    attacks: list[str]
    prompts: int
    phases: list[str]
    rates: dict[str, WrappedRates]
    change: Change | None
    dprime: Group | None
    told: Discrimination
    left_out: LeftOut


@dataclass(frozen=True)
class Drift:
    """KL to the base model (nats per token) and perplexities on its own answers, see `sirl.evals.drift`."""

    answers: int
    tokens: int
    kl: Estimate
    perplexity_before: float
    perplexity_after: float
    perplexity_rise: Estimate


@dataclass(frozen=True)
class Choices:
    """Multiple choice: shares of right answers, and questions `lost` and `gained`."""

    questions: int
    before: Share
    after: Share
    lost: int
    gained: int
    p: float


@dataclass(frozen=True)
class BenchmarkMetric:
    """One metric of a benchmark, see `sirl.evals.benchmarks.compare`."""

    n: int
    before: Estimate | None
    after: Estimate | None
    difference: Estimate | None
    change: str | None = None
    unscored: int = 0
    lost: int | None = None
    gained: int | None = None
    p: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark before and after; its first metric is the one that is told."""

    figures: dict[str, BenchmarkMetric]
    statement: str
    rows: int | None = None
    chance: float | None = None
    able: bool | None = None
    isolation: list[str] | None = None


@dataclass(frozen=True)
class Capability:
    """What hardening did besides: of the run, and of `sirl eval`."""

    drift: Drift | None = None
    choices: Choices | None = None
    benchmarks: dict[str, Benchmark] | None = None
    chat_drift: Drift | None = None
    overrefusal: Benign | None = None


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree, see `sirl.judges.validate.judge_agreement`."""

    judges: list[str]
    on: str
    n: int
    agreed: int
    kappa: float | None


@dataclass(frozen=True)
class Results:
    """All figures of a run; None for a stage that was not run. `gap` is the content of `gap.json`."""

    run: str
    judges: list[str]
    agreement: list[Agreement]
    gap: dict[str, Any] | None
    attack: Attacks | None
    truncation: dict[str, dict[str, Truncation]] | None
    benign: Benign | None
    wrapped: Wrapped | None
    capability: Capability | None
    steps: int | None
    seconds: dict[str, float]
    interval_note: str
