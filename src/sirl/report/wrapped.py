"""Harmless requests in the wrappings of attacks (`sirl.evals.wrapped`): what report and card say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sirl.report.attack_sections import chart_row, pick
from sirl.report.rates import PHASES
from sirl.report.wording import ATTACK_NOUNS, change_words, count, p_words, with_interval


def wrapped_section(wrapped: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A sentence and the rows of a table, the mean first and then the most refused wrapping."""
    if not wrapped or not wrapped["phases"]:
        return None
    rates, change = wrapped["rates"], wrapped["change"]
    pairs = change["by_group"] if change else {}
    by_attack = {phase: tables["by_attack"] for phase, tables in rates.items()}
    rows = [
        {**chart_row(name, pick(by_attack, name)), "paired": pairs.get(name), "to": {"kind": "wrapped", "attack": name}}
        for name in wrapped["attacks"]
    ]
    rows.sort(key=_refused, reverse=True)
    totals = {phase: tables["overall"] for phase, tables in rates.items()}
    mean = {**chart_row("Mean over wrappings", totals, total=True), "paired": change, "to": {"kind": "wrapped"}}
    return {"words": wrapped_words(wrapped), "rows": [{**row, "note": ""} for row in (mean, *rows)]}


def _refused(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Shares that order rows: the later phase first, what has no rate below all that has one."""
    rates = [(row[phase] or {}).get("rate") for phase in reversed(PHASES)]
    return tuple(-1.0 if rate is None else rate for rate in rates)


def wrapped_words(wrapped: Mapping[str, Any]) -> str:
    """How often wrapped harmless requests are refused, in one sentence."""
    parts = [f"{with_interval(wrapped['rates'][phase]['overall'])} {phase}" for phase in wrapped["phases"]]
    attacks = count(len(wrapped["attacks"]), ATTACK_NOUNS["static"])
    what = f"Of {count(wrapped['prompts'], 'harmless request')} in the wrappings of {attacks} each"
    words = f"{what}, the model refused, or said nothing to, {' and '.join(parts)}"
    change = wrapped["change"]
    if change and change["pairs"]:
        words += f" ({count(change['pairs'], 'pair')}, {p_words(change)}){change_words(change, 'prompts')}"
    return f"{words}.{_dprime_words(wrapped.get('dprime'))}"


def _dprime_words(found: Mapping[str, Any] | None) -> str:
    """Whether it tells the harmful from the harmless in the same wrappings, as further sentences."""
    if not found or not found["phases"]:
        return ""
    parts = [f"{_ends(figures)} {phase}" for phase, figures in found["phases"].items()]
    words = f" How well it tells harmful requests from these in the same wrappings: d' {' and '.join(parts)}"
    if found["change"]:
        words += f", a change of {_ends(found['change'], '+')}"
    return words + " (0: it goes by the wrapping alone)."


def _ends(figures: Mapping[str, Any], sign: str = "") -> str:
    value, low, high = (format(figures[key], f"{sign}.2f") for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def wrapped_limits(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What remains open where no harmless request was put into the wrappings of the attacks."""
    static = ((summary["attack"] or {}).get("kinds") or {}).get("static") or {"attacks": []}
    if summary["wrapped"] or not set(static["attacks"]) - {"direct"}:
        return []
    words = "Harmless requests in the same wrappings were not asked, so a model that refuses the wrapping itself would "
    return [("A refused attack may be a refused wrapping.", words + "look as safe as one that refuses the request.")]
