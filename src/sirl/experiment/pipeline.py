"""The story of a run: gap, attack, train, attack again, see what else has changed, judge, report.

Each stage reads and writes files in the run folder. What the manifest calls done is not done again, so a run that was
interrupted goes on where it was; stages that answer many prompts go on in the middle.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sirl import stages
from sirl.attacks.attacker import with_attacker
from sirl.attacks.replay import with_replays
from sirl.attacks.run import AttemptSettings
from sirl.experiment.config import RunConfig
from sirl.experiment.forecast import Clock
from sirl.experiment.plan import Plan, named_data, planned_gap, prepare
from sirl.generation import Engine, load_engine
from sirl.generation.local import LocalEngine
from sirl.judges import refusal_judge
from sirl.lock import sole_writer
from sirl.manifest import Manifest, check_writable
from sirl.progress import BarMaker, no_bar
from sirl.provenance import data_sources, model_source
from sirl.records import Phase, write_json
from sirl.run_folder import BASE, DEVELOPMENT, EVALS, MODEL, SUMMARY
from sirl.training.arguments import named_in_file
from sirl.training.memory import announce


def run_pipeline(
    config: RunConfig,
    *,
    command: Sequence[str] = (),
    overwrite: bool = False,
    bar: BarMaker = no_bar,
    forecast: bool = False,
) -> dict[str, Any]:
    """Run an experiment, or continue one that was interrupted.

    Args:
        config: what to do; see `load_config`.
        command: the command line, for the manifest.
        overwrite: clear the run's folder first.
        bar: makes progress bars, see `sirl.progress`.
        forecast: say first how long it will take on this machine, and at each bar what is left (`Clock`).

    Returns:
        The content of its `summary.json`; shares are 0 to 1.

    Raises:
        UserError: something in the configuration is wrong, the gap is absent or reversed, another process writes to the
            folder, or the disk takes no more.
    """
    check_writable(config.run_dir)
    with named_in_file("train"):
        return _run(config, list(command), overwrite, bar, forecast)


def _run(config: RunConfig, command: list[str], overwrite: bool, bar: BarMaker, forecast: bool) -> dict[str, Any]:
    folder = config.run_dir
    plan = prepare(config)  # whatever can be wrong is found before any work
    found = None if overwrite else Manifest.read(folder)
    if found is None or not found.done("train"):
        announce(plan.training, config.model_name_or_path, config.model_revision)
    with sole_writer(folder):
        manifest = Manifest.open(
            folder, config=config.as_dict(), seed=config.seed, command=command, overwrite=overwrite
        )
        manifest.note_sources("data", data_sources(named_data(config)))
        return run_stages(plan, manifest, bar, Clock(manifest) if forecast else None)


def run_stages(plan: Plan, manifest: Manifest, bar: BarMaker, clock: Clock | None = None) -> dict[str, Any]:
    """Every stage that the manifest does not call done; returns the content of `summary.json`."""
    if clock is not None:
        bar = clock.bar(bar)
    measure_before(plan, manifest, bar, clock)
    if not manifest.done("train"):
        with manifest.stage("train"):
            train(plan, bar)
    measure_after(plan, manifest, bar)
    return report(manifest)


def measure_before(plan: Plan, manifest: Manifest, bar: BarMaker, clock: Clock | None = None) -> None:
    """The model that the run starts from: a copy of it, its gap, attacks and benign prompts.

    Raises:
        UserError: the gap is absent or reversed where it is required.
    """
    config, folder = plan.config, manifest.run_dir
    if not manifest.done("base"):
        with manifest.stage("base"):
            version = {"revision": config.model_revision} if config.model_revision else {}
            export_base(config.model_name_or_path, folder / BASE, **version)
            manifest.note_sources("base", {"model": model_source(config.model_name_or_path, config.model_revision)})
    if not (manifest.done("gap") and manifest.done("attack_before")):
        engine = load_engine(str(folder / BASE), **plan.loading)
        if clock is not None:
            clock.forecast(plan, engine)
        if not manifest.done("gap"):
            with manifest.stage("gap"):
                check_gap(plan, engine, bar)
        if config.gap.required:
            stages.require_gap(*stages.read_gap(folder), "gap.required: false")
        with manifest.stage("attack_before"):
            ask_all(plan, engine, "before", bar)
        del engine
        gc.collect()  # the model makes room for the one that is trained


def measure_after(plan: Plan, manifest: Manifest, bar: BarMaker, answering: Callable[[], Engine] | None = None) -> None:
    """The hardened model: the same attacks and benign prompts, what else has changed, verdicts on all answers.

    `answering` makes the engine of a defence that leaves the weights alone, so that nothing else can have changed.
    """
    config, folder = plan.config, manifest.run_dir
    if not manifest.done("attack_after"):
        with manifest.stage("attack_after"):
            engine = answering() if answering else load_engine(str(folder / MODEL), **plan.loading)
            ask_all(plan, engine, "after", bar)
    if answering is None and not manifest.done("capability"):
        with manifest.stage("capability"):
            stages.measure_capability(folder, plan.questions, config.evals.drift, plan.loading)
    if not manifest.done("judge"):
        judge(plan, manifest, bar)


def judge(plan: Plan, manifest: Manifest, bar: BarMaker) -> None:
    """Verdicts of all judges on all answers; the manifest notes which of them was named first."""
    with manifest.stage("judge"):
        manifest.name_judges([one.name for one in plan.judges])
        stages.judge_all(plan.judges, manifest.run_dir, bar)


def export_base(name: str, target: Path, revision: str | None = None) -> None:
    """A full copy of the model that the run starts from: every later stage, and everybody else, loads this one."""
    from sirl.models import load_model, load_tokenizer
    from sirl.weights.export import export_model

    if not target.exists():  # written under another name first, so what is there is whole
        tokenizer = load_tokenizer(name, revision=revision)  # before the model, which lets go of the bundled file
        export_model(load_model(name, revision=revision), tokenizer, target)


def check_gap(plan: Plan, engine: Any, bar: BarMaker) -> None:
    """Is there an instinct to train? Measured on prompts that can be trained on, where the engine tells which."""
    gap = plan.config.gap
    prompts = planned_gap(plan.config, plan.training, engine) if isinstance(engine, LocalEngine) else plan.gap
    settings = gap.config(plan.config.seed)
    stages.measure_gap(engine, refusal_judge(gap.judge, "gap.judge"), prompts, settings, plan.config.run_dir, bar)


def ask_all(plan: Plan, engine: Any, phase: Phase, bar: BarMaker) -> None:
    """Attacks, then benign prompts, then some of these in the wrappings of attacks, the same before and after.

    Adaptive attacks search anew each time. Afterwards, what they found before is put to the hardened model as well.
    """
    config, folder = plan.config, plan.config.run_dir
    settings = AttemptSettings(phase, config.attack.decoding, config.attack.max_new_tokens, config.seed)
    attacks = with_attacker(plan.attacks, config.attack.attacker_model, config.attack.attacker_engine)
    if phase == "after" and "greedy" in config.attack.decoding:  # what a search settled on is its greedy attempt
        attacks = with_replays(attacks)
    found = stages.attack(engine, attacks, plan.goals, folder, settings, bar)
    stages.recheck(engine, found, plan.judges[0], folder, config.attack.recheck_limit, bar=bar)
    settings = replace(settings, max_new_tokens=config.evals.max_new_tokens)
    if plan.benign:
        stages.ask_benign(engine, plan.benign, folder, settings, bar)
    if plan.wrappings:
        stages.ask_wrapped(engine, plan.wrappings, plan.wrapped, folder, settings, bar)


def train(plan: Plan, bar: BarMaker, reward: Callable[..., Any] | None = None) -> None:
    """Harden the model; an interrupted training goes on from its last checkpoint. `reward`: see `SIRLTrainer`."""
    from sirl.judges.refusal import refusal_figures
    from sirl.training.progress_callback import BarCallback
    from sirl.training.run import run_training

    training = plan.training
    with bar("train") as progress:
        callbacks = [BarCallback(progress), *policy_checks(plan)]
        settings = (training.config, training.model, training.data)
        run_training(*settings, callbacks=callbacks, reward=reward, watch=refusal_figures)


def policy_checks(plan: Plan) -> list[Any]:
    """What measures the policy on the development set during training, and selects a checkpoint, if there is a set."""
    from sirl.training.checkpoint_selection import CheckpointSelectionCallback, SelectionRule

    own, measured = plan.config.development, plan.development
    if own is None or measured is None:
        return []
    rule = SelectionRule.of(own) if own.choose else None
    path = plan.config.run_dir / DEVELOPMENT
    return [CheckpointSelectionCallback(measured.measure, own.every, path, rule, measured.begin)]


def report(manifest: Manifest) -> dict[str, Any]:
    """`evals.json`, `report.html`, the model's card and `summary.json`, from the files of the other stages."""
    from sirl.report.card import write_card
    from sirl.report.render import render_report
    from sirl.results.summary import summarise_run, summary_of

    folder, start = manifest.run_dir, time.monotonic()
    figures = summarise_run(folder)
    parts = {"overrefusal": "benign", "wrapped": "wrapped", "capability": "capability"}
    write_json(folder / EVALS, {name: figures[key] for name, key in parts.items()})
    render_report(folder)
    write_card(folder)
    manifest.add("report", time.monotonic() - start)
    summary = summary_of(folder).to_dict()
    write_json(folder / SUMMARY, summary)
    manifest.finish()
    return summary
