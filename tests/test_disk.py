"""What is left of our files after a torn write, a full disk or a kill, and who may write them."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sirl import records
from sirl.disk import LEFTOVER, is_device, temporary, write_text, writing
from sirl.errors import CannotWriteError, UserError
from sirl.lock import NAME, sole_writer
from sirl.manifest import Manifest, check_writable
from sirl.records import append_jsonl, iter_json_lines, to_json_line, write_json, write_jsonl

ROWS: list[dict[str, Any]] = [{"n": 1, "text": "schlafen … ночь 夜 🌙"}, {"n": 22, "text": "\u200b{}"}, {"n": 3}]
NEXT = {"n": 4, "text": "später"}


@pytest.mark.parametrize("zeros", [0, 1, 5000])
def test_a_file_torn_at_any_byte_is_read_and_continued(tmp_path: Path, zeros: int) -> None:
    """Cut inside a character, a record or at its newline, with zeros behind as after a power cut."""
    whole = "".join(map(to_json_line, ROWS)).encode()
    path = tmp_path / "rows.jsonl"
    for cut in range(0, len(whole) + 1, 1 if zeros < 5000 else 7):
        path.write_bytes(whole[:cut] + b"\0" * zeros)
        kept = list(iter_json_lines(path))
        assert kept == ROWS[: len(kept)]
        lost_newline = zeros == 0 and whole[cut - 1 : cut + 1] == b"}\n"
        assert len(kept) == whole[:cut].count(b"\n") + lost_newline
        append_jsonl(path, [NEXT])
        assert list(iter_json_lines(path)) == [*kept, NEXT]


@pytest.mark.parametrize(
    ("line", "message"),
    [(b'{"n": "\xd0"}', "line 2: not valid UTF-8"), (b"{", "line 2: not valid JSON"), (b"\0" * 9, "line 2: not valid")],
)
def test_damage_before_the_last_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    with pytest.raises(ValueError, match=f"{path}, {message}"):
        list(iter_json_lines(path))


def test_figures_that_are_not_finite_become_null_and_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_told", set())
    rows = [{"grad_norm": float("inf"), "deep": {"kl": [1.0, float("nan")]}}, {"grad_norm": float("-inf")}]
    append_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(iter_json_lines(tmp_path / "rows.jsonl")) == [
        {"grad_norm": None, "deep": {"kl": [1.0, None]}},
        {"grad_norm": None},
    ]
    write_json(tmp_path / "one.json", rows[1])
    assert json.loads((tmp_path / "one.json").read_text()) == {"grad_norm": None}
    assert [r.getMessage().split(" is ")[0] for r in caplog.records] == ["grad_norm", "kl"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit on the size of files, which the system answers as it does a full disk: with part of the write done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", [append_jsonl, write_jsonl])
def test_a_disk_that_takes_no_more(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)
    before = path.read_bytes()
    with (
        largest_file(len(before) + 40),
        pytest.raises(CannotWriteError, match=r"rows\.jsonl: cannot be written \(File"),
    ):
        write(path, [{"text": "x" * 300}])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    append_jsonl(path, [NEXT])
    assert list(iter_json_lines(path)) == [*ROWS, NEXT]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o644)])
def test_files_keep_to_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_what_is_replaced_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (done.append(name), real(*a))[1])
    write_text(tmp_path / "a.txt", "a")
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name


def begin(folder: Path, overwrite: bool = False) -> Manifest:
    return Manifest.open(folder, config={"a": 1}, seed=0, command=["sirl"], overwrite=overwrite)


def test_temporary_files_of_a_killed_process_are_no_obstacle_and_go(tmp_path: Path) -> None:
    left = temporary(tmp_path / "manifest.json")
    left.write_text("{")
    (tmp_path / NAME).touch()
    assert LEFTOVER.fullmatch(left.name)
    begin(tmp_path)  # not "not empty and no run folder"
    (tmp_path / "model").mkdir()
    temporary(tmp_path / "model" / "README.md").touch()
    (tmp_path / ".notes.partial").touch()
    with sole_writer(tmp_path):
        pass
    left_over = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left_over == [".notes.partial", "manifest.json", "model"]


def test_clearing_that_was_cut_short_is_finished_and_not_taken_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(tmp_path).stage("gap"):
        write_json(tmp_path / "gap.json", {})
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "w").touch()
    with monkeypatch.context() as patch:
        patch.setattr("sirl.manifest.shutil.rmtree", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path, overwrite=True)
    assert not (tmp_path / "gap.json").exists()
    assert (tmp_path / "model").exists()
    manifest = begin(tmp_path)
    assert manifest.stages == {}, "the gap would be called done, and is gone"
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# --- one writer -------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from sirl.lock import sole_writer

with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)


def test_second_writer_is_told_who_is_first_until_that_dies(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held_elsewhere(folder) as pid:
        with pytest.raises(
            UserError, match=rf"--output_dir: {folder} is being written by process {pid} on \S+ since 20"
        ):
            sole_writer(folder).__enter__()
        assert (folder / NAME).is_file()
    assert (folder / NAME).is_file(), "left behind by the dead"
    with sole_writer(folder), sole_writer(folder):  # stages within a command take it again
        pass
    assert list(folder.iterdir()) == []


def test_without_locks_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("sirl.lock.fcntl.flock", no_locks)
    with sole_writer(tmp_path):
        assert "no locks on this file system (Function not implemented)" in caplog.text


def test_many_processes_check_and_take_a_new_folder_at_once(tmp_path: Path) -> None:
    """40 processes, 20 new folders: checking never fails, and each folder has one writer at a time."""
    ready, go = os.pipe(), os.pipe()
    children = [_child(tmp_path, ready, go) for _ in range(40)]
    os.close(ready[1])
    os.close(go[0])
    for _ in children:
        assert os.read(ready[0], 1)
    os.close(go[1])  # all at once
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 40
    os.close(ready[0])
    for i in range(20):
        words = (tmp_path / str(i) / "deep" / "log").read_text().split()
        assert words == ["in", "out"] * (len(words) // 2)
        assert words


def _child(folder: Path, ready: tuple[int, int], go: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.close(go[1])
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        for i in range(20):
            target = folder / str(i) / "deep"
            check_writable(target)
            try:
                with sole_writer(target), (target / "log").open("a", buffering=1) as log:
                    log.write("in ")
                    log.flush()
                    log.write("out ")
            except CannotWriteError:
                os._exit(3)
            except UserError as error:
                if "is being written by" not in str(error):
                    os._exit(4)
        os._exit(0)
    finally:
        os._exit(5)


@pytest.mark.parametrize("words", ["PytorchStreamWriter failed: file write failed", "basic_ios::clear: iostream error"])
def test_what_torch_says_of_a_full_disk(words: str) -> None:
    with pytest.raises(CannotWriteError, match="the disk takes no more"), writing("optimizer.pt"):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="shapes"), writing("optimizer.pt"):
        raise RuntimeError("shapes do not fit")


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """As root, `--output_file /dev/stdout` put a file in the place of the machine's /dev/stdout."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert is_device(pipe)
        write_text(pipe, "told\n")
        assert os.read(reader, 100) == b"told\n"
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        stream = Path(f"/proc/self/fd/{reader}")
        assert not stream.exists() or is_device(stream)
    finally:
        os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert not any(map(is_device, (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "none")))
