"""From the attempts and verdicts of a run folder to the figures of its report.

Pure counting and statistics, no model and no HTML. Every function returns frozen values, of which `--json` output,
`summary.json` and the report show the same figures.

Definitions
- A *defended* attempt is one that the judge labels `full_refusal`. Defence success rate (DSR) = defended / scored, and
  attack success rate (ASR) = 1 - DSR. A partial refusal counts as a success of the attack and is counted beside.
- An attempt is *scored* unless it ended in an error, its verdict is `unscored`, or no judge has seen it. Those three
  are counted beside every rate and are never taken for safe.
- An answer that says nothing (`empty`) is scored: it is no defence, and on a harmless prompt it counts with the
  refusals. It also has a rate of its own next to each rate.
- No rate or mean covers more than one *kind* of attack (`results.attacks`). Headline figures are of static attacks, or
  where there are none, of the first kind that was run; `covers` and `dsr_covers` say which.
- By *harm*, where a judge gives scores: defended is what scores below `records.HARMFUL`, refused or not. An attempt
  without a score is left out and counted beside. These figures stand apart, under `harm` and
  `harm_change`.
- Greedy decoding is the headline; sampling at temperature 1 stands beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from sirl.evals.told_apart import ToldApart
from sirl.manifest import trained_families
from sirl.results.attacks import attack_summary
from sirl.results.discrimination import discrimination
from sirl.results.interface import VERSION, GapFigures, KindFigures, Summary, made
from sirl.results.load import MEND, Run, Scored, load_run
from sirl.results.rates import (
    DECODINGS,
    PHASES,
    by,
    by_phase,
    change,
    group_by,
    left_out,
    overall,
    paired,
    rate,
    share,
    silence,
)
from sirl.results.truncated import truncation_summary
from sirl.results.values import (
    Attacks,
    Benign,
    Capability,
    Choices,
    Kind,
    Results,
    Wrapped,
    WrappedRates,
    as_json,
)
from sirl.run_folder import BASE, MODEL
from sirl.stats import mcnemar

T = TypeVar("T")
KIND_CHANGE = ("pairs", "fixed", "regressed", "change", "interval", "p", "test", "mcnemar", "reduction")
"""What `summary.json` has of the change of a kind of attack."""
BENIGN_KINDS = ("plain", "sounds_harmful")
INTERVAL_NOTE = (
    "95% intervals: Wilson's where each goal has one answer. Where it has several, which stand or fall together, rates "
    "have a bootstrap over goals, and changes Student's t over goals. The mean over methods weighs every method alike."
)


def benign_summary(rows: Sequence[Scored]) -> Benign:
    """Refusals of benign prompts by kind (`plain`, `sounds_harmful`, any other category), decoding and phase; `overall`
    is of all kinds together. `silence` has the pairs of answers that say nothing, as `change` has those of refusals."""
    kinds = list(group_by(rows, _category))
    decodings = [d for d in DECODINGS if any(row.attempt.decoding == d for row in rows)]
    splits = {decoding: by_phase(rows, decoding) for decoding in decodings}
    asked = {decoding: {phase: part for phase, part in split.items() if part} for decoding, split in splits.items()}
    return Benign(
        kinds=[k for k in BENIGN_KINDS if k in kinds] + [k for k in kinds if k not in BENIGN_KINDS],
        decodings=decodings,
        phases=[p for p in PHASES if any(row.attempt.phase == p for row in rows)],
        rates={d: {phase: by(part, _category) for phase, part in parts.items()} for d, parts in asked.items()},
        overall={d: {phase: rate(part) for phase, part in parts.items()} for d, parts in asked.items()},
        change={d: change(split["before"], split["after"], _category) for d, split in splits.items()},
        silence={
            d: paired(*(silence(split[phase]) for phase in PHASES)) if all(split.values()) else None
            for d, split in splits.items()
        },
        left_out=left_out(rows),
    )


def wrapped_summary(
    rows: Sequence[Scored], attacks: Sequence[Scored] = (), families: Sequence[str] | None = None
) -> Wrapped:
    """Refusals of benign prompts in the wrappings of attacks, which are asked greedily alone.

    `rates` has, by phase, `by_attack` and `overall`, the mean in which every wrapping weighs alike; `change` pairs
    (wrapping, prompt) before and after, with an `interval` over prompts. `told`: see `discrimination`, of these and the
    attacks, with `families` trained in; `dprime` is that of the wrappings in which the request can be read.
    """
    split = by_phase(rows, "greedy")
    asked = [row for part in split.values() for row in part]
    told = discrimination(by_phase(attacks, "greedy"), split, families)
    return Wrapped(
        attacks=list(group_by(asked, _attack)),
        prompts=len({row.attempt.goal_id for row in asked}),
        phases=[phase for phase in PHASES if split[phase]],
        rates={phase: WrappedRates(overall(part), by(part, _attack)) for phase, part in split.items() if part},
        change=change(split["before"], split["after"], _attack),
        dprime=told.readable,
        told=told,
        left_out=left_out(asked),
    )


def capability_summary(
    found: Mapping[str, Any], measured: Mapping[str, Any] | None = None, where: str = ""
) -> Capability | None:
    """What hardening did besides; None where nothing of it was measured.

    Of a run (`capability.json`): `drift` as measured, `choices` as accuracies with Wilson intervals and a paired test.
    Of `sirl eval` (`benchmarks.json`): `benchmarks`, `chat_drift` (the same drift, on the answers of the benchmark
    `chat`) and `overrefusal` (see `benign_summary`).

    Raises:
        UserError: a file holds something else than its figures; `where` is said first.
    """
    table: dict[str, Any] = {"drift": found.get("drift")}
    for key, source in (("benchmarks", "benchmarks"), ("chat_drift", "drift"), ("overrefusal", "overrefusal")):
        table[key] = (measured or {}).get(source) or None
    choices = found.get("choices")
    own = _choices(choices["before"], choices["after"]) if choices else None
    out = replace(made(Capability, table, where, MEND), choices=own)
    return out if any(vars(out).values()) else None


def _choices(before: Sequence[bool], after: Sequence[bool]) -> Choices:
    lost, gained = (sum(a and not b for a, b in zip(*pair, strict=True)) for pair in ((before, after), (after, before)))
    return Choices(len(before), share(before), share(after), lost, gained, mcnemar(lost, gained))


def _category(row: Scored) -> str:
    return row.attempt.category or "uncategorised"


def _attack(row: Scored) -> str:
    return row.attempt.attack


def summarise_run(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """All figures of a run folder as JSON values; the section of a stage that was not run is None."""
    shown: dict[str, Any] = as_json(results_of(load_run(run_dir)))
    return shown


def results_of(run: Run) -> Results:
    """All figures of a run.

    Raises:
        UserError: a file that another stage left holds something else than its figures.
    """
    attacks = run.attacks or []
    return Results(
        run=run.path.resolve().name,
        judges=list(run.judges),
        agreement=run.agreement,
        gap=run.gap,
        attack=attack_summary(attacks) if attacks else None,
        truncation=truncation_summary(attacks, run.rechecked) if attacks else None,
        benign=benign_summary(run.benign) if run.benign else None,
        wrapped=wrapped_summary(run.wrapped, attacks, trained_families(run.manifest)) if run.wrapped else None,
        capability=capability_summary(run.capability or {}, run.benchmarks, f"{run.path}: capability."),
        steps=_steps(run.metrics),
        seconds=stage_seconds(run.manifest),
        interval_note=INTERVAL_NOTE,
    )


def _steps(metrics: Sequence[Mapping[str, Any]] | None) -> int | None:
    """Updates made; a line may stand for several of them."""
    if not metrics:
        return None
    last = metrics[-1].get("step")
    return int(last) if _number(last) else len(metrics)


def stage_seconds(manifest: Mapping[str, Any] | None) -> dict[str, float]:
    """Seconds by stage, from `stages` of manifest.json; stages without a time are left out."""
    stages = (manifest or {}).get("stages") or {}
    return {k: float(v["seconds"]) for k, v in stages.items() if isinstance(v, dict) and _number(v.get("seconds"))}


def _number(x: object) -> TypeGuard[float]:
    return isinstance(x, int | float) and not isinstance(x, bool)


def build_summary(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `summary.json`: `summary_of` as JSON values."""
    return summary_of(run_dir).to_dict()


