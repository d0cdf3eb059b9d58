"""The metrics that `sirl gate` has rules on: how each is read from the summary of a run.

Nothing is counted here: every value and interval is one of `sirl.results.results_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from sirl.evals.told_apart import Interval
from sirl.report.prices import PERPLEXITY, Price, asked_by_eval, measured
from sirl.report.wording import KIND_NAMES
from sirl.results.values import AnyShare, Benign, Change, Kind, MeanRate, Rate, RefusalRates, Results

Phase = TypeVar("Phase")
ATTACK_PREFIX = "dsr:"
KINDS = ("static", "reoptimised", "transferred")
BOTH = "needs the model before and after"
ATTACKS = "no attack of this kind was run and judged"
BENIGN = "no benign prompts were asked and judged"
WRAPPED = "no benign prompts were asked in the attacks' wrappings (evals.wrappings)"


@dataclass(frozen=True)
class Reading:
    """A value with the ends of its 95% interval; all three alike where it is a count of what happened."""

    value: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        return self.low == self.value == self.high


@dataclass(frozen=True)
class Metric:
    """`read` gives None where the metric was not measured; `needs` says what is missing then. Of a `price` only the
    high end is known, so it has no `min`."""

    description: str
    read: Callable[[Results], Reading | None]
    needs: str
    share: bool = True
    price: bool = False


def _latest(phases: Mapping[str, Phase]) -> Phase | None:
    """Of the model after hardening, or of the only one that was asked."""
    return phases.get("after") or phases.get("before")


def _reading(*ends: float | None) -> Reading | None:
    known = [end for end in ends if end is not None]
    return Reading(*known) if len(known) == len(ends) else None


def _rate(table: AnyShare | None) -> Reading | None:
    return _reading(table.rate, table.low, table.high) if table else None


def _silence(table: Rate | None) -> Reading | None:
    return _reading(table.empty_rate, table.empty_low, table.empty_high) if table else None


def _rise(change: Change | None) -> Reading | None:
    """The change over pairs; the high end is the cautious one, which keeps its width where nothing changed."""
    if change is None or change.change is None or not change.interval:
        return None
    low, high = change.interval
    return Reading(change.change, low, max(high, change.most or high))


def _estimate(found: Interval | None) -> Reading | None:
    return _reading(found.value, found.low, found.high) if found else None


def _exact(value: float | None) -> Reading | None:
    return None if value is None else Reading(value, value, value)


# --- attacks ----------------------------------------------------------------------------------------------------------


def _kind(results: Results, kind: str | None) -> Kind | None:
    attack = results.attack
    return attack.kinds.get(kind or attack.covers or "") if attack else None


def _greedy(kind: Kind | None) -> RefusalRates | None:
    return _latest(kind.rates.get("greedy", {})) if kind else None


def _overall(results: Results, kind: str | None = None) -> MeanRate | None:
    found = _greedy(_kind(results, kind))
    return found.overall if found else None


def _dsr(kind: str | None = None) -> Callable[[Results], Reading | None]:
    return lambda results: _rate(_overall(results, kind))


def _harm_dsr(results: Results) -> Reading | None:
    kind = _kind(results, None)
    found = _latest(kind.harm.get("greedy", {})) if kind else None
    return _rate(found.overall) if found else None


def _dsr_rise(kind: str | None = None) -> Callable[[Results], Reading | None]:
    def read(results: Results) -> Reading | None:
        found = _kind(results, kind)
        return _rise(found.change.get("greedy")) if found else None

    return read


def _by_attack(results: Results) -> dict[str, Reading]:
    found: dict[str, Reading] = {}
    for kind in results.attack.kinds.values() if results.attack else ():
        tables = _greedy(kind)
        for name, table in tables.by_attack.items() if tables else ():
            reading = _rate(table)
            if reading:
                found[name] = reading
    return found


def _weakest(results: Results) -> Reading | None:
    """Over all attacks, the lowest value and the lowest ends."""
    found = list(_by_attack(results).values())
    return Reading(*(min(getattr(r, end) for r in found) for end in ("value", "low", "high"))) if found else None


def _worst_case(results: Results) -> Reading | None:
    return _rate(_latest(results.attack.worst_case.get("greedy", {}))) if results.attack else None


def _empty(results: Results) -> Reading | None:
    return _silence(_overall(results))


def _unscored(results: Results) -> Reading | None:
    table = _overall(results)
    return _exact(1 - table.n / table.attempts) if table and table.attempts else None


def _truncation(key: Literal["cut_rate", "dsr_rechecked"]) -> Callable[[Results], Reading | None]:
    def read(results: Results) -> Reading | None:
        covers = results.attack.covers if results.attack else None
        found = _latest((results.truncation or {}).get(covers or "", {}))
        return _exact(getattr(found.overall, key)) if found else None

    return read


def named_attack(attack: str) -> Metric:
    """The metric `dsr:ATTACK`: the DSR of one attack."""
    return Metric(
        f"DSR of the attack {attack}", lambda r: _by_attack(r).get(attack), f"{attack} was not run and judged"
    )


# --- benign prompts ---------------------------------------------------------------------------------------------------


def _asked(results: Results) -> Benign | None:
    """The benign prompts of the run, or else those of `sirl eval`."""
    return results.benign or asked_by_eval(results)


def _all_benign(results: Results) -> Rate | None:
    asked = _asked(results)
    return _latest(asked.overall.get("greedy", {})) if asked else None


def _benign_change(results: Results) -> Change | None:
    asked = _asked(results)
    return asked.change.get("greedy") if asked else None


def _category(name: str) -> Callable[[Results], Reading | None]:
    def read(results: Results) -> Reading | None:
        asked = _asked(results)
        found = _latest(asked.rates.get("greedy", {})) if asked else None
        return _rate(found.get(name)) if found else None

    return read


def _category_rise(name: str) -> Callable[[Results], Reading | None]:
    def read(results: Results) -> Reading | None:
        change = _benign_change(results)
        return _rise(change.by_group.get(name)) if change else None

    return read


def _adversarial(results: Results) -> Reading | None:
    found = _latest(results.wrapped.rates) if results.wrapped else None
    return _rate(found.overall) if found else None


def _adversarial_rise(results: Results) -> Reading | None:
    return _rise(results.wrapped.change) if results.wrapped else None


def _dprime(results: Results) -> Reading | None:
    told = results.wrapped.dprime if results.wrapped else None
    return _estimate(_latest(told.phases)) if told else None


def _dprime_change(results: Results) -> Reading | None:
    told = results.wrapped.dprime if results.wrapped else None
    return _estimate(told.change) if told else None


# --- abilities --------------------------------------------------------------------------------------------------------


def _worst_price(belongs: Callable[[Price], bool]) -> Callable[[Results], Reading | None]:
    """The price that may have risen most."""

    def read(results: Results) -> Reading | None:
        found = [price for price in measured(results) if belongs(price)]
        worst = max(found, key=lambda price: price.most, default=None)
        return Reading(worst.rise, worst.rise, worst.most) if worst else None

    return read


METRICS: dict[str, Metric] = {
    "dsr": Metric("mean DSR over the attacks of the headline kind", _dsr(), ATTACKS),
    "dsr_rise": Metric("its change over pairs", _dsr_rise(), f"{ATTACKS}, or {BOTH}"),
    **{f"dsr_{kind}": Metric(f"mean DSR over the {kind} attacks", _dsr(kind), ATTACKS) for kind in KINDS},
    **{
        f"dsr_{kind}_rise": Metric(f"its change over pairs, {kind}", _dsr_rise(kind), f"{ATTACKS}, or {BOTH}")
        for kind in KINDS
    },
    "weakest_dsr": Metric("DSR of the attack that works best", _weakest, ATTACKS),
    "worst_case_dsr": Metric("goals that withstood every attack", _worst_case, ATTACKS),
    "harm_dsr": Metric("mean DSR by harm", _harm_dsr, "no judge gave scores of harm"),
    "empty": Metric("answers to attacks that say nothing", _empty, ATTACKS),
    "unscored": Metric("attack attempts without a verdict, errors included", _unscored, ATTACKS),
    "cut_refusals": Metric("refusals that the token limit cut off", _truncation("cut_rate"), "there are no refusals"),
    "rechecked_dsr": Metric(
        "DSR with cut refusals asked again", _truncation("dsr_rechecked"), "no refusal was cut off and asked again"
    ),
    "benign_refusal": Metric(
        "benign prompts refused or left without an answer", lambda r: _rate(_all_benign(r)), BENIGN
    ),
    "benign_refusal_rise": Metric("its change over pairs", lambda r: _rise(_benign_change(r)), f"{BENIGN}, or {BOTH}"),
    "benign_empty": Metric("benign prompts left without an answer", lambda r: _silence(_all_benign(r)), BENIGN),
    **{f"{kind}_refusal": Metric(f"the same of {KIND_NAMES[kind]}", _category(kind), BENIGN) for kind in KIND_NAMES},
    **{
        f"{kind}_refusal_rise": Metric(
            f"the change over pairs of {KIND_NAMES[kind]}", _category_rise(kind), f"{BENIGN}, or {BOTH}"
        )
        for kind in KIND_NAMES
    },
    "adversarial_benign": Metric("benign prompts refused in the attacks' wrappings", _adversarial, WRAPPED),
    "adversarial_benign_rise": Metric("its change over pairs", _adversarial_rise, f"{WRAPPED}, or {BOTH}"),
    "dprime": Metric(
        "d' of harmful against benign requests in the same wrappings",
        _dprime,
        WRAPPED,
        share=False,
    ),
    "dprime_change": Metric("its change", _dprime_change, f"{WRAPPED}, or {BOTH}", share=False),
    "ability_fall": Metric(
        "the largest rise of wrong answers, over multiple choice and benchmarks",
        _worst_price(lambda price: price.name.startswith("wrong answers")),
        "no multiple choice and no benchmark was run before and after",
        price=True,
    ),
    "perplexity_rise": Metric(
        "rise of the perplexity of the base model's answers, as a share",
        _worst_price(lambda price: price.name == PERPLEXITY),
        "drift was not measured",
        share=False,
        price=True,
    ),
}
"""What rules can be on, by name; `dsr:ATTACK` besides, for each attack."""
