"""`manifest.json`: what made a run folder, from which a run can be repeated, checked and gone on with.

It holds the command, the whole configuration, seed, versions, machine and, for each stage, its status, start and wall
seconds (summed over resumes). It is rewritten whole at each change, so a killed run leaves a readable one. It holds no
secrets (`sirl.redaction`), so that a run goes on with another key as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sirl.disk import is_device, reason, try_writing
from sirl.errors import UserError
from sirl.lock import is_unused
from sirl.provenance import Source, changed, git_commit, machine, sirl_commit, version_of, versions
from sirl.records import write_json
from sirl.redaction import redact
from sirl.run_folder import ALL, MANIFEST, SUITES, WRITTEN_BY
from sirl.wrapping import resolve_families

log = logging.getLogger(__name__)

_CLEARING = "clearing"
_WAYS_OUT = "give another --output_dir (or --name), or --overwrite to start again"


class Manifest:
    """The manifest of one run folder, kept in step with its file."""

    def __init__(self, run_dir: Path, data: dict[str, Any]) -> None:
        self.run_dir = run_dir
        self.data = data

    @classmethod
    def read(cls, run_dir: Path) -> Manifest | None:
        """The manifest of a folder, or None where there is none.

        Raises:
            UserError: the file is no manifest.
        """
        path = run_dir / MANIFEST
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            data = None
        if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
            raise UserError(f"{path}: not a run manifest; remove it or give another --output_dir")
        return cls(run_dir, data)

    @classmethod
    def open(
        cls, run_dir: Path, *, config: Mapping[str, Any], seed: int, command: list[str], overwrite: bool = False
    ) -> Manifest:
        """Start a run in a new or empty folder, or go on with an unfinished one of the same configuration.

        The address of a server may have changed since. With `overwrite` a run folder is cleared of what this package
        wrote there; other folders are never touched.

        Raises:
            UserError: the folder cannot be written, or holds something else.
        """
        plain = redact(json.loads(json.dumps(config)))
        found = cls._prepare(run_dir, overwrite)
        if found is None:
            return cls._create(run_dir, plain, seed, command)
        if found.data.get("status") == "done":
            raise UserError(f"--output_dir: {run_dir} holds a finished run; {_WAYS_OUT}")
        if found.data.get("config_hash") != config_hash(plain):
            keys = _changed(found.data.get("config") or {}, plain)
            raise UserError(
                f"--output_dir: {run_dir} holds an unfinished run of another configuration "
                f"({', '.join(keys[:4]) or 'other keys'} differ); {_WAYS_OUT}"
            )
        moved = {key: value for key, value in plain.items() if key != "output_dir"}
        found._reopen_lost()
        return found._go_on({**found.data["config"], **moved}, command)

    @classmethod
    def open_stage(
        cls,
        run_dir: Path,
        stage: str,
        settings: Mapping[str, Any],
        *,
        seed: int,
        command: list[str],
        overwrite: bool = False,
        reopen: bool = False,
        blank: bool = False,
    ) -> Manifest:
        """As `open`, for a command that is one stage: the folder may hold others, and this one unfinished.

        With `reopen` a finished stage of the same settings is gone on with as well. `blank` says that the stage has
        brought nothing so far: its settings bind nobody then.

        Raises:
            UserError: the folder cannot be written, holds something else, or holds this stage, finished or of other
                settings.
        """
        plain = redact(json.loads(json.dumps(settings, default=str)))
        found = cls._prepare(run_dir, overwrite)
        if found is None:
            return cls._create(run_dir, {stage: plain}, seed, command)
        old = found.data["config"].get(stage)
        if stage in found.stages and not blank:
            finished = found.done(stage)
            if finished and not (reopen or found._lacks_end()):
                raise UserError(f"--output_dir: {run_dir} holds a finished {stage}; {_WAYS_OUT}")
            if without_addresses(old) != without_addresses(plain):
                keys = _changed(old if isinstance(old, dict) else {}, plain)
                raise UserError(
                    f"--output_dir: {run_dir} holds {'a finished' if finished else 'an unfinished'} {stage} with other "
                    f"settings ({', '.join(keys[:4])} differ); {_WAYS_OUT}"
                )
            return found._go_on({**found.data["config"], stage: plain}, command)
        found.data.get("sources", {}).pop(stage, None)  # of settings that bind nobody any more
        found.data["config"][stage] = plain
        found.data.setdefault("commands", []).append(redact(command))
        found.data["status"] = "running"
        found._save()
        return found

    def forget(self, stage: str) -> None:
        """Take a stage out, so that it can be made again."""
        self.stages.pop(stage, None)
        self.data["config"].pop(stage, None)
        self.data.get("sources", {}).pop(stage, None)
        self._save()

    @classmethod
    def _prepare(cls, run_dir: Path, overwrite: bool) -> Manifest | None:
        """The manifest to go on with, or None for a folder that is empty or was cleared."""
        check_writable(run_dir)
        found = cls.read(run_dir)
        if found is None and run_dir.is_dir() and not is_unused(run_dir):
            raise UserError(f"--output_dir: {run_dir} is not empty and is not a run folder; give a new one")
        if overwrite or is_half_cleared(found):
            clear(run_dir)
            return None
        return found

    @classmethod
    def _create(cls, run_dir: Path, config: dict[str, Any], seed: int, command: list[str]) -> Manifest:
        new = cls(
            run_dir,
            {
                "created": _now(),
                "status": "running",
                "command": redact(command),
                "seed": seed,
                "config_hash": config_hash(config),
                "config": config,
                "versions": versions(),
                "machine": machine(),
                "git_commit": git_commit(Path.cwd()),  # of the user's own work
                "sirl_commit": sirl_commit(),
                "stages": {},
            },
        )
        new._save()
        return new

    def _lacks_end(self) -> bool:
        """Whether a process was killed between the end of its stage and that of the command: nothing was shown yet."""
        return self.data.get("status") == "running" and all(map(self.done, self.stages))

    def _reopen_lost(self) -> None:
        """Let stages be done again whose files somebody has deleted. Verdicts on answers that are gone go with them.

        Raises:
            UserError: they are those of the training, on which the rest stands.
        """
        lost = lost_files(self.run_dir, self.data)
        if "train" in lost:
            gone = ", ".join(lost["train"])
            raise UserError(
                f"--output_dir: {self.run_dir} has lost what the training left ({gone}); put it back, or {_WAYS_OUT}"
            )
        for stage, files in lost.items():
            log.warning("%s: %s is gone, so stage %s is done again", self.run_dir, ", ".join(files), stage)
        missing = {file for files in lost.values() for file in files}
        again = [suite for suite in SUITES if suite.attempts in missing]
        for name in (*missing, *(suite.verdicts for suite in again)):
            (self.run_dir / name).unlink(missing_ok=True)  # a link that leads nowhere, too
        for stage in (*lost, *(["judge"] if again else [])):
            if stage in self.stages:
                self.stages[stage]["status"] = "interrupted"

    def _go_on(self, config: dict[str, Any], command: list[str]) -> Manifest:
        self.data.setdefault("resumed", []).append(_now())
        if config != self.data.get("config"):  # a server has moved
            self.data["config"] = config
            self.data.setdefault("commands", []).append(redact(command))
        self.data["status"] = "running"
        self._save()
        return self

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Stage name -> `status` ("running", "interrupted", "done"), `started`, `seconds`."""
        stages: dict[str, dict[str, Any]] = self.data["stages"]
        return stages

    def done(self, name: str) -> bool:
        """Whether a stage was finished, now or in an earlier go."""
        return self.stages.get(name, {}).get("status") == "done"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a stage: its status and wall seconds are kept whatever happens inside."""
        entry = self.stages.setdefault(name, {"started": _now(), "seconds": 0.0})
        before = float(entry["seconds"])
        entry["status"] = "running"
        self._save()
        start = time.monotonic()
        try:
            yield
            entry["status"] = "done"
            entry["files"] = self._files_of(name)
        except BaseException:
            entry["status"] = self.data["status"] = "interrupted"
            raise
        finally:
            entry["seconds"] = round(before + time.monotonic() - start, 3)
            self._save()

    def _files_of(self, stage: str) -> list[str]:
        return [name for name in WRITTEN_BY.get(stage, ()) if (self.run_dir / name).exists()]

    def add(self, name: str, seconds: float) -> None:
        """Enter a stage that is done, in whose results the manifest itself had to stand without it."""
        entry = {"started": _now(), "seconds": round(seconds, 3), "status": "done", "files": self._files_of(name)}
        self.stages[name] = entry
        self._save()

    def name_judges(self, names: Sequence[str]) -> None:
        """Note the judges in the order in which they were named: the first one's labels are the refusals."""
        self.data["judges"] = list(names)
        self._save()

    def note_sources(self, stage: str, found: Mapping[str, Source]) -> None:
        """Keep which versions of model and data a stage uses, by their roles.

        Raises:
            UserError: an earlier go of it used another version.
        """
        kept = self.data.setdefault("sources", {}).setdefault(stage, {})
        other = changed(kept, found)
        if other:
            role, before, now = other
            raise UserError(
                f"--output_dir: {self.run_dir} was begun with {role} {before['name']} at {version_of(before)}, "
                f"which is at {version_of(now)} now; use the version that it was begun with, or {_WAYS_OUT}"
            )
        kept.update({role: source for role, source in found.items() if version_of(source) or role not in kept})
        self._save()

    def finish(self) -> None:
        """Mark the whole run as done."""
        self.data["status"] = "done"
        self.data["finished"] = _now()
        self._save()

    def _save(self) -> None:
        write_json(self.run_dir / MANIFEST, redact(self.data))


