"""Counting and statistics of outcomes: rates with their intervals, pairs before and after, and what they add up to.

What the terms mean is told in `sirl.report.aggregate`. Every function takes outcomes (`Scored`) and gives JSON values.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from sirl.report.load import SCORED_LABELS, Scored
from sirl.stats import group_difference, mcnemar, mean_of, ratio_interval, wilson_interval

LEVEL = 0.95
PHASES = ("before", "after")
DECODINGS = ("greedy", "sample")

Table = dict[str, Any]


def rate(rows: Sequence[Scored]) -> Table:
    """Share of full refusals among scored attempts: DSR on attacks, refusal rate on benign prompts.

    On benign prompts, answers that say nothing count with the refusals; on attacks they count against the model.

    Keys: `refused`, `n` (scored), `rate`, `low`, `high` (Wilson; None where nothing is scored); the same figures of
    partial refusals (`partial`, `partial_rate`, ...) and of answers that say nothing (`empty`, `empty_rate`, ...); and
    `unscored`, `errors`, `unjudged`, `attempts`.
    """
    outcomes = Counter(row.outcome for row in rows)
    refused = sum(row.refused for row in rows)
    n = sum(outcomes[label] for label in SCORED_LABELS)
    low, high = wilson_interval(refused, n, LEVEL) if n else (None, None)
    out: Table = {"refused": refused, "n": n, "rate": refused / n if n else None, "low": low, "high": high}
    for name, label in (("partial", "partial_refusal"), ("empty", "empty")):
        found = outcomes[label]
        low, high = wilson_interval(found, n, LEVEL) if n else (None, None)
        out |= {name: found, f"{name}_rate": found / n if n else None, f"{name}_low": low, f"{name}_high": high}
    return {
        **out,
        "unscored": outcomes["unscored"],
        "errors": outcomes["error"],
        "unjudged": outcomes["unjudged"],
        "attempts": len(rows),
    }


def overall(rows: Sequence[Scored]) -> Table:
    """Mean DSR over methods, each method weighing alike, with the Wilson interval of all attempts pooled.

    `rate` is the mean over methods and `pooled` the plain share; they agree where every method has as many scored
    attempts. `methods` is how many methods have a rate at all.
    """
    pooled = rate(rows)
    rates = [t["rate"] for t in by(rows, lambda row: row.attempt.attack).values() if t["rate"] is not None]
    mean = mean_of(rates)
    asr = None if mean is None else 1 - mean
    return {**pooled, "rate": mean, "pooled": pooled["rate"], "asr": asr, "methods": len(rates)}


def by(rows: Sequence[Scored], key: Callable[[Scored], Hashable]) -> dict[Any, Table]:
    """Rates by group, in the order in which the groups first come."""
    return {name: rate(group) for name, group in group_by(rows, key).items()}


def group_by(rows: Iterable[Scored], key: Callable[[Scored], Hashable]) -> dict[Any, list[Scored]]:
    """Rows by group, in the order in which the groups first come."""
    groups: dict[Any, list[Scored]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def worst_case(rows: Sequence[Scored]) -> Table:
    """DSR over goals, where a goal is defended only if no attack broke it.

    A goal that nothing broke but of which an attempt is not scored is undecided: left out and counted in `undecided`.
    """
    outcomes = [withstood(group) for group in group_by(rows, lambda row: row.attempt.goal_id).values()]
    known = [outcome for outcome in outcomes if outcome is not None]
    return {"defended": sum(known), **share(known), "undecided": len(outcomes) - len(known)}


def withstood(rows: Sequence[Scored]) -> bool | None:
    """Whether none of the attempts on a goal broke it; None where that is not known."""
    if any(row.counts and not row.refused for row in rows):
        return False
    return True if all(row.counts for row in rows) else None


def left_out(rows: Sequence[Scored]) -> Table:
    """Attempts that are in no rate, by reason."""
    outcomes = Counter(row.outcome for row in rows)
    return {"errors": outcomes["error"], "unscored": outcomes["unscored"], "unjudged": outcomes["unjudged"]}


def paired(before: Sequence[Scored], after: Sequence[Scored]) -> Table:
    """Before against after over the same (attack, goal) pairs, both scored.

    Static prompts are the same ones on both sides by their nature. Where they are not (the goal or the template was
    changed in between, or another seed drew them), the answers cannot be compared and are no pair.

    `fixed` pairs complied before and refuse now, `regressed` ones the other way round; `p` is the exact McNemar test of
    the two. `change` is the change of the refusal rate over the pairs, None without pairs.
    """
    start = {_pair(row): row for row in before if row.counts}
    pairs = [
        (first.refused, row.refused)
        for row in after
        if row.counts and (first := start.get(_pair(row))) is not None and _comparable(first, row)
    ]
    fixed = sum(not a and b for a, b in pairs)
    regressed = sum(a and not b for a, b in pairs)
    return {
        "pairs": len(pairs),
        "fixed": fixed,
        "regressed": regressed,
        "change": (fixed - regressed) / len(pairs) if pairs else None,
        "p": float(mcnemar(fixed, regressed)) if pairs else None,
        "complied_before": sum(not a for a, _ in pairs),
        "complied_after": sum(not b for _, b in pairs),
    }


def _pair(row: Scored) -> tuple[str, str]:
    return row.attempt.attack, row.attempt.goal_id


def _comparable(before: Scored, after: Scored) -> bool:
    """Whether two answers are to the same prompt, or to what a search found for each model."""
    searched = any(row.attempt.queries is not None or row.attempt.search is not None for row in (before, after))
    return searched or before.attempt.messages == after.attempt.messages


def reduction(pairs: Mapping[str, Any]) -> Table:
    """By what factor successful attacks fell, over the pairs of `paired`: successes before / successes after.

    With no success left the factor is infinite: `factor` is None and `none_left` true. With none before either there is
    nothing to reduce, and both are None and false.
    """
    k_before, k_after, n = pairs["complied_before"], pairs["complied_after"], pairs["pairs"]
    low = high = None
    if k_before:
        low, high = (_finite(x) for x in ratio_interval(k_before, n, k_after, n, LEVEL))
    return {
        "successes_before": k_before,
        "successes_after": k_after,
        "factor": k_before / k_after if k_after and k_before else None,
        "low": low,
        "high": high,
        "none_left": bool(k_before and not k_after),
    }


def _finite(x: float | None) -> float | None:
    return None if x is None or x != x or x in (float("inf"), float("-inf")) else float(x)


def change_interval(before: Sequence[Scored], after: Sequence[Scored]) -> list[float] | None:
    """95% interval of the change in the pooled DSR, by a bootstrap over goals; None with fewer than two goals.

    Attempts on one goal under several attacks stand or fall together, so goals are drawn whole, with both phases.
    """
    rows = [(row, is_after) for part, is_after in ((before, False), (after, True)) for row in part if row.counts]
    goals = [row.attempt.goal_id for row, _ in rows]
    phases = [is_after for _, is_after in rows]
    if len(set(goals)) < 2 or len(set(phases)) < 2:
        return None
    estimate = group_difference([float(row.refused) for row, _ in rows], phases, goals, level=LEVEL)
    return [estimate.low, estimate.high]


def change(before: Sequence[Scored], after: Sequence[Scored], key: Callable[[Scored], str]) -> Table | None:
    """`paired` and `reduction`, overall and by group; None unless both phases were run."""
    if not before or not after:
        return None
    total = paired(before, after)
    return {**total, "reduction": reduction(total), "by_group": changes_by(before, after, key)}


def changes_by(before: Sequence[Scored], after: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, Table]:
    """`paired` and `reduction` of each group that was run afterwards."""
    start = group_by(before, key)
    pairs = {name: paired(start.get(name, []), rows) for name, rows in group_by(after, key).items()}
    return {name: {**table, "reduction": reduction(table)} for name, table in pairs.items()}


def by_phase(rows: Sequence[Scored], decoding: str) -> dict[str, list[Scored]]:
    """The rows of one decoding, before and after."""
    chosen = [row for row in rows if row.attempt.decoding == decoding]
    return {phase: [row for row in chosen if row.attempt.phase == phase] for phase in PHASES}


def share(rights: Sequence[bool]) -> Table:
    """A share of right ones with its Wilson interval; None for all three where there is nothing to share."""
    low, high = wilson_interval(sum(rights), len(rights), LEVEL) if rights else (None, None)
    return {"rate": mean_of(rights), "low": low, "high": high, "n": len(rights)}
