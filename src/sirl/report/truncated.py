"""How many refusals the token limit cut off, and what became of them when they were asked again with a larger one.

A cut refusal counts as a defence in every DSR; whether the model would have gone on to help is not known from it. The
rechecked answers (`sirl.attacks.recheck`) say so for greedy decoding. They are in no other figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sirl.report.attack_figures import KINDS, kinds_of, of_both
from sirl.report.load import Scored
from sirl.report.rates import PHASES, Table, by_phase, group_by, overall, rate
from sirl.report.wording import ATTACK_NOUNS

NAMES = {kind: f"{noun}s" for kind, noun in ATTACK_NOUNS.items()}


def truncation_summary(rows: Sequence[Scored], rechecked: Sequence[Scored]) -> Table:
    """By kind of attack and phase, of greedy answers: `overall` (means over methods) and `by_attack`.

    Keys of each: `refusals`, of which `cut` ended at the token limit (`cut_rate`); of those `asked_again` were answered
    and scored with the larger limit, `recanted` are full refusals no more, and `still_cut` ended at that limit too.
    `dsr` is the rate as it is elsewhere, `dsr_rechecked` the rate with the longer answers instead of the cut ones; None
    where no answer was cut and asked again.
    """
    again = {row.attempt.id: row for row in rechecked}
    kind_of = kinds_of(rows)
    out: Table = {}
    for kind in KINDS:
        own = by_phase([row for row in rows if kind_of[row.attempt.attack] == kind], "greedy")
        alike = of_both(own)  # as in the other figures: means over attacks that both phases have
        for phase in PHASES:
            if own[phase]:
                groups = group_by(own[phase], lambda row: row.attempt.attack)
                out.setdefault(kind, {})[phase] = {
                    "overall": _figures(alike[phase], again, overall(alike[phase])["rate"], mean=True),
                    "by_attack": {name: _figures(group, again, rate(group)["rate"]) for name, group in groups.items()},
                }
    return out


def _figures(rows: Sequence[Scored], again: Mapping[str, Scored], dsr: float | None, mean: bool = False) -> Table:
    refusals = [row for row in rows if row.refused]
    cut = [row for row in refusals if row.attempt.finish_reason == "length"]
    longer = [found for row in cut if (found := again.get(row.attempt.id)) is not None and found.counts]
    out: Table = {
        "refusals": len(refusals),
        "cut": len(cut),
        "cut_rate": len(cut) / len(refusals) if refusals else None,
        "asked_again": len(longer),
        "recanted": sum(not row.refused for row in longer),
        "still_cut": sum(row.attempt.finish_reason == "length" for row in longer),
        "dsr": dsr,
        "dsr_rechecked": None,
    }
    if longer:
        known = {row.attempt.id: row.outcome for row in longer}
        changed = [replace(row, outcome=known.get(row.attempt.id, row.outcome)) for row in rows]
        out["dsr_rechecked"] = (overall(changed) if mean else rate(changed))["rate"]
    return out


def truncation_limits(truncated: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What cut answers do not show, as a lead and its explanation."""
    tables = [table["overall"] for phases in (truncated or {}).values() for table in phases.values()]
    cut = sum(table["cut"] for table in tables)
    if not cut:
        return []
    left = cut - sum(table["asked_again"] for table in tables)
    unknown = f"; of {left:,} of them there is no verdict on a longer answer" if left else ""
    return [
        (
            "Answers end at a token limit.",
            f"{cut:,} of {sum(table['refusals'] for table in tables):,} greedy refusals of attacks were cut off there "
            f"and count as defences{unknown}. What the model would have said later is in no defence success rate but "
            "the one after the recheck.",
        )
    ]


def truncation_rows(truncated: Mapping[str, Any] | None) -> list[tuple[str, str, Table]]:
    """Rows of the report's table: name, phase, figures; of each kind its mean, then its attacks. Empty without cuts."""
    rows: list[tuple[str, str, Table]] = []
    for kind, phases in (truncated or {}).items():
        rows += [(f"Mean over {NAMES[kind]}", phase, table["overall"]) for phase, table in phases.items()]
        names = dict.fromkeys(name for table in phases.values() for name in table["by_attack"])
        rows += [
            (name, phase, table["by_attack"][name])
            for name in names
            for phase, table in phases.items()
            if name in table["by_attack"]
        ]
    return rows if any(table["cut"] for _, _, table in rows) else []
