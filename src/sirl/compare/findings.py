"""Two questions to a comparison: who is ahead at equal over-refusal, and did the gap foretell the outcome?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sirl.compare.grid import Job
from sirl.compare.measured import STARTS, Failed, Measured, Table, spread


def at_equal_over_refusal(jobs: Sequence[Job], results: Sequence[Measured | Failed]) -> Table | None:
    """By method, the best DSR among its checks that refuse no more benign prompts than `sirl` does; all of it on the
    development set.

    What the policy that `sirl` deployed refuses there is the limit for the runs of its seed; `limit` is the mean.
    Methods take part whose runs have a trail, from the same base model and on the same development set. None where
    that is none beside `sirl`.
    """
    trails: dict[str, dict[int, Measured]] = defaultdict(dict)
    ours = next((job for job in jobs if job.name == "sirl"), None)
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Measured) and result.trail and ours and _checked_on(job) == _checked_on(ours):
            trails[job.name][job.seed] = result
    limits = {seed: run.deployed.over_refusal if run.deployed else None for seed, run in trails["sirl"].items()}
    known = {seed: limit for seed, limit in limits.items() if limit is not None}
    shared = {name: {seed: runs[seed] for seed in runs if seed in known} for name, runs in trails.items()}
    if sum(bool(runs) for runs in shared.values()) < 2:
        return None
    methods = {name: _best_within(runs, known) for name, runs in shared.items() if runs}
    return {"limit": sum(known.values()) / len(known), "methods": methods}


def _checked_on(job: Job) -> tuple[Any, ...]:
    """What decides whether the checks of two runs can be compared."""
    own = job.config.development
    asked = own and (
        own.every,
        own.goals,
        own.max_goals,
        own.attacks,
        own.overrefusal,
        own.max_prompts,
        own.max_new_tokens,
    )
    return job.config.model_name_or_path, asked


def _best_within(runs: Mapping[int, Measured], limits: Mapping[int, float]) -> Table:
    """The best check of each run within its seed's limit, the base model included: `dsr` and `over_refusal` over seeds.

    `seeds` is how many have such a check, of `trails`.
    """
    best = []
    for seed, run in runs.items():
        known = [(row.dsr, row.over_refusal) for row in run.trail]
        rated = [(dsr, over) for dsr, over in known if dsr is not None and over is not None]
        within = [(dsr, over) for dsr, over in rated if over <= limits[seed] + 1e-9]
        best += [max(within, key=lambda pair: pair[0])] if within else []
    figures = {name: spread([pair[i] for pair in best]) for i, name in enumerate(STARTS)}
    return {**figures, "seeds": len(best), "trails": len(runs)}


def gap_table(rows: Sequence[Table], model: str) -> list[Table]:
    """Did the gap foretell whether rewarding certainty helps? A row for each base model and seed.

    Of `model` that is the run of `sirl`; of any other the first variant that starts from it. Runs with another reward
    are left out. `agrees`: "present" with a rise of the DSR (`LEAST_RISE` or more, beyond chance), any other verdict
    with none. That takes "too few" for "nothing to sharpen": it is what a model gets that refuses next to never (or
    next to always). None where no attack was scored on both sides.
    """
    out: dict[tuple[str, int], Table] = {}
    for row in rows:
        if row.get("rewards_certainty") and row["gap"] and (row["method"] == "sirl" or row["model"] != model):
            out.setdefault((row["model"], row["seed"]), _foretold(row))
    return list(out.values())


def _foretold(row: Table) -> Table:
    known = row["change"] is not None
    rose = row["rose"] is True if known else None
    facts = {key: row[key] for key in ("model", "seed", "folder", "gap")}
    change = {key: row[key] for key in ("dsr_before", "dsr_after", "change")}
    return {
        **facts,
        **row["gap_nats"],
        **change,
        "rose": rose,
        "agrees": (row["gap"] == "present") == rose if known else None,
    }
