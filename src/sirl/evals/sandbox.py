"""Running a program that a model wrote, for coding tasks: in a subprocess with limits, and only on request.

The program gets its own interpreter, a folder of its own that is deleted afterwards, an empty environment, no input,
and limits on processor time, memory, file sizes and wall time; where `unshare` may make namespaces, also no network,
and a process namespace, so that nothing it started outlives it. It can still read and write what the user can: the
limits are against accidents and endless loops, not against an attacker, who needs a container around all of it.
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

ISOLATION = (
    ("--map-root-user", "--net", "--pid", "--fork", "--kill-child"),
    ("--net", "--pid", "--fork", "--kill-child"),
    ("--map-root-user", "--net"),
    ("--net",),
)
"""Flags of `unshare`, the most first: the first that this machine allows are used."""

# Limits first, then the program. That it ended proves nothing (it may call exit before its tests), so a word that it is
# told by nobody comes back only when its last line was passed.
LAUNCHER = """
import os, resource, sys, types
word = sys.stdin.readline()
answer = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(nothing, fd)
for name, value in zip(("CPU", "AS", "FSIZE", "NOFILE", "NPROC", "CORE"), map(int, sys.argv[2:])):
    limit = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
with open(sys.argv[1], encoding="utf-8") as file:
    program = compile(file.read(), "program", "exec")
module = sys.modules["program"] = types.ModuleType("program")
exec(program, module.__dict__)
os.write(answer, word.encode())
os._exit(0)
"""


@dataclass(frozen=True)
class Limits:
    """`cpu` and `wall` in seconds, `memory` and `file` (of each one written) in bytes, `files` open at once."""

    cpu: int = 5
    wall: float = 10.0
    memory: int = 1 << 30
    file: int = 1 << 20
    files: int = 64
    processes: int = 32


def run_program(source: str, limits: Limits | None = None) -> bool:
    """Whether a Python program ran to its last line, within the limits and without an exception."""
    limits = limits or Limits()
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sirl-program-") as folder:
        path = Path(folder) / "program.py"
        path.write_text(source, encoding="utf-8", errors="replace")
        sizes = (limits.cpu, limits.memory, limits.file, limits.files, limits.processes, 0)
        command = [*isolation(), sys.executable, "-I", "-B", "-c", LAUNCHER, str(path), *map(str, sizes)]
        with subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                answer, _ = process.communicate(word + "\n", timeout=limits.wall)
            except subprocess.TimeoutExpired:
                answer = ""
            finally:
                _end(process)
    return answer.strip() == word


def _end(process: subprocess.Popen[str]) -> None:
    """The program and what it started, which may hold the pipe open for longer than it lives."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all gone
    process.wait()


@cache
def isolation() -> list[str]:
    """The command that takes network and other processes away, as far as this machine allows."""
    tool = shutil.which("unshare")
    for flags in ISOLATION if tool else ():
        command = [str(tool), *flags]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []
