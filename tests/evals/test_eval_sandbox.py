"""Programs are really stopped: loops, memory, files, processes, network, and tests that are left out."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sirl.evals.sandbox import Limits, isolation, run_program

QUICK = Limits(cpu=1, wall=5.0, memory=256 << 20, file=1 << 16)


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
    assert run_program(source, QUICK)


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
    assert not run_program("while True: pass", Limits(cpu=1, wall=30.0))  # by its processor time
    assert time.monotonic() - start < 15
    start = time.monotonic()
    assert not run_program("import time\ntime.sleep(60)", Limits(wall=1.0))  # which sleep does not use
    assert time.monotonic() - start < 15


def test_memory_is_bounded() -> None:
    source = "data = bytearray(512 << 20)"
    assert not run_program(source, QUICK)
    assert run_program(source, Limits(memory=2 << 30))  # it is the limit that stopped it


def test_file_size_is_bounded(tmp_path: Path) -> None:
    target = tmp_path / "big"
    source = f"with open({str(target)!r}, 'wb') as file:\n    file.write(b'x' * (1 << 20))"
    assert not run_program(source, QUICK)
    assert target.stat().st_size <= QUICK.file
    assert run_program(source, Limits(file=2 << 20))


def test_folder_is_deleted(tmp_path: Path) -> None:
    note = tmp_path / "where"
    assert run_program(f"import os\nopen('a', 'w').write('a')\nopen({str(note)!r}, 'w').write(os.getcwd())")
    assert note.read_text()
    assert not Path(note.read_text()).exists()


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
    run_program(source, Limits(wall=1.0))
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
