"""Two models through benchmarks and benign prompts, one after the other, into the files of one folder.

What is written whole is not measured again, so an interrupted measurement goes on with the next benchmark.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sirl import stages
from sirl.attacks.run import AttemptSettings
from sirl.errors import UserError
from sirl.evals.benchmarks import Benchmark, Table, compare, statement
from sirl.evals.drift import Text, measure_drift, read_texts
from sirl.evals.sandbox import isolated_by
from sirl.generation import load_local
from sirl.generation.local import LocalEngine
from sirl.judges import load_judge
from sirl.manifest import Manifest
from sirl.progress import BarMaker, no_bar
from sirl.provenance import Source, model_source
from sirl.records import Attempt, Phase, Prompt, iter_json_lines, read_jsonl, user_turn, write_json, write_jsonl
from sirl.results.load import attach_verdicts
from sirl.results.summary import benign_summary
from sirl.results.values import Benign, as_json
from sirl.run_folder import BENCHMARK_ROWS, BENCHMARKS, BENIGN

PHASES: tuple[Phase, ...] = ("before", "after")
DRIFT_ANSWERS = 100
"""Chat answers of the base model that drift is measured on: their distributions are held in memory."""


def check_tasks(benchmarks: Sequence[Benchmark]) -> None:
    """Raise `UserError` where lm-evaluation-harness is not installed, or has no task of a name."""
    if find_spec("lm_eval") is None:
        raise UserError("--tasks: needs the extra `eval` (pip install 'sirl[eval]')")
    from sirl.evals.harness import check_names

    check_names(benchmarks)


def clear(folder: Path) -> None:
    """Forget an earlier measurement in a folder, and touch nothing else: it may be that of a whole run."""
    found = Manifest.read(folder)
    if found is not None:
        (folder / BENCHMARKS).unlink(missing_ok=True)
        if (folder / BENCHMARK_ROWS).is_dir():
            shutil.rmtree(folder / BENCHMARK_ROWS)
        found.forget("eval")  # last: rows of other settings must not be taken for those of the next measurement


def measure(
    models: Mapping[str, str],
    benchmarks: Sequence[Benchmark],
    benign: Sequence[Prompt],
    folder: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    revisions: Mapping[str, str | None] | None = None,
    used: Callable[[dict[str, Source]], None] = lambda _: None,
    bar: BarMaker = no_bar,
) -> Table:
    """The content of `benchmarks.json`; `models`, and `revisions` of them, have `before` and `after`.

    `used` is told which version of a model was loaded, before it is measured.

    Keys: `models`, `benchmarks` (by name: see `sirl.evals.benchmarks.compare`, and its `statement`; where programs of
    the models ran, `isolation`, what they were kept from: see `sirl.evals.sandbox.LEVELS`), `drift` (see
    `sirl.evals.drift`; None without the benchmark `chat`) and `overrefusal` (see `sirl.results.summary`).
    """
    chat = next((one for one in benchmarks if one.name == "chat"), None)
    drift = chat is not None and not _drift_file(folder).is_file()
    texts: list[Text] = []
    for phase in PHASES:
        todo = [one for one in benchmarks if not _rows_file(folder, one, phase).is_file()]
        if not (todo or benign or drift):
            continue
        revision = (revisions or {}).get(phase)
        version: dict[str, Any] = {"revision": revision} if revision else {}
        engine = load_local(models[phase], chat_template_kwargs=chat_template_kwargs, **version)
        used({phase: model_source(models[phase], revision)})
        if benign:  # goes on by itself
            stages.ask_benign(engine, benign, folder / BENCHMARK_ROWS, AttemptSettings(phase, seed=seed), bar)
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
        write_jsonl(_rows_file(folder, one, phase), _with_isolation(one, rows))


def _with_isolation(benchmark: Benchmark, rows: Sequence[Table]) -> Sequence[Table]:
    """Rows that say what the models' programs were kept from, where any ran."""
    unsafe = benchmark.config.get("unsafe_code")
    return [{**row, "isolation": isolated_by().words} for row in rows] if unsafe else rows


def _compared(
    models: Mapping[str, str], benchmarks: Sequence[Benchmark], folder: Path, benign: bool, bar: BarMaker
) -> Table:
    found: Table = {"models": dict(models), "benchmarks": {}, "drift": None, "overrefusal": None}
    for one in benchmarks:
        rows = [list(iter_json_lines(_rows_file(folder, one, phase))) for phase in PHASES]
        result = compare(*rows)
        found["benchmarks"][one.name] = {**result, "statement": statement(result)}
        isolated = sorted({row["isolation"] for part in rows for row in part if "isolation" in row})
        if isolated:  # different ones where it was continued on another machine
            found["benchmarks"][one.name]["isolation"] = isolated
    if _drift_file(folder).is_file():
        found["drift"] = json.loads(_drift_file(folder).read_text(encoding="utf-8"))
    if benign:
        found["overrefusal"] = as_json(_judged(folder / BENCHMARK_ROWS, bar))
    write_json(folder / BENCHMARKS, found)
    return found


def _judged(folder: Path, bar: BarMaker) -> Benign:
    """Refusals of the benign prompts in a folder, by category, before and after."""
    attempts = read_jsonl(folder / BENIGN.attempts, Attempt, lean=True)
    verdicts = stages.judge_file(attempts, [load_judge("refusal")], folder, BENIGN, bar)
    return benign_summary(attach_verdicts(attempts, verdicts, harmless=True))


def _rows_file(folder: Path, benchmark: Benchmark, phase: str) -> Path:
    return folder / BENCHMARK_ROWS / f"{benchmark.slug}.{phase}.jsonl"


def _drift_file(folder: Path) -> Path:
    return folder / BENCHMARK_ROWS / "drift.json"
