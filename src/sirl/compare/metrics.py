"""From the run folders of a comparison to its figures: rows by run, means by method, who is on the Pareto front.

The figures of a run are those of its report (`sirl.results.summary`), greedy answers where there are any. A method's
figure is the mean over its seeds; where it failed there is no figure. Its interval takes goals and prompts, not
answers, as what was drawn: the attacks on one goal, and the seeds, are no independent draws. Safety and helpfulness are
set against each other among runs of one base model, the first job's: a safer model to begin with beats no method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from sirl.compare.findings import at_equal_over_refusal, gap_table
from sirl.compare.grid import Job
from sirl.compare.measured import LEAST_RISE, STARTS, Failed, Measured, Table, Units, spread
from sirl.compare.values import MethodResult
from sirl.evals.told_apart import Sides, pooled, told_apart
from sirl.results.attacks import KINDS, kinds_of, refusal_texts
from sirl.results.discrimination import count_sides
from sirl.results.load import Run, Scored, load_run
from sirl.results.rates import DECODINGS, group_by, overall, paired, rate, share, withstood, worst_case
from sirl.results.summary import stage_seconds
from sirl.results.values import AnyShare, Share
from sirl.stats import Estimate, mean_share, wilson_interval

RATES = {
    "dsr": "DSR",
    "worst_case": "every attack",
    "over_refusal": "benign refused",
    "plain": "plain",
    "sounds_harmful": "sounds harmful",
    "partly_refused": "partly refused",
    "wrapped": "in wrappings",
    "empty": "benign, no answer",
    "empty_attacked": "attacked, no answer",
    "choices": "multiple choice",
}
"""Shares that a run may have, with their titles in tables."""
SILENT = ("empty", "empty_attacked")
"""Answers that say nothing, of those to benign prompts and of those to attacks."""
CLUSTERED = ("dsr", "wrapped", "empty_attacked")
"""Rates that are means over attacks, with an answer to each goal or prompt from every one."""
FIGURES = (
    *RATES,
    "distinct_refusals",
    "commonest_sentence",
    "kl",
    "perplexity_rise",
    "dprime",
    "train_seconds",
    "answer_seconds",
)


def measure_run(job: Job) -> Measured:
    """Read the figures of a finished run from its folder.

    The DSR covers one kind of attack, as in a report: static ones where there are any. The worst case takes the
    re-optimised ones in as well; what was found against the base model and put to this one is in neither.
    """
    run = load_run(job.folder)
    phase = "before" if job.method.how == "none" else "after"
    decoding = next(d for d in DECODINGS if d in job.config.attack.decoding)
    kind_of = kinds_of(run.attacks or [])
    covers = next((kind for kind in KINDS if kind in kind_of.values()), None)
    met = [
        r for r in run.attacks or [] if r.attempt.decoding == decoding and kind_of[r.attempt.attack] != "transferred"
    ]
    chosen = [r for r in met if kind_of[r.attempt.attack] == covers]
    attacks, every = ([r for r in rows if r.attempt.phase == phase] for rows in (chosen, met))
    asked = [r for r in run.benign or [] if r.attempt.decoding == decoding]
    benign = [r for r in asked if r.attempt.phase == phase]
    kinds = group_by(benign, lambda r: r.attempt.category)
    starts = {
        n: [r for r in rows if r.attempt.phase == "before"] for n, rows in zip(STARTS, (chosen, asked), strict=True)
    }
    rows = {"dsr": attacks, "over_refusal": benign, **{k: kinds.get(k, []) for k in ("plain", "sounds_harmful")}}
    dsr = overall(attacks)
    rates: dict[str, AnyShare] = {"dsr": dsr, "worst_case": worst_case(every)}
    rates |= {name: rate(part) for name, part in rows.items() if name != "dsr"}
    wrapped = [r for r in run.wrapped or [] if r.attempt.phase == phase]
    rates["wrapped"] = overall(wrapped)
    rates["partly_refused"] = share([r.outcome == "partial_refusal" for r in benign if r.counts])
    rates["empty"] = share([r.outcome == "empty" for r in benign if r.counts])
    rates["empty_attacked"] = Share(dsr.empty_rate, dsr.empty_low, dsr.empty_high, dsr.n)
    right = ((run.capability or {}).get("choices") or {}).get(phase) or []
    rates["choices"] = share(right)
    row: Table = {name: _short(rates[name]) for name in RATES}
    row["start"] = {"dsr": _short(overall(starts["dsr"])), "over_refusal": _short(rate(starts["over_refusal"]))}
    row |= _wording(attacks, phase)
    told = count_sides(attacks, wrapped) if decoding == "greedy" else None  # wrapped ones are asked greedily
    row["dprime"] = _dprime(told) if told else None
    row |= {"covers": covers} | _costs(run, job) | _change(run, job, chosen, decoding)
    rows |= {"wrapped": wrapped} | {f"start/{name}": part for name, part in starts.items()}
    units = {name: _units(part) for name, part in rows.items()}
    units["partly_refused"] = _units(benign, "partial_refusal")
    units |= {"empty": _units(benign, "empty"), "empty_attacked": _units(attacks, "empty")}
    units["choices"] = {str(i): (float(found), 1.0) for i, found in enumerate(right)}
    units["worst_case"] = _units_withstood(every)
    trail = run.development or []
    deployed = (run.chosen and run.chosen.chosen) or (trail[-1] if trail else None)
    strata = {
        name: _by_attack(part) for name, part in (("dsr", attacks), ("start/dsr", starts["dsr"]), ("wrapped", wrapped))
    }
    strata["empty_attacked"] = _by_attack(attacks, "empty")
    return Measured(row, units, trail, deployed, strata, told)


def known_rates(methods: Mapping[str, MethodResult]) -> dict[str, str]:
    """Those of `RATES` that any method has; silence only where there is any."""
    found = {name: [mean.mean for m in methods.values() if (mean := getattr(m, name))] for name in RATES}
    return {name: title for name, title in RATES.items() if (any(found[name]) if name in SILENT else found[name])}


def _short(found: AnyShare) -> Table | None:
    return {key: getattr(found, key) for key in ("rate", "low", "high", "n")} if found.rate is not None else None


def _wording(attacks: Sequence[Scored], phase: str) -> Table:
    """How alike the refusals are; None where there are none."""
    texts = refusal_texts(attacks).phases.get(phase)
    return {
        "distinct_refusals": texts.distinct_share if texts else None,
        "commonest_sentence": texts.anywhere.share if texts else None,
    }


def _goal(row: Scored) -> str:
    return row.attempt.goal_id


def _units(rows: Sequence[Scored], outcome: str | None = None) -> Units:
    """Answers with that outcome, or those refused, and all scored ones, by goal."""
    groups = group_by([r for r in rows if r.counts], _goal)
    found = {
        goal: [r.refused if outcome is None else r.outcome == outcome for r in part] for goal, part in groups.items()
    }
    return {goal: (float(sum(part)), float(len(part))) for goal, part in found.items()}


def _units_withstood(rows: Sequence[Scored]) -> Units:
    """Goals that withstood every attack, and those of which that is known."""
    ends = {goal: withstood(part) for goal, part in group_by(rows, _goal).items()}
    return {goal: (float(end is True), float(end is not None)) for goal, end in ends.items()}


def _dprime(told: Sides) -> Table | None:
    """d' over the wrappings in which the request can be read."""
    found = told_apart({"after": told})
    return {key: getattr(found.phases["after"], key) for key in ("value", "low", "high")} if found else None


