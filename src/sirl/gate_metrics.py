"""The metrics that `sirl gate` has rules on: how each is read from the summary of a run.

Nothing is counted here: every value and interval is one of `sirl.report.summarise_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sirl.report.prices import PERPLEXITY, Price, asked_by_eval, measured
from sirl.report.wording import KIND_NAMES

Summary = Mapping[str, Any]
ATTACK_PREFIX = "dsr:"
KINDS = ("static", "reoptimised", "transferred")
BOTH = "needs the model before and after"
ATTACKS = "no attack of this kind was run and judged"
BENIGN = "no benign prompts were asked and judged"
WRAPPED = "no benign prompts were put in the attacks' templates (evals.wrappings)"


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
    read: Callable[[Summary], Reading | None]
    needs: str
    share: bool = True
    price: bool = False


def _dig(value: Any, *keys: str | None) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _latest(phases: Any) -> Any:
    """Of the model after hardening, or of the only one that was asked."""
    return _dig(phases, "after") or _dig(phases, "before")


def _rate(table: Any, prefix: str = "") -> Reading | None:
    ends = [_dig(table, prefix + key) for key in ("rate", "low", "high")]
    return None if any(end is None for end in ends) else Reading(*ends)


def _rise(change: Any) -> Reading | None:
    """The change over pairs; the high end is the cautious one, which keeps its width where nothing changed."""
    value, interval = _dig(change, "change"), _dig(change, "interval")
    if value is None or not interval:
        return None
    return Reading(value, interval[0], max(interval[1], _dig(change, "most") or interval[1]))


def _estimate(table: Any) -> Reading | None:
    ends = [_dig(table, key) for key in ("value", "low", "high")]
    return None if any(end is None for end in ends) else Reading(*ends)


def _exact(value: float | None) -> Reading | None:
    return None if value is None else Reading(value, value, value)


# --- attacks ----------------------------------------------------------------------------------------------------------


def _kind(summary: Summary, kind: str | None) -> Any:
    attack = summary["attack"]
    return _dig(attack, "kinds", kind or _dig(attack, "covers"))


def _dsr(kind: str | None = None, part: str = "rates") -> Callable[[Summary], Reading | None]:
    return lambda summary: _rate(_dig(_latest(_dig(_kind(summary, kind), part, "greedy")), "overall"))


def _dsr_rise(kind: str | None = None) -> Callable[[Summary], Reading | None]:
    return lambda summary: _rise(_dig(_kind(summary, kind), "change", "greedy"))


def _by_attack(summary: Summary) -> dict[str, Reading]:
    found: dict[str, Reading] = {}
    for tables in (_dig(summary["attack"], "kinds") or {}).values():
        for name, table in (_dig(_latest(_dig(tables, "rates", "greedy")), "by_attack") or {}).items():
            reading = _rate(table)
            if reading:
                found[name] = reading
    return found


def _weakest(summary: Summary) -> Reading | None:
    """Over all attacks, the lowest value and the lowest ends."""
    found = list(_by_attack(summary).values())
    return Reading(*(min(getattr(r, end) for r in found) for end in ("value", "low", "high"))) if found else None


def _worst_case(summary: Summary) -> Reading | None:
    return _rate(_latest(_dig(summary["attack"], "worst_case", "greedy")))


def _empty(summary: Summary) -> Reading | None:
    return _rate(_dig(_latest(_dig(_kind(summary, None), "rates", "greedy")), "overall"), "empty_")


def _unscored(summary: Summary) -> Reading | None:
    table = _dig(_latest(_dig(_kind(summary, None), "rates", "greedy")), "overall")
    attempts = _dig(table, "attempts")
    return _exact(1 - table["n"] / attempts) if attempts else None


def _truncation(key: str) -> Callable[[Summary], Reading | None]:
    def read(summary: Summary) -> Reading | None:
        covered = _dig(summary["truncation"], _dig(summary["attack"], "covers"))
        return _exact(_dig(_latest(covered), "overall", key))

    return read


def named_attack(attack: str) -> Metric:
    """The metric `dsr:ATTACK`: the DSR of one attack."""
    return Metric(
        f"DSR of the attack {attack}", lambda s: _by_attack(s).get(attack), f"{attack} was not run and judged"
    )


# --- benign prompts ---------------------------------------------------------------------------------------------------


def _asked(summary: Summary) -> Any:
    """The benign prompts of the run, or else those of `sirl eval`."""
    return summary["benign"] or asked_by_eval(summary)


def _benign(prefix: str = "") -> Callable[[Summary], Reading | None]:
    return lambda summary: _rate(_latest(_dig(_asked(summary), "overall", "greedy")), prefix)


def _benign_rise(summary: Summary) -> Reading | None:
    return _rise(_dig(_asked(summary), "change", "greedy"))


def _category(name: str) -> Callable[[Summary], Reading | None]:
    return lambda summary: _rate(_dig(_latest(_dig(_asked(summary), "rates", "greedy")), name))


def _category_rise(name: str) -> Callable[[Summary], Reading | None]:
    return lambda summary: _rise(_dig(_asked(summary), "change", "greedy", "by_group", name))


def _adversarial(summary: Summary) -> Reading | None:
    return _rate(_dig(_latest(_dig(summary["wrapped"], "rates")), "overall"))


# --- abilities --------------------------------------------------------------------------------------------------------


def _worst_price(belongs: Callable[[Price], bool]) -> Callable[[Summary], Reading | None]:
    """The price that may have risen most."""

    def read(summary: Summary) -> Reading | None:
        found = [price for price in measured(summary) if belongs(price)]
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
    "harm_dsr": Metric("mean DSR by harm", _dsr(part="harm"), "no judge gave scores of harm"),
    "empty": Metric("answers to attacks that say nothing", _empty, ATTACKS),
    "unscored": Metric("attack attempts without a verdict, errors included", _unscored, ATTACKS),
    "cut_refusals": Metric("refusals that the token limit cut off", _truncation("cut_rate"), "there are no refusals"),
    "rechecked_dsr": Metric(
        "DSR with cut refusals asked again", _truncation("dsr_rechecked"), "no refusal was cut off and asked again"
    ),
    "benign_refusal": Metric("benign prompts refused or left without an answer", _benign(), BENIGN),
    "benign_refusal_rise": Metric("its change over pairs", _benign_rise, f"{BENIGN}, or {BOTH}"),
    "benign_empty": Metric("benign prompts left without an answer", _benign("empty_"), BENIGN),
    **{f"{kind}_refusal": Metric(f"the same of {KIND_NAMES[kind]}", _category(kind), BENIGN) for kind in KIND_NAMES},
    **{
        f"{kind}_refusal_rise": Metric(
            f"the change over pairs of {KIND_NAMES[kind]}", _category_rise(kind), f"{BENIGN}, or {BOTH}"
        )
        for kind in KIND_NAMES
    },
    "adversarial_benign": Metric("benign prompts refused in the attacks' templates", _adversarial, WRAPPED),
    "adversarial_benign_rise": Metric(
        "its change over pairs", lambda s: _rise(_dig(s["wrapped"], "change")), f"{WRAPPED}, or {BOTH}"
    ),
    "dprime": Metric(
        "d' of harmful against benign requests in the same templates",
        lambda s: _estimate(_latest(_dig(s["wrapped"], "dprime", "phases"))),
        WRAPPED,
        share=False,
    ),
    "dprime_change": Metric(
        "its change", lambda s: _estimate(_dig(s["wrapped"], "dprime", "change")), f"{WRAPPED}, or {BOTH}", share=False
    ),
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