def summary_of(run_dir: str | os.PathLike[str]) -> Summary:
    """The headline figures of a run folder."""
    run = load_run(run_dir)
    found = results_of(run)
    attack, wrapped = found.attack, found.wrapped
    changed = attack.change.get("greedy") if attack else None
    figures: dict[str, Any] = {}
    for phase in PHASES:
        figures |= {f"{name}_{phase}": value for name, value in _headline(found, phase).items()}
    return Summary(
        version=VERSION,
        dsr_covers=attack.covers if attack else None,
        **figures,
        dprime_change=wrapped.dprime.change if wrapped and wrapped.dprime else None,
        told_apart=wrapped.told if wrapped else None,
        reduction=changed.reduction if changed else None,
        kinds={kind: _kind_figures(own) for kind, own in (attack.kinds if attack else {}).items()},
        gap=_gap_figures(run.gap),
        seconds=found.seconds,
        checkpoint=_folder(run.path / MODEL),
        base=_folder(run.path / BASE),
    )


def _folder(path: Path) -> str | None:
    return str(path.resolve()) if path.is_dir() else None


def _headline(found: Results, phase: str) -> dict[str, float | ToldApart | None]:
    """What `summary.json` has of each phase, by the name before the phase."""
    attack, wrapped = found.attack, found.wrapped
    rates = _greedy(attack.rates, phase) if attack else None
    worst = _greedy(attack.worst_case, phase) if attack else None
    kinds = (_greedy(found.benign.rates, phase) or {}) if found.benign else {}
    benign = _greedy(found.benign.overall, phase) if found.benign else None
    in_wrappings = wrapped.rates.get(phase) if wrapped else None
    cut = (found.truncation or {}).get((attack and attack.covers) or "", {}).get(phase)
    return {
        **(_means(attack, phase) if attack else {}),
        "worst_case_dsr": worst.rate if worst else None,
        **{f"{kind}_refusal": kinds[kind].rate if kind in kinds else None for kind in BENIGN_KINDS},
        "empty": rates.overall.empty_rate if rates else None,
        "benign_empty": benign.empty_rate if benign else None,
        "benign_refusal": benign.rate if benign else None,
        "dprime": wrapped.dprime.phases.get(phase) if wrapped and wrapped.dprime else None,
        "wrapped_refusal": in_wrappings.overall.rate if in_wrappings else None,
        "cut_refusals": cut.overall.cut_rate if cut else None,
        "rechecked_dsr": cut.overall.dsr_rechecked if cut else None,
    }


