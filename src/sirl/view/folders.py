"""Finds run folders, and reads them once for as long as their files stay the same."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirl.errors import UserError
from sirl.results.interface import Summary, read_summary
from sirl.results.load import Run, load_run
from sirl.results.summary import results_of
from sirl.results.values import Results
from sirl.run_folder import ATTACKS, BENIGN, MANIFEST, METRICS, SUMMARY, WRAPPED

SIGNS = (MANIFEST, ATTACKS.attempts, METRICS)
"""A folder with one of these is a run."""
NOT_RUNS = frozenset({"model", "base", "checkpoints", "adapter"})
DEPTH = 3
KEPT = 6
"""Runs held in memory."""


def find_runs(root: Path) -> dict[str, Path]:
    """Runs below a folder by name, which is the path from there (`.` for the folder itself); links are not followed."""
    return {path.relative_to(root).as_posix(): path for path in sorted(_walk(root, DEPTH))}


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if any((folder / sign).is_file() for sign in SIGNS):
        yield folder
    if depth == 0:
        return
    try:
        entries = list(os.scandir(folder))
    except PermissionError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and entry.name not in NOT_RUNS and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), depth - 1)


@dataclass(frozen=True)
class Brief:
    """A row of the table of runs. `summary` is None where there is none that can be read."""

    model: str
    created: str
    status: str
    open: list[str]
    summary: Summary | None
    has_metrics: bool
    has_attempts: bool


def brief(path: Path) -> Brief:
    """What the table of runs shows, from `manifest.json` and `summary.json` alone."""
    manifest = _json(path / MANIFEST)
    try:
        summary = read_summary(path / SUMMARY)
    except UserError:  # not there yet, or written by something else
        summary = None
    stages = manifest.get("stages")
    running = [
        str(name)
        for name, stage in (stages.items() if isinstance(stages, Mapping) else ())
        if isinstance(stage, Mapping) and stage.get("status") not in (None, "done")
    ]
    config = manifest.get("config")
    return Brief(
        model=str(config.get("model_name_or_path") or "") if isinstance(config, Mapping) else "",
        created=str(manifest.get("created") or ""),
        status=str(manifest.get("status") or "") or ("done" if summary else "unknown"),
        open=running,
        summary=summary,
        has_metrics=(path / METRICS).is_file(),
        has_attempts=any((path / suite.attempts).is_file() for suite in (ATTACKS, BENIGN, WRAPPED)),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or being written by something else: there is nothing to show of it yet
        return {}
    return value if isinstance(value, dict) else {}


class Cache:
    """Loaded runs with their results; read again when a file of the folder has changed. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Path, tuple[object, Run, Results]] = OrderedDict()

    def get(self, path: Path) -> tuple[Run, Results]:
        """A run and its results.

        Raises:
            UserError: a file of the folder cannot be read.
        """
        with self._lock:
            signature = _signature(path)
            held = self._held.pop(path, None)
            if held is None or held[0] != signature:
                run = load_run(path)
                held = (signature, run, results_of(run))
            self._held[path] = held
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
            return held[1], held[2]


def _signature(path: Path) -> object:
    """Names, sizes and times of the files that a report is made of."""
    files = (entry for entry in os.scandir(path) if entry.name.endswith((".json", ".jsonl")))
    return frozenset((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files)
