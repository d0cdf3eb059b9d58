"""Runs commands in forked children and ends them at a chosen moment.

The parent has imported everything, so that a child begins at once: starting Python with torch takes seconds, and a
soak has hundreds of starts. Whatever a child does to itself, a fault hook for instance, ends with it.
"""

from __future__ import annotations

import builtins
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked import work

TIMEOUT = 300.0
"""Seconds that a command may take: one that hangs counts as lost."""

LIBRARIES = (
    *("pandas", "rich.console", "rich.table", "datasets", "scipy.stats", "openai.resources.chat", "jinja2", "yaml"),
    *("transformers.models.llama.modeling_llama", "peft.tuners.lora", "trl", "safetensors.torch", "accelerate"),
    *("sirl.cli.run", "sirl.cli.train", "sirl.cli.attack", "sirl.experiment.pipeline", "sirl.training.trainer"),
    *(
        "sirl.training.run",
        "sirl.report.render",
        "sirl.report.card",
        "sirl.results.summary",
        "sirl.evals.contamination",
    ),
    *("sirl.evals.contamination", "sirl.generation.server", "sirl.attacks.adaptive.best_of_n", "tiny_models"),
)


@dataclass(frozen=True)
class Fault:
    """What happens to a command: nothing, `signal` after `seconds`, at the `event`-th writing, or a limit on files.

    A writing that is hit by SIGKILL is left half done. `bytes` is the size that no file may exceed, `free` what is left
    of a disk.
    """

    signal: int = 0
    seconds: float | None = None
    event: int | None = None
    bytes: int | None = None
    free: int | None = None

    def __str__(self) -> str:
        if self.free is not None:
            return f"{self.free} bytes left on the disk"
        if self.bytes is not None:
            return f"files of at most {self.bytes} bytes"
        if not self.signal:
            return "nothing"
        name = signal.Signals(self.signal).name
        return f"{name} at writing {self.event}" if self.event is not None else f"{name} after {self.seconds:.2f} s"


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code (minus the signal that killed it), what it printed, its time and writings."""

    code: int
    output: str
    seconds: float
    events: int


def warm() -> None:
    """Import all that commands need."""
    import importlib

    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def run(words: Sequence[str], fault: Fault = Fault(), meanwhile: Callable[[], None] | None = None) -> End:
    """Run one command of `sirl` in a child, with a fault; `meanwhile` is called once it has started."""
    sys.stdout.flush()
    said, say = os.pipe()
    told, tell = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(said)
        os.close(told)
        work(lambda: _command(words, fault, say, tell), failed=98)
    os.close(say)
    os.close(tell)
    output: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(said, output))
    reader.start()
    if meanwhile is not None:
        meanwhile()
    status = None
    if fault.seconds is not None:
        status = _wait(pid, fault.seconds)
        if status is None:
            os.kill(pid, fault.signal)
    if status is None:
        status = _wait(pid, TIMEOUT)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        output.append(b"\nTraceback: it hangs\n")
        status = 99 << 8
    seconds = time.monotonic() - started
    reader.join()
    count = b"".join(iter(lambda: os.read(told, 100), b""))
    os.close(told)
    return End(os.waitstatus_to_exitcode(status), b"".join(output).decode(), seconds, int(count or 0))


def _wait(pid: int, seconds: float) -> int | None:
    """The exit status of a child that ends within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    return None


def _drain(handle: int, into: list[bytes]) -> None:
    while part := os.read(handle, 1 << 16):
        into.append(part)
    os.close(handle)


def _command(words: Sequence[str], fault: Fault, say: int, tell: int) -> int:
    os.dup2(say, 1)
    os.dup2(say, 2)
    sys.stdout = sys.__stdout__
    sys.stderr = sys.__stderr__
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if fault.bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.bytes, fault.bytes))
    events = Events(fault)
    events.install()
    sys.argv = ["sirl", *words]
    from sirl.cli.main import main

    code = main(list(words))
    os.write(tell, str(events.count).encode())
    return code


@contextmanager
def filled(disk: Path, free: int | None) -> Iterator[None]:
    """The file system of a folder with a file on it that leaves so many bytes free."""
    if free is None:
        yield
        return
    filler, found = disk / "filler", os.statvfs(disk)
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - free))
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[str | None]:
    """A file system of its own at a folder; gives the reason where this process may not have one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        yield str(error)
        return
    if done.returncode:
        yield done.stderr.strip() or f"mount: exit code {done.returncode}"
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Events:
    """Counts what changes files, and strikes at one of these changes: before it, or with half of it done."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.count = 0
        self.armed = True
        self.process = os.getpid()

    def install(self) -> None:
        """Put this in front of what writes files: our own writers, and those of the libraries that write for us."""
        import peft.peft_model
        import safetensors.torch
        import torch
        import transformers.modeling_utils
        from transformers.trainer_callback import TrainerState

        os.fsync = os.fstat  # type: ignore[assignment]  # a kill loses nothing that the kernel has
        for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate"):
            self._wrap(os, name)
        self._wrap(os, "write", half=_half_write)
        self._wrap(torch, "save", half=lambda real, *a, **k: _half_file(real, 1, *a, **k))
        self._wrap(TrainerState, "save_to_json", half=lambda real, *a, **k: _half_file(real, 1, *a, **k))
        for module in (
            safetensors.torch,
            transformers.modeling_utils,
            peft.peft_model,
        ):
            for name in ("save_file", "safe_save_file"):
                if hasattr(module, name):
                    self._wrap(module, name, half=lambda real, *a, **k: _half_file(real, 1, *a, **k))

    def _wrap(self, owner: Any, name: str, half: Callable[..., Any] | None = None) -> None:
        real = getattr(owner, name)

        def struck(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self.process:  # a child of the command, the trial of a chat template for one
                return real(*args, **kwargs)
            self.count += 1
            if self.armed and self.count == self.fault.event:
                self.armed = False
                if half is not None and self.fault.signal == signal.SIGKILL:
                    half(real, *args, **kwargs)
                os.kill(os.getpid(), self.fault.signal)
            return real(*args, **kwargs)

        setattr(owner, name, struck)


def _half_write(real: Callable[..., int], handle: int, data: Any) -> None:
    real(handle, bytes(data)[: len(data) // 2])


def _half_file(real: Callable[..., Any], place: int, *args: Any, **kwargs: Any) -> None:
    real(*args, **kwargs)
    path = Path(args[place] if len(args) > place else kwargs.get("filename") or kwargs["f"])
    with builtins.open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