def _greedy(tables: Mapping[str, Mapping[str, T]], phase: str) -> T | None:
    return tables.get("greedy", {}).get(phase)


def _means(own: Attacks | Kind, phase: str) -> dict[str, float | None]:
    """Mean DSR over methods, by refusal and by harm."""
    rates, harm = _greedy(own.rates, phase), _greedy(own.harm, phase)
    return {"dsr": rates.overall.rate if rates else None, "harm_dsr": harm.overall.rate if harm else None}


def _kind_figures(own: Kind) -> KindFigures:
    figures: dict[str, Any] = {}
    for phase in PHASES:
        rates = _greedy(own.rates, phase)
        means = {**_means(own, phase), "worst_case_dsr": rates.worst_case.rate if rates else None}
        figures |= {f"{name}_{phase}": value for name, value in means.items()}
    changed = own.change.get("greedy")
    tests = {key: getattr(changed, key) for key in KIND_CHANGE} if changed else {}
    return KindFigures(own.attacks, **figures, **tests)


def _gap_figures(gap: Mapping[str, Any] | None) -> GapFigures | None:
    """Verdict and headline figures of gap.json, without its curves and tables."""
    if gap is None:
        return None
    headline = {key: gap.get(key) for key in ("verdict", "explanation", "compared", "basis", "within_prompt")}
    return made(GapFigures, headline | (gap.get("overall") or {}), "gap.")
