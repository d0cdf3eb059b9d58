"""Benign requests in the wrappings of attacks (`sirl.evals.adversarial_benign`): what report and card say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sirl.evals.told_apart import Group
from sirl.report.attack_sections import chart_row, pick
from sirl.report.charts import percent
from sirl.report.prices import wrapped_attacks
from sirl.report.wording import ATTACK_NOUNS, change_words, count, p_words, with_ends, with_interval
from sirl.results.interface import Discrimination
from sirl.results.rates import PHASES
from sirl.results.values import Results, Wrapped

GROUPS = {
    "readable": "all in which the request can be read",
    "unseen": "of families not trained in",
    "seen": "of families trained in",
    "encoded": "request encoded",
}
"""What groups of wrappings are called in tables."""


def wrapped_section(wrapped: Wrapped | None) -> dict[str, Any] | None:
    """A sentence and the rows of a table, the mean first and then the most refused wrapping."""
    if not wrapped or not wrapped.phases:
        return None
    rates, change = wrapped.rates, wrapped.change
    pairs = change.by_group if change else {}
    by_attack = {phase: tables.by_attack for phase, tables in rates.items()}
    rows = [
        {**chart_row(name, pick(by_attack, name)), "paired": pairs.get(name), "to": {"kind": "wrapped", "attack": name}}
        for name in wrapped.attacks
    ]
    rows.sort(key=_refused, reverse=True)
    totals = {phase: tables.overall for phase, tables in rates.items()}
    mean = {**chart_row("Mean over wrappings", totals, total=True), "paired": change, "to": {"kind": "wrapped"}}
    return {
        "words": wrapped_words(wrapped),
        "rows": [{**row, "note": ""} for row in (mean, *rows)],
        "told": told_rows(wrapped.told),
    }


def told_rows(told: Discrimination) -> list[dict[str, Any]]:
    """Rows of a table of d' by kind and family of wrapping; cells are texts."""
    if not (told.readable or told.encoded):
        return []
    families = {f"family {name.replace('_', ' ')}": found for name, found in told.families.items()}
    named: dict[str, Group | None] = {title: getattr(told, key) for key, title in GROUPS.items() if key != "encoded"}
    named |= families | {GROUPS["encoded"]: told.encoded}
    return [
        {
            "label": label,
            "wrappings": str(found.wrappings),
            "total": label == GROUPS["readable"],
            "dsr": _then([percent(phase.dsr) for phase in found.phases.values()]),
            "refused": _then([percent(phase.refused) for phase in found.phases.values()]),
            "dprime": _then([with_ends(phase) for phase in found.phases.values()]),
            "change": with_ends(found.change, "+") if found.change else "–",
        }
        for label, found in named.items()
        if found
    ]


def _then(cells: Sequence[str]) -> str:
    return ", then ".join(cells)


def _refused(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Shares that order rows: the later phase first, what has no rate below all that has one."""
    rates = [row[phase].rate if row[phase] else None for phase in reversed(PHASES)]
    return tuple(-1.0 if rate is None else rate for rate in rates)


def wrapped_words(wrapped: Wrapped) -> str:
    """How often wrapped benign requests are refused, in one sentence."""
    parts = [f"{with_interval(wrapped.rates[phase].overall)} {phase}" for phase in wrapped.phases]
    attacks = count(len(wrapped.attacks), ATTACK_NOUNS["static"])
    what = f"Of {count(wrapped.prompts, 'benign request')} in the wrappings of {attacks} each"
    words = f"{what}, the model refused, or said nothing to, {' and '.join(parts)}"
    change = wrapped.change
    if change and change.pairs:
        words += f" ({count(change.pairs, 'pair')}, {p_words(change)}){change_words(change, 'prompts')}"
    return f"{words}.{_dprime_words(wrapped.told)}"


def _dprime_words(told: Discrimination) -> str:
    """Whether it tells the harmful from the benign in the same wrappings, as further sentences."""
    found = told.readable
    if not found:
        return ""
    parts = [f"{with_ends(figures)} {phase}" for phase, figures in found.phases.items()]
    words = f" How well it tells harmful requests from these in the same wrappings: d' {' and '.join(parts)}"
    if found.change:
        words += f", a change of {with_ends(found.change, '+')}"
    words += " (0: it goes by the wrapping alone)"
    if told.encoded:
        words += f"; left out, as they encode the request: {count(told.encoded.wrappings, 'wrapping')}"
    if told.seen and told.unseen:
        last = list(found.phases)[-1]
        unseen, seen = (with_ends(group.phases[last]) for group in (told.unseen, told.seen))
        words += f"; {last}, in wrappings of families that training did not use {unseen}, of those that it did {seen}"
    return words + "."


def wrapped_limits(results: Results) -> list[tuple[str, str]]:
    """What remains open where no benign request was put into the wrappings of the attacks."""
    if results.wrapped or not wrapped_attacks(results.attack):
        return []
    words = "Benign requests in the same wrappings were not asked, so a model that refuses the wrapping itself would "
    return [("A refused attack may be a refused wrapping.", words + "look as safe as one that refuses the request.")]
