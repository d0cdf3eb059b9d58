"""What the report shows of the attacks: one block for each kind, and a table that sets the kinds side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sirl.attacks import ATTACKS, REPLAY, load_attack
from sirl.attacks.taxonomy import tags_of
from sirl.report.charts import dumbbell_row, percent_axis
from sirl.report.wording import ATTACK_NOUNS, count
from sirl.results.rates import PHASES
from sirl.results.values import AnyShare, Attacks, Change, HarmRates, Kind, Rate, RefusalRates, Search

DECODING_NAMES = {"greedy": "greedy", "sample": "sampled, T=1"}
TITLES = {
    "static": "Static attacks: fixed prompts",
    "reoptimised": "Adaptive attacks, re-optimised against each model",
    "transferred": "Adaptive attacks, transferred from the model before",
}
LEADS = {
    "static": "The same prompts before and after. Share that the model refuses (defence success rate), by method.",
    "reoptimised": "Each search was repeated against each model, with the same budget: this is what an attacker meets "
    "who adapts to the hardened model. Share of goals at which the model refuses even the best prompt found.",
    "transferred": "Prompts that the searches found against the base model, tried unchanged on the hardened model. "
    "They say nothing about an attacker who searches again. Most of them were selected because they broke the base "
    "model, so any other model would break slightly less often.",
}


def attack_section(attack: Attacks | None) -> dict[str, Any] | None:
    """Charts and tables of the attacks, kind by kind, the headline kind first."""
    if not attack or not attack.covers:
        return None
    kinds = [kind_section(kind, figures) for kind, figures in attack.kinds.items()]
    decoding = attack.decodings[0]
    return {
        "decoding": decoding,
        "kinds": kinds,
        "overview": len(kinds) > 1,
        "worst": attack.worst_case[decoding],
        "harm_worst": attack.harm_worst_case.get(decoding, {}),
    }


def kind_section(kind: str, figures: Kind) -> dict[str, Any]:
    """One kind of attack; rows by the DSR before, weakest first."""
    decoding = figures.decodings[0]
    rates = figures.rates[decoding]
    by_attack = {phase: tables.by_attack for phase, tables in rates.items()}
    by_category = {phase: tables.by_category for phase, tables in rates.items()}
    names = sorted(figures.attacks, key=lambda name: _order(name, by_attack))
    categories = sorted({name for table in by_category.values() for name in table})
    totals = {phase: tables.overall for phase, tables in rates.items()}
    rows = [chart_row("Mean over methods", totals, total=True)]
    rows += [chart_row(name, pick(by_attack, name)) for name in names]
    noun = count(len(names), ATTACK_NOUNS[kind])
    return {
        "kind": kind,
        "title": TITLES[kind],
        "lead": LEADS[kind],
        "mean_of": noun if len(names) == 1 else f"mean over {noun}",
        "noun": ATTACK_NOUNS[kind],
        "decoding": decoding,
        "rows": drawn(rows),
        "axis": percent_axis(1.0),
        "table": rate_table(figures, "by_attack", names),
        "categories": drawn([chart_row(_words(name), pick(by_category, name)) for name in categories]),
        "category_table": rate_table(figures, "by_category", categories),
        "search": search_rows(figures.search, names),
        "worst": {phase: tables.worst_case for phase, tables in rates.items()},
        "change": figures.change[decoding],
        "totals": totals,
        "harm": {phase: tables.overall for phase, tables in figures.harm.get(decoding, {}).items()},
        "names": names,
        "about": about(names),
    }


def about(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Name, description and ids (OWASP, ATLAS, garak) of each attack of ours. A name of another stays unexplained: it
    comes from a file, and what a file names is not imported."""
    known = [(name, name.removesuffix(REPLAY)) for name in names if name.removesuffix(REPLAY) in ATTACKS]
    out = []
    for name, attack in known:
        tags = tags_of(attack)
        ids = ", ".join((*tags.owasp, *tags.atlas, *tags.garak))
        out.append((name, load_attack(attack).description, ids))
    return out


def _order(name: str, by_attack: Mapping[str, Mapping[str, Rate]]) -> float:
    for phase in PHASES:
        found = by_attack.get(phase, {}).get(name)
        if found and found.rate is not None:
            return found.rate
    return 1.0


def _words(name: str) -> str:
    return name.replace("_", " ")