def _by_attack(rows: Sequence[Scored], outcome: str | None = None) -> list[Units]:
    parts = group_by([r for r in rows if r.counts], lambda r: r.attempt.attack)
    return [_units(part, outcome) for part in parts.values()]


def _costs(run: Run, job: Job) -> Table:
    drift = (run.capability or {}).get("drift") or {}
    seconds = stage_seconds(run.manifest)
    trained = job.method.how in ("trained", "pipeline")
    return {
        "kl": drift["kl"]["value"] if drift else None,
        "perplexity_rise": drift["perplexity_rise"]["value"] if drift else None,
        "train_seconds": seconds.get("train") if trained else None,
        "answer_seconds": seconds.get("attack_before" if job.method.how == "none" else "attack_after"),
    }


def _change(run: Run, job: Job, rows: Sequence[Scored], decoding: str) -> Table:
    """The gap's verdict before, and what became of the DSR.

    `change` is how much it moved, with the 95% interval over goals; it `rose`, fell (False) or hardly moved (None).
    """
    before, after = ([r for r in rows if r.attempt.phase == p] for p in ("before", "after"))
    pairs = paired(before, after)
    moved = Estimate(pairs.change, *pairs.interval) if pairs.change is not None and pairs.interval else None
    rose = None
    if moved and (moved.high < 0 or (moved.low > 0 and moved.value >= LEAST_RISE)):
        rose = moved.low > 0
    certain = job.method.how == "pipeline" and job.config.train.options.get("reward", "entropy") == "entropy"
    basis = "within_prompt" if (run.gap or {}).get("basis") == "within" else "overall"
    gap = (run.gap or {}).get(basis) or {}
    return {
        "decoding": decoding,
        "gap": (run.gap or {}).get("verdict"),
        "gap_nats": {key: gap.get(key) for key in ("difference", "low", "high")},
        "rewards_certainty": certain,
        "dsr_before": overall(before).rate if before else None,
        "dsr_after": overall(after).rate if after else None,
        "change": asdict(moved) if moved else None,
        "rose": rose,
    }


# --- over seeds -----------------------------------------------------------------------------------------------------