def lost_files(run_dir: Path, manifest: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Stages that are done, each with files that it left and that are there no more; only of those that lack some."""
    stages = (manifest or {}).get("stages")
    found = {
        stage: [name for name in entry.get("files") or () if not (run_dir / name).exists()]
        for stage, entry in (stages.items() if isinstance(stages, Mapping) else ())
        if isinstance(entry, Mapping) and entry.get("status") == "done"
    }
    return {stage: files for stage, files in found.items() if files}


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 of a configuration without secrets, addresses of servers and `output_dir`: it may run anywhere."""
    kept = {k: v for k, v in without_addresses(redact(config)).items() if k != "output_dir"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def run_config(manifest: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The configuration that a manifest holds; empty where there is none."""
    config = (manifest or {}).get("config")
    return config if isinstance(config, Mapping) else {}


def training_config(manifest: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Settings of the training: the section `train` of a run, or all that `sirl train` was given; empty where the
    manifest has neither. Of a run, what is not among them has its default."""
    config = run_config(manifest)
    train = config.get("train")
    if isinstance(train, Mapping):
        return train
    return config if "dataset_name" in config else {}


def trained_families(manifest: Mapping[str, Any] | None) -> list[str] | None:
    """Families of wrappings that training wrapped its prompts in; None where it wrapped none, or cannot be told."""
    train = training_config(manifest)
    if not train.get("wrap_prompts") or train.get("pair_weight") == 0:
        return None
    try:
        return [family.name for family in resolve_families(train.get("wrapping_families") or "all")]
    except UserError:  # families of another version
        return None


def check_writable(folder: Path, flag: str = "--output_dir") -> None:
    """Try to write into a folder, or where it will be, and leave no trace: before hours of work with nowhere to go.

    Several processes may do so at once: no folder is made, and each tries a file of its own.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        try_writing(there)
    except OSError as error:
        raise UserError(f"{flag}: cannot write to {str(folder)[:200]} ({reason(error)})") from None
    except ValueError as error:  # NUL, which no name of a file may hold
        raise UserError(f"{flag}: {str(folder)[:200]!r} is not the name of a folder ({error})") from None


def output_file(path: Path, flag: str) -> Path:
    """Where a file that the user names is to be written, after trying: behind a link it is what the link leads to.

    Raises:
        UserError: it is a folder, or cannot be written.
    """
    if is_device(path):
        return path
    target = path.resolve() if path.is_symlink() else path
    if target.is_dir():
        raise UserError(f"{flag}: {path} is a folder; give a file")
    check_writable(target.parent, flag)
    return target


def clear(run_dir: Path) -> None:
    """Delete what this package writes into run folders, and nothing else.

    The manifest says so first and goes last: a clearing that was cut short is not taken for a run that has lost files.
    """
    if (run_dir / MANIFEST).is_file():
        write_json(run_dir / MANIFEST, {"status": _CLEARING, "config": {}, "stages": {}})
    for name in ALL:
        path = run_dir / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_half_cleared(manifest: Manifest | None) -> bool:
    """Whether a folder's manifest is that of a clearing which was cut short: what is left of the old run is no run."""
    return manifest is not None and manifest.data.get("status") == _CLEARING


def without_addresses(config: Any, key: str = "") -> Any:
    """A configuration with `http` for the address of each server: which model it is, its name says."""
    if isinstance(config, Mapping):
        return {name: without_addresses(value, str(name)) for name, value in config.items()}
    if isinstance(config, list):
        return [without_addresses(value, key) for value in config]
    if isinstance(config, str) and re.search(r"(?:engine|judge)s?$", key):
        return re.sub(r"https?://[^\s#,]+", "http", config)
    return config


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the keys whose values differ."""
    out: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += _changed(a, b, f"{prefix}{key}.")
        elif without_addresses(a, key) != without_addresses(b, key) and prefix + key != "output_dir":
            out.append(prefix + key)
    return out


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
