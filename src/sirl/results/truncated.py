"""How many refusals the token limit cut off, and what became of them when they were asked again with a larger one.

A cut refusal counts as a defence in every DSR; whether the model would have continued to help is not known from it. The
rechecked answers (`sirl.attacks.recheck`) say so for greedy decoding. They are in no other figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sirl.results.attacks import KINDS, kinds_of, of_both
from sirl.results.load import Scored
from sirl.results.rates import PHASES, by_phase, group_by, overall, rate
from sirl.results.values import Truncated, Truncation


def truncation_summary(rows: Sequence[Scored], rechecked: Sequence[Scored]) -> dict[str, dict[str, Truncation]]:
    """By kind of attack and phase, of greedy answers: `overall` (means over methods) and `by_attack`.

    Keys of each: `refusals`, of which `cut` ended at the token limit (`cut_rate`); of those `asked_again` were answered
    and scored with the larger limit, `recanted` are full refusals no more, and `still_cut` ended at that limit too.
    `dsr` is the rate as it is elsewhere, `dsr_rechecked` the rate with the longer answers instead of the cut ones; None
    where no answer was cut and asked again.
    """
    again = {row.attempt.id: row for row in rechecked}
    kind_of = kinds_of(rows)
    out: dict[str, dict[str, Truncation]] = {}
    for kind in KINDS:
        own = by_phase([row for row in rows if kind_of[row.attempt.attack] == kind], "greedy")
        alike = of_both(own)  # as in the other figures: means over attacks that both phases have
        for phase in PHASES:
            if own[phase]:
                groups = group_by(own[phase], lambda row: row.attempt.attack)
                out.setdefault(kind, {})[phase] = Truncation(
                    overall=_figures(alike[phase], again, overall(alike[phase]).rate, mean=True),
                    by_attack={name: _figures(group, again, rate(group).rate) for name, group in groups.items()},
                )
    return out


def _figures(rows: Sequence[Scored], again: Mapping[str, Scored], dsr: float | None, mean: bool = False) -> Truncated:
    refusals = [row for row in rows if row.refused]
    cut = [row for row in refusals if row.attempt.finish_reason == "length"]
    longer = [found for row in cut if (found := again.get(row.attempt.id)) is not None and found.counts]
    rechecked = None
    if longer:
        known = {row.attempt.id: row.outcome for row in longer}
        changed = [replace(row, outcome=known.get(row.attempt.id, row.outcome)) for row in rows]
        rechecked = (overall(changed) if mean else rate(changed)).rate
    return Truncated(
        refusals=len(refusals),
        cut=len(cut),
        cut_rate=len(cut) / len(refusals) if refusals else None,
        asked_again=len(longer),
        recanted=sum(not row.refused for row in longer),
        still_cut=sum(row.attempt.finish_reason == "length" for row in longer),
        dsr=dsr,
        dsr_rechecked=rechecked,
    )
