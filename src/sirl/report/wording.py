"""How figures are written: rates with their intervals, factors, p values, numbers with their nouns."""

from __future__ import annotations

from sirl.evals.told_apart import Interval
from sirl.report.charts import percent
from sirl.results.interface import Reduction
from sirl.results.values import AnyShare, Change
from sirl.stats import Estimate

ATTACK_NOUNS = {"static": "static attack", "reoptimised": "re-optimised attack", "transferred": "transferred attack"}
KIND_NAMES = {"plain": "plain benign prompts", "sounds_harmful": "benign prompts that sound harmful"}


def with_interval(rate: AnyShare, prefix: str = "") -> str:
    """A rate with its 95% interval: `97.1% (95.7 to 98.1)`; with the prefix `partial_` that of partial refusals."""
    value, low, high = (getattr(rate, prefix + key) for key in ("rate", "low", "high"))
    return "–" if value is None else f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"


def with_ends(found: Interval | Estimate, sign: str = "") -> str:
    """An estimate with its 95% interval: `1.23 (0.90 to 1.50)`; `sign` "+" shows the sign."""
    ends = (found.value, found.low, found.high)
    if any(end is None for end in ends):
        return "–"
    value, low, high = (format(end, f"{sign}.2f") for end in ends)
    return f"{value} ({low} to {high})"


def factor(reduction: Reduction) -> str:
    """A reduction factor with its interval: `13.6 (9.0 to 20.4)`; without one where it is not finite."""
    if reduction.factor is None:
        return "–"
    text = f"{reduction.factor:.1f}"
    if reduction.low is not None and reduction.high is not None:
        text += f" ({reduction.low:.1f} to {reduction.high:.1f})"
    return text


def p_value(p: float | None) -> str:
    """A p value as text: `p < 0.001` or `p = 0.023`."""
    if p is None:
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def count(n: int, noun: str) -> str:
    """A number with its noun: `1 goal`, `1,200 goals`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def change_words(change: Change, drawn: str) -> str:
    """The interval of a change, as the end of a sentence; `drawn` is what it goes by."""
    if not change.interval:
        return ""
    low, high = (f"{100 * x:+.1f}" for x in change.interval)
    return f"; the change lies between {low} and {high} points (95%, over {drawn})"


def p_words(change: Change) -> str:
    """Which test a change was put to, with its p: McNemar's where each goal has one pair, else over goals."""
    if change.test is None:
        return "no test: a single goal"
    return f"{'exact McNemar test' if change.test == 'mcnemar' else 't test over goals'}, {p_value(change.p)}"
