"""Runs a comparison, each method and seed in a run folder of its own, and goes on where an earlier go stopped.

What the base model does, before any training, is measured once a seed, in the run of `none`; the others take its
files over. Trainings on its judged draws share those too. A method that fails is noted with its reason, and the others
go on.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sirl.compare.grid import Job
from sirl.compare.inference_defences import defend
from sirl.compare.measured import Failed, Measured
from sirl.compare.metrics import measure_run, summarise_comparison
from sirl.disk import unfinished
from sirl.errors import CannotWriteError, UserError
from sirl.experiment.config import RunConfig
from sirl.experiment.pipeline import judge, measure_after, measure_before, run_stages
from sirl.experiment.plan import Plan, named_data, prepare
from sirl.generation import Engine, load_engine
from sirl.lock import is_unused, sole_writer
from sirl.manifest import Manifest, check_writable, clear, config_hash, is_half_cleared
from sirl.models import give_back_memory
from sirl.progress import BarMaker, no_bar
from sirl.provenance import data_sources
from sirl.records import write_json, write_text
from sirl.redaction import redact_text
from sirl.run_folder import BASE, DRAWS, FAILURE, GAP, GAP_PLOT, GAP_SAMPLES, SUITES
from sirl.training.arguments import named_in_file

log = logging.getLogger(__name__)

GAP_FILES = (GAP, GAP_SAMPLES, GAP_PLOT)
BEFORE = tuple(name for suite in SUITES for name in (suite.attempts, suite.verdicts))
"""Files of the base model, which a run takes over from `none`."""


def compare(
    jobs: Sequence[Job], folder: Path, *, command: Sequence[str] = (), overwrite: bool = False, bar: BarMaker = no_bar
) -> dict[str, Any]:
    """Run, or go on with, a comparison; returns the content of its `compare.json`.

    Raises:
        UserError: something in the configuration is wrong, a folder holds another run, another process writes to it,
            or the disk takes no more.
    """
    check_writable(folder)
    for job in jobs:
        check_folder(job, overwrite)
    for job in {_asks(job.config): job for job in reversed(jobs)}.values():
        prepare(job.config)  # whatever can be wrong with a method is found before any work
    with sole_writer(folder):
        return _compare(jobs, folder, list(command), overwrite, bar)


def _compare(jobs: Sequence[Job], folder: Path, command: list[str], overwrite: bool, bar: BarMaker) -> dict[str, Any]:
    from sirl.compare.page import render_comparison

    if overwrite:  # all of them before any begins: interrupted, the same command without --overwrite goes on
        for job in jobs:
            clear(job.folder)
    earlier: list[Job] = []
    results: list[Measured | Failed] = []
    for number, job in enumerate(jobs, 1):
        log.info("%s, seed %d (%d of %d)", job.name, job.seed, number, len(jobs))
        result = attempt(job, earlier, command, bar)
        if isinstance(result, Measured):
            earlier.append(job)
        results.append(result)
        found = summarise_comparison(jobs[:number], results)  # so that what is there can be read while the rest runs
        write_json(folder / "compare.json", found)
        write_text(folder / "compare.html", render_comparison(found))
        gc.collect()  # a model makes room for the next one
        give_back_memory()
    return found


def _asks(config: RunConfig) -> str:
    """What configurations have in common that differ in seed and folder alone."""
    return json.dumps(replace(config, name="any", seed=0, output_dir=None).as_dict(), sort_keys=True)


def check_folder(job: Job, overwrite: bool) -> None:
    """Raise `UserError` where a job's folder holds something else than this job, begun or done."""
    manifest = Manifest.read(job.folder)
    if is_half_cleared(manifest):
        return  # `Manifest.open` begins anew there
    if manifest is None and job.folder.is_dir() and not is_unused(job.folder):
        raise UserError(f"--output_dir: {job.folder} is not empty and is not a run folder; give another --output_dir")
    if manifest and not overwrite and manifest.data.get("config_hash") != config_hash(job.as_dict()):
        raise UserError(
            f"--output_dir: {job.folder} holds a run of another configuration; give another --output_dir, or "
            "--overwrite to start again"
        )