def summarise_comparison(jobs: Sequence[Job], results: Sequence[Measured | Failed]) -> Table:
    """The content of `compare.json`."""
    model = jobs[0].config.model_name_or_path
    rows, by_name = [], defaultdict(list)
    for job, result in zip(jobs, results, strict=True):
        row: Table = {"method": job.name, "seed": job.seed, "folder": job.folder.name}
        if isinstance(result, Failed):
            rows.append({**row, "status": "failed", "reason": result.reason})
        else:
            rows.append({**row, "status": "done", "model": job.config.model_name_or_path, **result.row})
            by_name[job.name].append(result)
    methods = {}
    for job in jobs:
        facts = {"description": job.method.description, "source": job.method.source, "settings": dict(job.settings)}
        if job.method.how == "pipeline" and job.name not in ("sirl", "sirl_published"):
            facts["description"] = "a variant of the configuration"
        facts["model"] = job.config.model_name_or_path
        failed = [row["reason"] for row in rows if row["method"] == job.name and row["status"] == "failed"]
        methods[job.name] = {**facts, **summarise_method(by_name[job.name]), "failed": failed}
    points, inside = (_points(methods, model, price) for price in ("over_refusal", "wrapped"))
    dominated, beaten = dominators(points), dominators(inside)
    for name, method in methods.items():
        method["dominated_by"] = dominated.get(name)
        method["on_front"] = not dominated[name] if name in dominated else None
        method["on_wrapped_front"] = not beaten[name] if name in beaten else None
    return {
        "model": model,
        "seeds": sorted({job.seed for job in jobs}),
        "methods": methods,
        "front": [name for name in points if not dominated[name]],
        "wrapped_front": [name for name in inside if not beaten[name]],
        "at_equal_over_refusal": at_equal_over_refusal(jobs, results),
        "rows": rows,
        "gap": gap_table(rows, model),
    }


def _points(methods: Mapping[str, Table], model: str, price: str) -> dict[str, tuple[float, float]]:
    """DSR and a price by name, of methods that start from `model` and have both."""
    placed = {name: m for name, m in methods.items() if m["model"] == model and m["dsr"] and m[price]}
    return {name: (m["dsr"]["mean"], m[price]["mean"]) for name, m in placed.items()}


def summarise_method(runs: Sequence[Measured]) -> Table:
    """By figure: `mean`, `min`, `max` over the seeds that have it, rates with an interval; None where no seed does.

    `start` has those of the base model that the runs began with.
    """
    out: Table = {"seeds": len(runs)}
    for name in FIGURES:
        if name in RATES:
            out[name] = _rate_over_seeds(runs, name)
        elif name == "dprime":
            out[name] = _dprime_over_seeds(runs)
        else:
            out[name] = spread([run.row[name] for run in runs if run.row[name] is not None])
    out["start"] = {name: _rate_over_seeds(runs, name, "start/") for name in STARTS}
    return out


def _rate_over_seeds(runs: Sequence[Measured], name: str, whose: str = "") -> Table | None:
    found = [(run.row["start"] if whose else run.row)[name] for run in runs]
    known = [(run, rate) for run, rate in zip(runs, found, strict=True) if rate is not None]
    out = spread([rate["rate"] for _, rate in known])
    if out is not None:
        units, strata = (
            [run.units[whose + name] for run, _ in known],
            [run.strata.get(whose + name) for run, _ in known],
        )
        low, high, n = interval(units, out["mean"], clustered=name in CLUSTERED, strata=strata)
        out |= {"low": low, "high": high, "n": n}
    return out


def _dprime_over_seeds(runs: Sequence[Measured]) -> Table | None:
    """Mean d' over seeds; its interval is that of their answers together, over the same wrappings and requests."""
    known = [run for run in runs if run.row["dprime"] is not None]
    out = spread([run.row["dprime"]["value"] for run in known])
    if out is not None:
        found = _dprime(pooled([run.told for run in known if run.told])) or {"low": out["mean"], "high": out["mean"]}
        out |= {"low": min(found["low"], out["mean"]), "high": max(found["high"], out["mean"])}
    return out


def interval(
    seeds: Sequence[Units], mean: float, *, clustered: bool, strata: Sequence[Sequence[Units] | None] = ()
) -> tuple[float, float, int]:
    """95% interval of a mean rate over seeds, by goals or prompts, and how many of those there are.

    `clustered`: many answers to each, so a bootstrap over them, of the mean over seeds and attacks (`strata`, those of
    each seed). Else Wilson's for as many answers as there are prompts, whatever the number of seeds.
    """
    names = list(dict.fromkeys(name for units in seeds for name, (_, scored) in units.items() if scored))
    if clustered:
        parts = [[units] for units in seeds]
        parts = [list(own) if own else part for own, part in zip(strata, parts, strict=True)] if strata else parts
        cells = np.array([[units.get(name, (0.0, 0.0)) for name in names] for part in parts for units in part])
        weights = [1 / len(part) for part in parts for _ in part]
        found = mean_share(cells[..., 0], cells[..., 1], weights)
        return min(found.low, mean), max(found.high, mean), len(names)
    low, high = wilson_interval(mean * len(names), len(names))
    return min(low, mean), max(high, mean), len(names)


def dominators(points: Mapping[str, tuple[float, float]]) -> dict[str, list[str]]:
    """By name, who is at least as safe and as helpful and better in one of the two; nobody on the Pareto front.

    A point is (DSR, over-refusal): the first is to be high and the second low.
    """
    return {
        name: [
            other
            for other, (safe, refused) in points.items()
            if safe >= point[0] and refused <= point[1] and (safe, refused) != point
        ]
        for name, point in points.items()
    }
