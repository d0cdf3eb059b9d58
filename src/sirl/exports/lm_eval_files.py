"""What `sirl eval` measured, as files of lm-evaluation-harness: `results_DATE.json` and `samples_TASK_DATE.jsonl` in a
folder for each model, for tools that collect them. The harness itself is not needed.

Standard errors are "N/A", as the harness writes without a bootstrap; our intervals are in `benchmarks.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sirl.errors import UserError
from sirl.evals.benchmarks import Benchmark
from sirl.records import iter_json_lines, write_json, write_jsonl
from sirl.results.rates import PHASES
from sirl.run_folder import BENCHMARK_ROWS, BENCHMARKS


def write_lm_eval(run_dir: Path, folder: Path) -> list[Path]:
    """Write both kinds of files below `folder`; returns their paths.

    Raises:
        UserError: the run has no benchmarks.
    """
    source = run_dir / BENCHMARKS
    if not source.is_file():
        raise UserError(f"--lm_eval: {run_dir} has no {BENCHMARKS}; run sirl eval --tasks first")
    found = json.loads(source.read_text(encoding="utf-8"))
    if not found["benchmarks"]:
        raise UserError(f"--lm_eval: {source} has no benchmark; run sirl eval --tasks first")
    made = datetime.fromtimestamp(source.stat().st_mtime, UTC)
    date = made.strftime("%Y-%m-%dT%H-%M-%S.%f")
    paths = []
    for phase in PHASES:
        model = str(found["models"][phase])
        target = folder / re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model).strip("_")
        target.mkdir(parents=True, exist_ok=True)
        results = {name: _figures(name, table, phase) for name, table in found["benchmarks"].items()}
        counts = {}
        for name in results:
            rows = list(iter_json_lines(run_dir / BENCHMARK_ROWS / f"{Benchmark(name).slug}.{phase}.jsonl"))
            counts[name] = {"original": len(rows), "effective": len(rows)}
            paths.append(target / f"samples_{Benchmark(name).slug}_{date}.jsonl")
            write_jsonl(paths[-1], [_sample(i, row) for i, row in enumerate(rows)])
        paths.append(target / f"results_{date}.json")
        write_json(
            paths[-1],
            {
                "results": results,
                "group_subtasks": {name: [] for name in results},
                "configs": {},
                "versions": {},
                "n-shot": {},
                "higher_is_better": {},
                "n-samples": counts,
                "config": {"model": "sirl", "model_args": {"pretrained": model}, "bootstrap_iters": 0},
                "date": made.timestamp(),
                "model_source": "sirl",
                "model_name": model,
            },
        )
    return paths


def _figures(name: str, table: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """Metrics under their names in the harness: `metric,filter`."""
    out: dict[str, Any] = {"alias": name}
    for figure, values in table["figures"].items():
        metric, _, chosen = figure.partition(", ")
        value = (values[phase] or {}).get("value")
        if value is not None:
            out[f"{metric},{chosen or 'none'}"] = value
            out[f"{metric}_stderr,{chosen or 'none'}"] = "N/A"
    return out


def _sample(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    metrics: Sequence[str] = sorted(row["figures"])
    return {
        "doc_id": number,
        "doc": {"id": row["id"], "prompt": row["prompt"]},
        "arguments": {"gen_args_0": {"arg_0": row["prompt"]}},
        "resps": [[row["response"]]],
        "filtered_resps": [row["response"]],
        "filter": "none",
        "metrics": list(metrics),
        **{name: row["figures"][name] for name in metrics},
    }