def attempt(job: Job, earlier: Sequence[Job], command: list[str], bar: BarMaker) -> Measured | Failed:
    """The figures of one run, made or found; or why there are none."""
    try:
        manifest = Manifest.read(job.folder)
        if manifest is None or manifest.data.get("status") != "done":
            with sole_writer(job.folder), named_in_file("train"):
                run_job(job, earlier, command, bar)
        return measure_run(job)
    except CannotWriteError:
        raise  # of what concerns the others as well
    except Exception as error:  # of whatever kind: the other methods do not hang on this one
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        reason = redact_text(" ".join(words.split()))[:300]
        log.warning("%s, seed %d failed: %s", job.name, job.seed, reason)
        if Manifest.read(job.folder) is not None:
            write_text(job.folder / FAILURE, redact_text(traceback.format_exc()))
        return Failed(reason)


def run_job(job: Job, earlier: Sequence[Job], command: list[str], bar: BarMaker) -> None:
    """Every stage of a run that is not done yet."""
    plan = prepare(job.config)
    manifest = Manifest.open(job.folder, config=job.as_dict(), seed=job.seed, command=command)
    manifest.note_sources("data", data_sources(named_data(job.config)))
    if not manifest.stages:
        reuse_baseline(job, [start for start in earlier if start.method.how == "none"], manifest)
        reuse_samples(job, earlier)
    if job.method.how == "pipeline":
        run_stages(plan, manifest, bar)
    else:
        measure_before(plan, manifest, bar)
        if job.method.how == "trained" and not manifest.done("train"):
            from sirl.compare.baselines import TRAININGS

            with manifest.stage("train"):
                TRAININGS[job.name](plan, bar, **job.settings)
        if job.method.how == "none":
            judge(plan, manifest, bar)
        else:
            answering = partial(_defended, job, plan) if job.method.how == "inference_time" else None
            measure_after(plan, manifest, bar, answering)
        manifest.finish()
    (job.folder / FAILURE).unlink(missing_ok=True)


def _defended(job: Job, plan: Plan) -> Engine:
    engine: Any = load_engine(str(job.folder / BASE), **plan.loading)
    return defend(job.name, engine, job.settings)


def reuse_baseline(job: Job, starts: Sequence[Job], manifest: Manifest) -> None:
    """Make what the runs of `none` measured of the same model part of a run that begins.

    The copy of the model serves any seed; answers and verdicts only those of the same seed; the gap only where it is
    measured on the same prompts in the same way.
    """
    same = [start for start in starts if _model_of(start.config) == _model_of(job.config)]
    if not same:
        return
    taken = ["base"]
    link(same[0].folder / BASE, job.folder / BASE)
    found = Manifest.read(same[0].folder)
    manifest.note_sources("base", found.data.get("sources", {}).get("base", {}) if found else {})
    for start in same:
        if start.seed == job.seed:
            if _gap_of(start.config) == _gap_of(job.config):
                _copy(GAP_FILES, start.folder, job.folder)
                taken.append("gap")
            _copy(BEFORE, start.folder, job.folder)
            taken.append("attack_before")
    for stage in taken:
        manifest.add(stage, 0.0)


def reuse_samples(job: Job, earlier: Sequence[Job]) -> None:
    """Take over the judged draws of a run with the same training settings and seed; what it lacks is drawn anew."""
    for other in earlier:
        if other.method.how == job.method.how == "trained" and _draws_of(other) == _draws_of(job):
            _copy((DRAWS,), other.folder, job.folder)


def _draws_of(job: Job) -> tuple[Any, ...]:
    return job.seed, _model_of(job.config), job.config.train, job.config.gap.judge


def _model_of(config: RunConfig) -> tuple[str, str | None]:
    return config.model_name_or_path, config.model_revision


def _gap_of(config: RunConfig) -> tuple[Any, ...]:
    """All that decides how the gap is measured; its prompts are by default those of training and of retention."""
    keys = ("prompt_column", "dataset_train_split", "retention_dataset_name", "wrap_prompts")
    return config.gap, config.train.dataset_name, *(config.train.options.get(key) for key in keys)


def link(source: Path, target: Path) -> None:
    """Have a folder under another name too, by a link that survives a move of both, or as a copy."""
    whole = source.resolve()
    if target.exists():
        return
    try:
        target.symlink_to(os.path.relpath(whole, target.parent.resolve()), target_is_directory=True)
    except OSError:  # a file system, or an account on Windows, without links
        partial = unfinished(target)
        shutil.copytree(whole, partial, dirs_exist_ok=True)
        partial.rename(target)  # so that what is there under its name is whole


def _copy(names: Sequence[str], source: Path, target: Path) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