def rate_table(figures: Kind, key: str, names: Sequence[str]) -> dict[str, Any]:
    """RefusalRates of every group under every decoding, and of the headline decoding the pairs and the rates by harm.

    `key` is how the groups are made, `by_attack` or `by_category`; the first row of attacks is the mean over them.
    """
    columns = [(d, p) for d in figures.decodings for p in PHASES if p in figures.rates[d]]
    headline = figures.decodings[0]
    harm = figures.harm.get(headline, {})
    change, harm_change = (part.get(headline) for part in (figures.change, figures.harm_change))
    rows = []
    for name in [None, *names] if key == "by_attack" else list(names):
        tables = [figures.rates[d][p] for d, p in columns]
        rows.append(
            {
                "label": "Mean over methods" if name is None else name if key == "by_attack" else _words(name),
                "total": name is None,
                "to": {"kind": "attack", **({} if name is None else {key.removeprefix("by_"): name})},
                "cells": [_cell(table, key, name) for table in tables],
                "harm": [_cell(table, key, name) for table in harm.values()],
                "paired": _pairs(change, key, name),
                "harm_paired": _pairs(harm_change, key, name),
            }
        )
    groups = [(DECODING_NAMES[d], sum(x == d for x, _ in columns)) for d in figures.decodings]
    return {
        "columns": columns,
        "groups": groups,
        "rows": rows,
        "harm": list(harm),
        "paired": bool(change),
        "harm_paired": bool(harm_change),
    }


def _cell(table: RefusalRates | HarmRates, key: str, name: str | None) -> AnyShare | None:
    if name is None:
        return table.overall
    return (table.by_attack if key == "by_attack" else table.by_category).get(name)


def _pairs(change: Change | None, key: str, name: str | None) -> Change | None:
    if not change or name is None:
        return change
    return (change.by_group if key == "by_attack" else change.by_category).get(name)


def search_rows(search: Mapping[str, Mapping[str, Search]], names: Sequence[str]) -> list[dict[str, Any]]:
    """What the searches took, a row for each attack and model."""
    return [
        {"label": name, "phase": phase, **vars(search[phase][name])}
        for name in names
        for phase in PHASES
        if name in search.get(phase, {})
    ]


def budgets_of(attack: Attacks | None) -> set[int]:
    """The most model calls that a goal could cost, over all searches."""
    kind = attack.kinds.get("reoptimised") if attack else None
    searches = kind.search.values() if kind else ()
    return {table.budget for tables in searches for table in tables.values() if table.budget is not None}


def comparison(attack: Attacks) -> str:
    """What the two sides of the comparison have in common."""
    if "reoptimised" not in attack.kinds:
        return "the same prompts and seeds"
    return "the same prompts and seeds; re-optimised attacks share goals, starts, budgets and seeds, but no prompts"


def attack_limits(attack: Attacks | None) -> list[tuple[str, str]]:
    """What these attacks do not show, as a lead and its explanation."""
    kinds = attack.kinds if attack else {}
    further = "An attacker who adapts to it may get further."
    if "transferred" in kinds and "reoptimised" not in kinds:
        lead = "No attack was optimised again against the hardened model."
        return [(lead, f"Prompts that were found against the base model are not an adaptive attack. {further}")]
    if "reoptimised" not in kinds:
        words = f"They were not optimised again against the hardened model. {further}"
        return [("The attacks are fixed prompts.", words)]
    budgets = budgets_of(attack)
    limit = f" at {max(budgets):,} model calls per goal or earlier" if budgets else " early"
    return [
        (
            "The searches are short.",
            f"They ended{limit}. An attacker with more time, other methods or a stronger model to write prompts may "
            "get further.",
        )
    ]


# --- rows of a chart --------------------------------------------------------------------------------------------------


def pick(groups: Mapping[str, Mapping[str, Rate]], name: str) -> dict[str, Rate]:
    """One group's rates by phase."""
    return {phase: table[name] for phase, table in groups.items() if name in table}


def chart_row(label: str, rates: Mapping[str, Rate], total: bool = False) -> dict[str, Any]:
    """A row with the rates of both phases."""
    return {"label": label, "before": rates.get("before"), "after": rates.get("after"), "total": total}


def drawn(rows: Sequence[dict[str, Any]], top: float = 1.0) -> list[dict[str, Any]]:
    """Rows with their drawings, on an axis that ends at `top`."""
    return [{**line, "svg": dumbbell_row(line["label"], line["before"], line["after"], top)} for line in rows]
