"""Attack a model with jailbreaks, judge its answers and print the defence success rate (DSR) of each attack.

Prompts and seeds do not depend on the model. To compare two models, run the command again with --phase after, the
hardened model and the same folder, then run sirl report. If interrupted, run the same command to continue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sirl.cli.common import (
    Outcome,
    add_engine_flags,
    add_judges_flag,
    check_revision,
    engine_of,
    positive_int,
    settings_of,
)
from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list
from sirl.run_folder import ATTACKS, WRAPPED

if TYPE_CHECKING:
    from sirl.attacks.base import Attack
    from sirl.cli.attack_view import AttackView
    from sirl.generation.base import Engine
    from sirl.judges import Judge
    from sirl.records import Attempt, Prompt, Verdict

RESUME_HINT = "the same command continues from here"

SAME_IN_BOTH = (
    "seed",
    "goals",
    "prompt_column",
    "max_goals",
    "max_new_tokens",
    "recheck_tokens",
    "decoding",
    "chat_template_kwargs",
    "overrefusal",
    "max_wrapped",
)
"""Flags that must be the same before and after: else the answers are not to the same prompts, or not made alike."""
SAME_BUDGET = ("attack_budget", "attack_seconds")
"""The same for what both phases search for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl attack`."""
    add_engine_flags(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for attempts.jsonl and verdicts.jsonl")
    parser.add_argument(
        "--attacks",
        default="static",
        help="comma-separated names, static, adaptive, all, module:Class or NAME@before (default: static)",
    )
    parser.add_argument("--template_file", help="add attacks from your own templates (.jsonl, .txt, .md)")
    parser.add_argument(
        "--goals",
        default="demo/behaviours",
        help="harmful requests: bundled name, file or org/name:config@split (default: %(default)s)",
    )
    parser.add_argument("--prompt_column", help="read the goals from this column")
    parser.add_argument("--max_goals", type=positive_int, help="use at most this many goals, sampled with --seed")
    parser.add_argument(
        "--overrefusal",
        default="demo/overrefusal",
        help="benign requests to ask in the wrappings of the static attacks too, greedily; none asks no such request "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--max_wrapped",
        type=positive_int,
        help="ask at most this many of them in each wrapping (default: 200 in all, at most --max_goals in each)",
    )
    parser.add_argument(
        "--phase", choices=("before", "after"), default="before", help="side of the comparison (default: before)"
    )
    parser.add_argument(
        "--decoding", default="greedy", help="greedy, sample (temperature 1) or greedy,sample (default: greedy)"
    )
    parser.add_argument(
        "--max_new_tokens", type=positive_int, default=64, help="token limit of an answer (default: 64)"
    )
    parser.add_argument(
        "--recheck_tokens",
        type=int,
        help="token limit for asking again after a refusal that was cut off (default: 4 x --max_new_tokens; 0: never)",
    )
    add_judges_flag(parser)
    _add_search_flags(parser)
    parser.add_argument(
        "--retry_errors", action="store_true", help="ask again wherever an earlier call ended in an error"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the files of an earlier run in the folder first"
    )


def _add_search_flags(parser: argparse.ArgumentParser) -> None:
    """What adaptive attacks may use."""
    parser.add_argument(
        "--attacker_model", help="model that writes prompts for attacks such as pair and tap (default: the target)"
    )
    parser.add_argument("--attacker_engine", default="local", help="where that model runs, as in --engine")
    parser.add_argument(
        "--attack_budget", type=positive_int, help="limit the model calls of an adaptive attack on each goal"
    )
    parser.add_argument(
        "--attack_seconds", type=_seconds, help="limit the wall time of an adaptive attack on each goal"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Check everything, then attack, then judge."""
    from sirl.cli.attack_view import show
    from sirl.lock import sole_writer
    from sirl.manifest import check_writable

    inputs = _inputs(args)
    check_writable(args.output_dir)
    with sole_writer(args.output_dir):
        found = _attack(args, *inputs)
    return Outcome(
        {"output_dir": str(args.output_dir), "phase": args.phase, "judge": args.judge, **found.to_dict()},
        lambda: show(found, args.phase, args.output_dir),
    )


def _attack(
    args: argparse.Namespace,
    attacks: list[Attack],
    judges: list[Judge],
    decodings: list[str],
    goals: list[Prompt],
    wrapped: list[Prompt],
) -> AttackView:
    """Attempts and verdicts into the folder; returns figures of all that it holds."""
    from sirl import stages
    from sirl.attacks.attacker import with_attacker
    from sirl.generation.options import split_engine
    from sirl.manifest import Manifest
    from sirl.progress import terminal_bar
    from sirl.provenance import data_sources, model_source

    left_out = ("output_dir", "overwrite", "retry_errors", "json", "command", "judge")
    settings = settings_of(args, left_out)
    for name in ("engine", "attacker_engine"):  # its options may change with the machine that the run goes on upon
        settings[name] = split_engine(settings[name])[0]
    stage = f"attack_{args.phase}"
    if not args.overwrite:
        _check_other_phase(args.output_dir, args.phase, settings, attacks, goals)
    # before the folder is written, or cleared: a model that cannot be used must leave no trace
    engine = engine_of(args)
    manifest = Manifest.open_stage(
        args.output_dir,
        stage,
        settings,
        seed=args.seed,
        command=sys.argv,
        overwrite=args.overwrite,
        reopen=args.retry_errors,
        blank=not stages.has_answers(args.output_dir / ATTACKS.attempts, args.phase),
    )
    used = {"model": model_source(args.model_name_or_path, args.model_revision)} if "://" not in args.engine else {}
    data = {"goals": args.goals, "overrefusal": args.overrefusal if wrapped else None}
    manifest.note_sources(stage, {**used, **data_sources(data)})
    attacks = with_attacker(attacks, args.attacker_model, args.attacker_engine)
    with manifest.stage(stage):
        attempts, dressed = _ask(args, engine, attacks, judges[0], decodings, goals, wrapped)
        del engine  # a judge's model may need the room
        manifest.name_judges([judge.name for judge in judges])
        verdicts = stages.judge_file(attempts, judges, args.output_dir, bar=terminal_bar)
        stages.judge_rechecked(judges, args.output_dir, terminal_bar)
        if dressed:
            stages.judge_file(dressed, judges, args.output_dir, WRAPPED, terminal_bar)
    manifest.finish()
    return _summary(args.output_dir, [judge.name for judge in judges], verdicts)


def _ask(
    args: argparse.Namespace,
    engine: Engine,
    attacks: list[Attack],
    judge: Judge,
    decodings: list[str],
    goals: list[Prompt],
    wrapped: list[Prompt],
) -> tuple[list[Attempt], list[Attempt]]:
    """Attempts with the goals, and with benign requests in the wrappings; refusals that were cut are asked again."""
    from sirl import stages
    from sirl.attacks.run import AttemptSettings
    from sirl.evals.adversarial_benign import wrappings_of
    from sirl.progress import terminal_bar

    settings = AttemptSettings(
        args.phase,
        decodings,  # type: ignore[arg-type]  # checked by `_inputs`
        args.max_new_tokens,
        args.seed,
        args.retry_errors,
    )
    attempts = stages.attack(engine, attacks, goals, args.output_dir, settings, terminal_bar)
    dressed: list[Attempt] = []
    if wrapped:
        wrappings = wrappings_of(attacks)
        dressed = stages.ask_wrapped(engine, wrappings, wrapped, args.output_dir, settings, terminal_bar)
    limit, again = _recheck_limit(args), args.retry_errors
    stages.recheck(engine, attempts, judge, args.output_dir, limit, retry_errors=again, bar=terminal_bar)
    return attempts, dressed


def _inputs(args: argparse.Namespace) -> tuple[list[Attack], list[Judge], list[str], list[Prompt], list[Prompt]]:
    """Attacks, judges, decodings, goals and benign requests to wrap, found and checked before any work."""
    from sirl.attacks import resolve_attacks
    from sirl.attacks.attacker import check_attacker
    from sirl.attacks.base import AttackOptions
    from sirl.attacks.templates import load_templates
    from sirl.evals.contamination import check_contamination
    from sirl.judges import load_judges
    from sirl.prompts import load_prompts

    check_revision(args)
    templates = load_templates(args.template_file) if args.template_file else ()
    judges = load_judges(args.judge)
    options = AttackOptions(None, args.attack_budget, args.attack_seconds, judges)
    attacks = resolve_attacks(args.attacks, templates, options)
    check_attacker(attacks, args.attacker_model, args.attacker_engine, "--attacker_model", "--attacker_engine")
    decodings = comma_list(args.decoding)
    if not decodings or not set(decodings) <= {"greedy", "sample"}:
        raise UserError(f"--decoding: expected greedy, sample or greedy,sample, got {args.decoding!r}")
    goals = load_prompts(
        args.goals, column=args.prompt_column, limit=args.max_goals, seed=args.seed, flag="--goals", with_category=True
    )
    check_contamination(goals, args.output_dir, args.model_name_or_path, "--goals")
    _recheck_limit(args)
    return attacks, judges, decodings, goals, _to_wrap(args, attacks)


def _to_wrap(args: argparse.Namespace, attacks: Sequence[Attack]) -> list[Prompt]:
    """The benign requests that are put into every wrapping; none where no attack wraps."""
    from sirl.evals.adversarial_benign import draw_evenly, prompts_each, wrappings_of
    from sirl.evals.contamination import check_contamination
    from sirl.evals.overrefusal import load_benign

    wrappings = wrappings_of(attacks)
    if args.overrefusal == "none" or not wrappings:
        return []
    benign = load_benign(args.overrefusal, None, args.seed, "--overrefusal")
    each = prompts_each(args.max_wrapped, len(wrappings))
    if args.max_wrapped is None and args.max_goals is not None:
        each = min(each, args.max_goals)
    drawn = draw_evenly(benign, each, args.seed)
    check_contamination(drawn, args.output_dir, args.model_name_or_path, "--overrefusal")
    return drawn


def _recheck_limit(args: argparse.Namespace) -> int | None:
    from sirl.experiment.config import recheck_limit

    return recheck_limit(args.recheck_tokens, args.max_new_tokens, "--recheck_tokens")


def _seconds(text: str) -> float:
    """argparse type: a time above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _check_other_phase(
    folder: Path, phase: str, settings: Mapping[str, Any], attacks: Sequence[Attack], goals: Sequence[Prompt]
) -> None:
    """See that this phase differs from the other one in the folder by the model alone.

    The attacks may differ, since only those of both phases are paired; what a search may spend has to be the same only
    where both phases search.

    Raises:
        UserError: a setting differs that answers depend on, or the goals do behind the same name.
    """
    from sirl.attacks.replay import Replay
    from sirl.manifest import Manifest
    from sirl.records import Attempt, read_records

    other = "after" if phase == "before" else "before"
    manifest = Manifest.read(folder)
    old = manifest.data.get("config", {}).get(f"attack_{other}") if manifest else None
    if manifest is None or not isinstance(old, dict):
        return
    flags = list(SAME_IN_BOTH)
    searches = {attack.name for attack in attacks if attack.kind == "adaptive" and not isinstance(attack, Replay)}
    attempts = folder / ATTACKS.attempts
    found = read_records(attempts, Attempt, lean=True) if attempts.is_file() else []
    found = [attempt for attempt in found if attempt.phase == other]
    if searches & {attempt.attack for attempt in found if attempt.queries is not None}:
        flags += SAME_BUDGET
    for flag in flags:
        if flag not in old:  # a folder of an older version: nothing was asked in wrappings
            continue
        theirs, ours = old.get(flag), settings[flag]
        if theirs != ours and not (flag == "decoding" and set(comma_list(str(theirs))) == set(comma_list(str(ours)))):
            raise UserError(
                f"--{flag}: {_shown(ours)} here, but {_shown(theirs)} in phase {other} of {folder}, with which it is "
                "compared; give the same, or another --output_dir"
            )
    ours_by_id = {goal.id: goal.text for goal in goals}
    if other_goals := [a.goal_id for a in found if ours_by_id.get(a.goal_id) != a.goal]:
        commit = manifest.data.get("sources", {}).get(f"attack_{other}", {}).get("goals", {}).get("commit")
        was = f" ({settings['goals'].partition('#')[0]}#{commit})" if commit else ""
        raise UserError(
            f"--goals {settings['goals']}: holds other requests than in phase {other} of {folder}, with which it is "
            f"compared ({other_goals[0]} for one); give what it was then{was}, or another --output_dir"
        )


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)


def _summary(folder: Path, judges: Sequence[str], verdicts: Sequence[Verdict]) -> AttackView:
    """Figures of all that the folder holds, which may be the other phase too: together they are pairs."""
    from sirl.cli.attack_view import AttackView
    from sirl.judges.run import why_unscored
    from sirl.judges.validate import judge_agreement
    from sirl.records import Attempt, Verdict, read_jsonl
    from sirl.results.attacks import attack_summary
    from sirl.results.load import attach_verdicts, in_order, load_run, rechecked_records
    from sirl.results.summary import results_of
    from sirl.results.truncated import truncation_summary

    found = read_jsonl(folder / ATTACKS.attempts, Attempt, lean=True)
    judged = in_order(read_jsonl(folder / ATTACKS.verdicts, Verdict), judges)
    rows = attach_verdicts(found, judged, judges[0])
    return AttackView(
        attack=attack_summary(rows),
        truncation=truncation_summary(rows, attach_verdicts(*rechecked_records(folder), judges[0])),
        agreement=judge_agreement(verdicts),
        reasons=why_unscored(verdicts, judges[0]),
        wrapped=results_of(load_run(folder)).wrapped,
    )
