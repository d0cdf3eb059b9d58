"""Programs are really stopped: loops, memory, files, processes, network, and tests that are left out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sirl.errors import UserError
from sirl.evals import sandbox
from sirl.evals.sandbox import LEVELS, NOTHING, Limits, check_sandbox, isolated_by, isolation, run_program

needs_isolation = pytest.mark.skipif(isolated_by() == NOTHING, reason="this machine lets nobody make namespaces")
SLOW = 300.0
"""Seconds that a busy machine may need for what takes half of one: wide of what any test asserts."""
QUICK = Limits(cpu=1, wall=SLOW, memory=256 << 20, file=1 << 16)
PATIENT = replace(QUICK, cpu=60)
"""For programs that must pass: Python alone may take more than a second of a busy processor."""


@pytest.fixture(autouse=True)
def _run_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_unsandboxed", isolated_by() == NOTHING)


@pytest.mark.parametrize(
    "source",
    [
        "assert 1 + 1 == 2",
        "import collections, math\nassert math.sqrt(4) == 2",
        "print('x' * 1000000)",  # whatever it says goes nowhere
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\nassert A().x == 1",
        "if __name__ == '__main__':\n    raise SystemExit",
        "open('notes.txt', 'w').write('a')",
    ],
)
def test_passes(source: str) -> None:
    assert run_program(source, PATIENT)


@pytest.mark.parametrize(
    "source",
    [
        "assert 1 + 1 == 3",
        "def broken(:",
        "import sys\nsys.exit(0)\nassert False",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "input()",
        "import os\nos.write(1, b'passed')\nassert False",
        "\x00",
        "def f(): return f()\nf()",
    ],
)
def test_fails(source: str) -> None:
    assert not run_program(source, QUICK)


def test_endless_loop_is_stopped() -> None:
    start = time.monotonic()
    assert not run_program("while True: pass", Limits(cpu=1, wall=10 * SLOW))  # by its processor time
    assert not run_program(f"import time\ntime.sleep({10 * SLOW})", Limits(wall=1.0))  # which sleep does not use
    assert time.monotonic() - start < SLOW


def test_a_slow_machine_is_not_taken_for_one_without_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(sandbox, "_passes", lambda *words: given.append(words[1]) or True)
    isolated_by.__wrapped__()
    assert all(limits.wall >= SLOW for limits in given)


def test_memory_is_bounded() -> None:
    source = "data = bytearray(512 << 20)"
    assert not run_program(source, QUICK)
    assert run_program(source, Limits(wall=SLOW, memory=2 << 30))  # it is the limit that stopped it


def test_file_size_is_bounded() -> None:
    source = "with open('big', 'wb') as file:\n    file.write(b'x' * (1 << 20))"
    assert not run_program(source, QUICK)
    assert run_program(source, Limits(wall=SLOW, file=2 << 20))


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for level in (NOTHING, isolated_by()):
        monkeypatch.setattr(sandbox, "isolated_by", lambda level=level: level)
        monkeypatch.setattr(sandbox, "_unsandboxed", True)
        assert run_program("open('a', 'w').write('a')\nimport os\nassert os.listdir('.') == ['a']", PATIENT)
        assert list(tmp_path.iterdir()) == []


@needs_isolation
def test_an_interpreter_in_the_folder_for_temporary_files(tmp_path: Path) -> None:
    """As in a virtual environment under /tmp: the program's folder is empty all the same."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    code = "from sirl.evals.sandbox import run_program; print(run_program('import os; assert not os.listdir()'))"
    environment = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parents[2])}
    command = [str(tmp_path / "venv" / "bin" / "python"), "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


BROKEN = """
import pathlib, runpy, sys
tries = pathlib.Path({tries!r})
tries.write_text(tries.read_text() + "x")
if len(tries.read_text()) <= {failures}:
    raise OSError("no tmpfs today")
runpy.run_path({launcher!r}, run_name="__main__")
"""


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_machine_that_fails_is_no_failed_program(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tries").write_text("")
    broken = tmp_path / "launcher.py"
    broken.write_text(BROKEN.format(tries=str(tmp_path / "tries"), failures=failures, launcher=str(sandbox.LAUNCHER)))
    monkeypatch.setattr(sandbox, "LAUNCHER", broken)
    monkeypatch.setattr(sandbox, "isolated_by", lambda: NOTHING)
    monkeypatch.setattr(sandbox, "_unsandboxed", True)
    assert run_program("assert 1 == 1", PATIENT)
    assert not run_program("assert 1 == 2", PATIENT)


def test_a_machine_that_always_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "launcher.py").write_text("raise OSError")
    monkeypatch.setattr(sandbox, "LAUNCHER", tmp_path / "launcher.py")
    monkeypatch.setattr(sandbox, "isolated_by", lambda: NOTHING)
    monkeypatch.setattr(sandbox, "_unsandboxed", True)
    with pytest.raises(UserError, match="failed 3 times"):
        run_program("pass", PATIENT)


@needs_isolation
def test_files_of_the_user_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("private")
    source = f"import os\nassert not os.path.exists({str(tmp_path / 'mine')!r})"
    assert run_program(source) == isolated_by().hides_files
    if isolated_by().hides_files:
        for path in ("/proc/self", "/etc/passwd", "/root/.ssh", "/dev/sda", os.path.expanduser("~/.bashrc")):
            assert run_program(f"import os\nassert not os.path.exists({path!r})"), path
        assert run_program(
            "import os, sys\ntry:\n    open(os.__file__, 'a')\nexcept OSError:\n    pass\nelse:\n    1 / 0"
        )


SEEK = """
import sys
frame, found = sys._getframe(), {}
while frame:
    found.update(frame.f_locals)
    frame = frame.f_back
"""
FORGERIES = {
    "the word in __main__": "import __main__, os\nos.write(__main__.answer, __main__.word.encode())\nos._exit(0)",
    "the word anywhere in __main__": (
        "import __main__, os\nfor value in vars(__main__).values():\n    for fd in range(9):\n        try:\n"
        "            os.write(fd, str(value).encode())\n        except OSError:\n            pass\nos._exit(0)"
    ),
    "the token in a frame": SEEK + "import os\nos.write(found['writer'], found['token'])\nos._exit(0)",
    "every token on every descriptor": SEEK + "import os\nfor fd in range(64):\n    for value in found.values():\n"
    "        try:\n            os.write(fd, value)\n        except Exception:\n            pass\nos._exit(0)",
    "exit": "import sys\nsys.exit(0)",
    "exit of the process": "import os\nos._exit(0)",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit",
    "death of the launcher": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(0)",
    "death of everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "memory of the launcher": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)\nos._exit(0)",
    "files of the launcher": "import os\nopen(f'/proc/{os.getppid()}/fd/1', 'w').write('x')\nos._exit(0)",
    "a fork": "import os\nif os.fork():\n    os._exit(0)",
    "another exception": "import builtins\nbuiltins.AssertionError = KeyboardInterrupt",
    "a hook": "import os, sys\nsys.excepthook = lambda *_: os._exit(0)",
    "a trace": "import os, sys\nsys.settrace(lambda *_: os._exit(0))\n(lambda: 0)()",
    "another write": "import os\nwrite = os.write\nos.write = lambda fd, data: write(fd, data)\nos._exit = exit",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_end_that_is_forged(forgery: str) -> None:
    if forgery == "death of everybody" and isolated_by() == NOTHING:
        pytest.skip("it would be")
    assert not run_program(FORGERIES[forgery] + "\nassert 1 == 2", QUICK)


@needs_isolation
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace of Linux")
def test_the_launcher_cannot_be_looked_into() -> None:
    attach = "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == {}"
    assert run_program(attach.format(-1))
    assert not run_program(attach.format(0))


@needs_isolation
def test_rights_are_given_away() -> None:
    """Root of its own namespace, it could mount files, leave its folder and give itself a network."""
    for call in ("os.chroot('/tmp')", "os.setgid(0) or os.chown('/usr', 1, 1)", "os.mknod('/tmp/a', 0o60600, 2048)"):
        assert not run_program(f"import os\n{call}"), call
    assert not run_program("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0")


def test_nothing_runs_without_isolation_unless_a_flag_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "isolated_by", lambda: NOTHING)
    monkeypatch.setattr(sandbox, "_unsandboxed", False)
    with pytest.raises(UserError, match=r"--allow_code_execution: .* allows no namespaces .* --allow_unsandboxed_code"):
        run_program("pass")
    with pytest.raises(UserError, match="--tasks mbpp: this machine allows no namespaces"):
        check_sandbox("--tasks mbpp")
    monkeypatch.setattr(sandbox, "_unsandboxed", True)
    check_sandbox("--tasks mbpp")
    assert run_program("pass")
    assert not run_program(FORGERIES["the token in a frame"])


def test_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIRL_API_KEY", "secret")
    assert run_program("import os\nassert 'SIRL_API_KEY' not in os.environ")


def test_children_do_not_outlive_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    time.sleep(2)\n"
        f"    open({str(note)!r}, 'w').write('still here')\n"
        "    os._exit(0)\n"
    )
    level = next(level for level in LEVELS if not level.hides_files) if isolation() else NOTHING
    sandbox._passes(source, Limits(wall=1.0), level)
    time.sleep(2.5)
    assert not note.exists()


def test_no_network_where_that_can_be_had() -> None:
    if "--net" not in isolation():
        pytest.skip("this machine lets nobody make a network namespace")
    reachable = "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not run_program(reachable.format(port=server.getsockname()[1]))


def test_isolation_is_a_command_that_works() -> None:
    command = isolation()
    assert subprocess.run([*command, "true"], check=False, env={"PATH": os.environ["PATH"]}).returncode == 0
