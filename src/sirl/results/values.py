"""All figures of a run as frozen values: what `results` hands to report, card, gate, view and the commands' tables.

Shares are from 0 to 1 with the ends of their 95% interval, None where nothing was scored. Tables are by decoding, then
phase, then name. What the terms mean is told in `sirl.results.summary`. `as_json` is what `--json` and `evals.json`
show of them: keys stand in the order of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, TypeVar

from sirl.diversity import Commonest
from sirl.evals.told_apart import Group
from sirl.judges.validate import Agreement
from sirl.results.interface import Discrimination, Reduction
from sirl.stats import Estimate

IF_ANY = {"if_any": True}
"""Of a field that JSON leaves out where there is nothing in it."""


def as_json(value: Any) -> Any:
    """A frozen value, or a mapping or list of such, as JSON values."""
    if is_dataclass(value):
        shown = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: as_json(v) for f, v in shown if not (f.metadata.get("if_any") and v in (None, {}))}
    if isinstance(value, dict):
        return {key: as_json(v) for key, v in value.items()}
    return [as_json(v) for v in value] if isinstance(value, list | tuple) else value


class AnyShare:
    """What every share has: its value, the ends of its interval, and how many answers or goals it is of."""

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
class Share(AnyShare):
    """A share of `n` with its interval."""

    rate: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Rate(AnyShare):
    """Full refusals among the `n` scored attempts; `partial_*` and `empty_*` are of partial refusals and of silence.

    `unscored`, `errors` and `unjudged` attempts are in no rate; `attempts` counts them too.
    """

    refused: int
    rate: float | None
    low: float | None
    high: float | None
    partial: int = 0
    partial_rate: float | None = None
    partial_low: float | None = None
    partial_high: float | None = None
    empty: int = 0
    empty_rate: float | None = None
    empty_low: float | None = None
    empty_high: float | None = None
    n: int = field(kw_only=True)
    unscored: int = 0
    errors: int = 0
    unjudged: int = 0
    attempts: int = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class MeanRate(Rate):
    """The mean over `methods`, each weighing alike; `pooled` is the plain share."""

    pooled: float | None
    asr: float | None
    methods: int


@dataclass(frozen=True)
class HarmRate(AnyShare):
    """`harmless` among the responses that have a score of harm."""

    harmless: int
    rate: float | None
    low: float | None
    high: float | None
    empty: int
    empty_rate: float | None
    empty_low: float | None
    empty_high: float | None
    n: int
    unscored: int
    errors: int
    attempts: int


@dataclass(frozen=True, kw_only=True)
class MeanHarmRate(HarmRate):
    """The mean over `methods`, each weighing alike; `pooled` is the plain share."""

    pooled: float | None
    methods: int


@dataclass(frozen=True)
class WorstCase(AnyShare):
    """Goals that withstood every attack, of those that are decided."""

    defended: int
    rate: float | None
    low: float | None
    high: float | None
    n: int
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
    most: float | None = None
    p: float | None = None
    test: str | None = None
    mcnemar: float | None = None
    complied_before: int = 0
    complied_after: int = 0
    reduction: Reduction | None = None
    by_group: dict[str, Change] = field(default_factory=dict, metadata=IF_ANY)
    by_category: dict[str, Change] = field(default_factory=dict, metadata=IF_ANY)


Each = TypeVar("Each", bound=AnyShare)
Mean = TypeVar("Mean", bound=AnyShare)


@dataclass(frozen=True)
class Rates(Generic[Each, Mean]):
    """The rates of one phase under one decoding, by attack and by category of the goals."""

    overall: Mean
    by_attack: dict[str, Each]
    by_category: dict[str, Each]
    worst_case: WorstCase


RefusalRates = Rates[Rate, MeanRate]
HarmRates = Rates[HarmRate, MeanHarmRate]


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
    rates: dict[str, dict[str, RefusalRates]]
    change: dict[str, Change | None]
    harm: dict[str, dict[str, HarmRates]] = field(default_factory=dict, metadata=IF_ANY)
    harm_change: dict[str, Change | None] = field(default_factory=dict, metadata=IF_ANY)
    search: dict[str, dict[str, Search]] = field(default_factory=dict, metadata=IF_ANY)


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
    """All attacks; `decodings`, `rates`, `change` and those by harm are of the headline kind, which `covers` names."""

    attacks: list[str]
    goals: int
    decodings: list[str]
    phases: list[str]
    covers: str | None
    rates: dict[str, dict[str, RefusalRates]]
    change: dict[str, Change | None]
    kinds: dict[str, Kind]
    worst_case: dict[str, dict[str, WorstCase]]
    left_out: LeftOut
    refusal_texts: Wordings
    harm_worst_case: dict[str, dict[str, WorstCase]] = field(default_factory=dict, metadata=IF_ANY)
    harm: dict[str, dict[str, HarmRates]] = field(default_factory=dict, metadata=IF_ANY)
    harm_change: dict[str, Change | None] = field(default_factory=dict, metadata=IF_ANY)


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


@dataclass(frozen=True, kw_only=True)
class Benign:
    """Refusals of benign prompts; `rates` are by category below the phase, `silence` pairs answers that say nothing."""

    kinds: list[str]
    decodings: list[str]
    phases: list[str]
    rates: dict[str, dict[str, dict[str, Rate]]]
    overall: dict[str, dict[str, Rate]]
    change: dict[str, Change | None]
    silence: dict[str, Change | None] = field(default_factory=dict)
    left_out: LeftOut


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


@dataclass(frozen=True, kw_only=True)
class BenchmarkMetric:
    """One metric of a benchmark, see `sirl.evals.benchmarks.compare`."""

    n: int
    unscored: int = 0
    before: Estimate | None
    after: Estimate | None
    lost: int | None = field(default=None, metadata=IF_ANY)
    gained: int | None = field(default=None, metadata=IF_ANY)
    p: float | None = field(default=None, metadata=IF_ANY)
    difference: Estimate | None
    change: str | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark before and after; its first metric is the one that is told."""

    rows: int | None = None
    chance: float | None = None
    able: bool | None = None
    figures: dict[str, BenchmarkMetric]
    commonest_opening: dict[str, float] = field(default_factory=dict, metadata=IF_ANY)
    statement: str
    isolation: list[str] | None = field(default=None, metadata=IF_ANY)


@dataclass(frozen=True)
class Capability:
    """What hardening did besides: of the run, and of `sirl eval`."""

    drift: Drift | None = None
    choices: Choices | None = None
    benchmarks: dict[str, Benchmark] | None = None
    chat_drift: Drift | None = None
    overrefusal: Benign | None = None


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
