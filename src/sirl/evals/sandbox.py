"""Running a program that a model wrote, for coding tasks: isolated, within limits, and only on request.

The program gets a process of its own in namespaces that `unshare` makes: no network, no other process to be seen, none
that outlives it, and no files but an empty folder and, read-only, the interpreter and the system's libraries. Its
environment is empty, it has no input, and processor time, memory, file sizes and wall time are bounded. Where the
system allows no mounts, it sees files; where it allows no namespaces, nothing runs unless `allow_unsandboxed` says so.

A program passes if it runs to its last line, and if the same program with one more test, which nothing can pass, does
not: what forges the end of its tests, forges that too.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sirl.errors import UserError

LAUNCHER = Path(__file__).with_name("launcher.py")
ALONE = ("--net", "--ipc", "--pid", "--fork", "--kill-child")
READY = b"+"
"""What the launcher says when the program is about to start."""
TRIES = 3
IMPOSSIBLE = "\nassert False, 'a test that nothing passes'\n"


@dataclass(frozen=True)
class Isolation:
    """What a program is kept from (`words`), and flags of `unshare` by which; none: it is kept from nothing."""

    words: str
    flags: tuple[str, ...] = ()
    hides_files: bool = False

    @property
    def command(self) -> list[str]:
        """What stands in front of the command that is isolated."""
        return [str(shutil.which("unshare")), *self.flags] if self.flags else []


LEVELS = (
    Isolation("files, network and other processes", ("--map-root-user", "--mount", *ALONE), True),
    Isolation("files, network and other processes", ("--mount", *ALONE), True),
    Isolation("network and other processes", ("--map-root-user", *ALONE)),
    Isolation("network and other processes", ALONE),
)
"""The most first: the first that this machine allows is used."""

NOTHING = Isolation("nothing")


@dataclass(frozen=True)
class Limits:
    """`cpu` and `wall` in seconds, `memory` and `file` (of each one written) in bytes, `files` open at once.

    `cpu` is what stops a loop; `wall` is for programs that wait, and leaves room for a machine that is busy.
    """

    cpu: int = 5
    wall: float = 30.0
    memory: int = 1 << 30
    file: int = 1 << 20
    files: int = 64
    processes: int = 32


PATIENT = Limits(wall=300.0)
"""For the search for isolation: a machine that is slow to give it has it all the same."""

_unsandboxed = False


def allow_unsandboxed(allowed: bool = True) -> None:
    """Let programs run with the user's files and network where this machine allows no isolation."""
    global _unsandboxed
    _unsandboxed = allowed


def check_sandbox(flag: str) -> None:
    """Raise `UserError`, with `flag` in front, where programs could not be isolated, or not be run at all."""
    if not hasattr(os, "fork"):
        raise UserError(f"{flag}: a model's programs run only on Linux and macOS")
    if isolated_by() == NOTHING and not _unsandboxed:
        raise UserError(
            f"{flag}: this machine allows no namespaces (unshare), so the model's programs would see your files and "
            "network; use a machine that allows them, or add --allow_unsandboxed_code if you accept that"
        )


def run_program(source: str, limits: Limits | None = None) -> bool:
    """Whether a Python program runs to its last line, within the limits and without an exception.

    Raises:
        UserError: it cannot be isolated, and `allow_unsandboxed` was not called.
    """
    limits, level = limits or Limits(), isolated_by()
    if level == NOTHING:
        check_sandbox("--allow_code_execution")
    return _verdict(source, limits, level) and not _verdict(source + IMPOSSIBLE, limits, level)


def _verdict(source: str, limits: Limits, level: Isolation) -> bool:
    """Whether it passes, from a launcher that came so far as to start it: a machine that fails is no failed program."""
    for _ in range(TRIES):
        passed = _passes(source, limits, level)
        if passed is not None:
            return passed
    raise UserError(f"--allow_code_execution: a program was to be kept from {level.words}, which failed {TRIES} times")


def _passes(source: str, limits: Limits, level: Isolation) -> bool | None:
    """Whether the program ran to its last line, or None if it was never started."""
    word, code = secrets.token_hex(16), source.encode("utf-8", "replace")
    sizes = (limits.cpu, limits.memory, limits.file, limits.files, limits.processes)
    with tempfile.TemporaryDirectory(prefix="sirl-program-") as folder:
        root = folder if level.hides_files else ""
        command = [*level.command, sys.executable, "-I", "-B", str(LAUNCHER), root, *map(str, sizes)]
        with subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": "/program" if root else folder, "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                answer, _ = process.communicate(b"%012d" % len(code) + code + word.encode(), timeout=limits.wall)
            except subprocess.TimeoutExpired:
                answer = READY  # it was started, as far as the clock can tell, and did not pass
            finally:
                _end(process)
    return answer == READY + word.encode() if answer.startswith(READY) else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """The program and what it started, which may hold the pipe open for longer than it lives."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all gone
    process.wait()


@cache
def isolated_by() -> Isolation:
    """The most isolation that this machine allows, found by trying."""
    for level in LEVELS if shutil.which("unshare") else ():
        if any(_passes("pass", PATIENT, level) for _ in range(TRIES)):
            return level
    return NOTHING


def isolation() -> list[str]:
    """The command that takes files, network and other processes away, as far as this machine allows."""
    return isolated_by().command
