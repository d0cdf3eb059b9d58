"""Two models through benchmarks and benign prompts, one after the other, into the files of one folder.

What is written whole is not measured again, so an interrupted measurement goes on with the next benchmark.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sirl import stages
from sirl.errors import UserError
from sirl.evals.benchmarks import Benchmark, Table, compare, statement
from sirl.evals.drift import Text, measure_drift, read_texts
from sirl.evals.overrefusal import load_benign
from sirl.generation import load_local
from sirl.generation.local import LocalEngine
from sirl.judges import load_judge
from sirl.manifest import Manifest
from sirl.progress import BarMaker, no_bar
from sirl.prompts import check_disjoint, load_prompts
from sirl.records import Phase, Prompt, iter_json_lines, user_turn, write_json, write_jsonl

log = logging.getLogger(__name__)

PHASES: tuple[Phase, ...] = ("before", "after")
DRIFT_ANSWERS = 100
"""Chat answers of the starting model that drift is measured on: their distributions are held in memory."""


def check_tasks(benchmarks: Sequence[Benchmark]) -> None:
    """Raise `UserError` where lm-evaluation-harness is not installed, or has no task of a name."""
    if find_spec("lm_eval") is None:
        raise UserError("--tasks: needs the extra `eval` (pip install 'sirl[eval]')")
    from sirl.evals.harness import check_names

    check_names(benchmarks)


def check_unseen(benign: Sequence[Prompt], folder: Path, model: str, flag: str) -> None:
    """Refuse prompts that the model was trained on or chosen by: figures come from data that neither has seen.

    Looked up in the run folder that results go into, and in the one that the model lies in. Training and retention
    prompts are read again as the manifest says; where they are gone, a warning says that they were not looked at. Where
    there is a `chosen.json`, the development set is drawn again.

    Raises:
        UserError: a prompt is in one of these sets, or the development set cannot be read any more. It names `flag`.
    """
    weights = Path(model).expanduser()
    runs = [folder.resolve(), *([weights.resolve().parent] if weights.is_dir() else [])]
    for run in dict.fromkeys(runs) if benign else ():
        for how, sets in (("chosen by", _chosen_on(run, flag)), ("trained on", _trained_on(run, flag))):
            for name, prompts in sets.items():
                try:
                    check_disjoint(prompts, benign, train_name=name, test_name=flag)
                except UserError as error:
                    words = f"{flag}: the model of {run.name} was {how} some of these prompts"
                    raise UserError(f"{words}, so they do not measure it ({error})") from None


def _trained_on(run: Path, flag: str) -> dict[str, list[Prompt]]:
    """Training and retention prompts of a run folder, or of a folder of `sirl train`, whole, by their keys."""
    from sirl.report.training import training_config

    try:
        manifest = Manifest.read(run)
    except UserError:
        return {}  # somebody else's file beside the model; in the folder for the results it is refused later
    train = training_config(manifest.data if manifest else None)
    section = "" if manifest and train is manifest.data.get("config") else "train."
    read: dict[str, dict[str, Any]] = {
        "dataset_name": {"column": train.get("prompt_column"), "split": train.get("dataset_train_split") or "train"},
        "retention_dataset_name": {},
    }
    out: dict[str, list[Prompt]] = {}
    for key, how in read.items():
        try:
            if train.get(key):
                out[section + key] = load_prompts(str(train[key]), flag=section + key, **how)
        except UserError as error:
            log.warning("%s: not checked against what the model of %s was trained on (%s)", flag, run.name, error)
    return out


def _chosen_on(run: Path, flag: str) -> dict[str, list[Prompt]]:
    """The development set of a run folder, as `sirl.plan` drew it; empty where nothing was chosen by one."""
    manifest = Manifest.read(run) if (run / "chosen.json").is_file() else None
    config = (manifest.data.get("config") if manifest else None) or {}
    own, seed = config.get("development") or {}, int(config.get("seed") or 0)
    sources = [("goals", own.get("max_goals")), ("overrefusal", own.get("max_prompts"))]
    out: dict[str, list[Prompt]] = {}
    try:
        for key, limit in sources:
            if own.get(key):
                out[f"development.{key}"] = load_benign(own[key], limit, seed, f"development.{key}")
    except UserError as error:
        raise UserError(
            f"{flag}: cannot tell whether the model of {run.name} was chosen by the same prompts, as its development "
            f"set cannot be read ({error})"
        ) from error
    return out


def clear(folder: Path) -> None:
    """Forget an earlier measurement in a folder, and touch nothing else: it may be that of a whole run."""
    found = Manifest.read(folder)
    if found is not None:
        found.forget("eval")
        shutil.rmtree(folder / "benchmarks", ignore_errors=True)
        (folder / "benchmarks.json").unlink(missing_ok=True)


def measure(
    models: Mapping[str, str],
    benchmarks: Sequence[Benchmark],
    benign: Sequence[Prompt],
    folder: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    bar: BarMaker = no_bar,
) -> Table:
    """The content of `benchmarks.json`; `models` has `before` and `after`.

    Keys: `models`, `benchmarks` (by name: see `sirl.evals.benchmarks.compare`, and its `statement`), `drift` (see
    `sirl.evals.drift`; None without the benchmark `chat`) and `overrefusal` (see `report.aggregate.benign_summary`).
    """
    chat = next((one for one in benchmarks if one.name == "chat"), None)
    drift = chat is not None and not _drift_file(folder).is_file()
    texts: list[Text] = []
    for phase in PHASES:
        todo = [one for one in benchmarks if not _rows_file(folder, one, phase).is_file()]
        if not (todo or benign or drift):
            continue
        engine = load_local(models[phase])
        if benign:  # goes on by itself
            settings: dict[str, Any] = {"phase": phase, "decodings": ["greedy"], "max_new_tokens": 64, "seed": seed}
            stages.ask_benign(engine, benign, folder / "benchmarks", **settings, bar=bar)
        _run(engine, todo, folder, phase, limit, bar)
        if chat is not None and drift and phase == "before":
            answers = [r for r in iter_json_lines(_rows_file(folder, chat, phase)) if r["response"].strip()]
            texts = read_texts(engine, [(user_turn(r["prompt"]), r["response"]) for r in answers[:DRIFT_ANSWERS]])
        elif drift:
            write_json(_drift_file(folder), measure_drift(engine, texts))
        del engine  # one model at a time
    return _compared(models, benchmarks, folder, bool(benign), bar)


def _run(
    engine: LocalEngine, todo: Sequence[Benchmark], folder: Path, phase: str, limit: int | None, bar: BarMaker
) -> None:
    for one in todo:
        from sirl.evals.harness import EngineLM, run_benchmark

        with bar(f"{one.name} ({phase})") as progress:
            rows = run_benchmark(one, EngineLM(engine, progress), limit)
        write_jsonl(_rows_file(folder, one, phase), rows)


def _compared(
    models: Mapping[str, str], benchmarks: Sequence[Benchmark], folder: Path, benign: bool, bar: BarMaker
) -> Table:
    found: Table = {"models": dict(models), "benchmarks": {}, "drift": None, "overrefusal": None}
    for one in benchmarks:
        result = compare(*(list(iter_json_lines(_rows_file(folder, one, phase))) for phase in PHASES))
        found["benchmarks"][one.name] = {**result, "statement": statement(result)}
    if _drift_file(folder).is_file():
        found["drift"] = json.loads(_drift_file(folder).read_text(encoding="utf-8"))
    if benign:
        found["overrefusal"] = _judged(folder / "benchmarks", bar)
    write_json(folder / "benchmarks.json", found)
    return found


def _judged(folder: Path, bar: BarMaker) -> Table:
    """Refusals of the benign prompts in a folder, by category, before and after."""
    from sirl.records import Attempt, read_jsonl
    from sirl.report.aggregate import benign_summary
    from sirl.report.load import join

    attempts = read_jsonl(folder / "benign_attempts.jsonl", Attempt)
    verdicts = stages.judge_file(attempts, [load_judge("refusal")], folder, "benign_", bar)
    return benign_summary(join(attempts, verdicts))


def _rows_file(folder: Path, benchmark: Benchmark, phase: str) -> Path:
    return folder / "benchmarks" / f"{benchmark.slug}.{phase}.jsonl"


def _drift_file(folder: Path) -> Path:
    return folder / "benchmarks" / "drift.json"
