"""The frame of all commands: start-up time, errors in one line, exit codes, one JSON document on stdout."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from tqdm import tqdm

import sirl as package
from sirl.cli import list as list_command
from sirl.cli.common import Outcome
from sirl.cli.main import COMMANDS
from sirl.errors import UserError

HEAVY = ("torch", "transformers", "trl", "datasets", "pandas", "numpy", "rich")


def test_help_names_every_command(sirl: Any) -> None:
    result = sirl("--help")
    assert result.code == 0
    assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_each_command_has_help_and_json(sirl: Any, command: str) -> None:
    result = sirl(command, "--help")
    assert result.code == 0
    assert "--json" in result.out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_flag_says_what_it_is_for(command: str) -> None:
    """In one clause: no capital but a name's, no full stop, one thing a line."""
    module, parser = importlib.import_module(f"sirl.cli.{command}"), argparse.ArgumentParser()
    module.add_arguments(parser)
    for action in parser._actions:
        assert action.help, action.dest
        assert not action.help.endswith("."), action.dest
        assert not re.match(r"[A-Z][a-z]", action.help), action.dest
    assert not COMMANDS[command].endswith(".")


def test_version(sirl: Any) -> None:
    assert sirl("--version").out == f"sirl {package.__version__}\n"


def test_help_imports_nothing_heavy_and_is_fast() -> None:
    code = f"""
import sys
from sirl.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - start
    assert done.stderr.strip() == "[]"
    assert seconds < 2  # 0.05 s on an idle machine; the import check above is the sharp one


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lst",), "no command 'lst'; did you mean list?"),
        (("zzz",), "no command 'zzz'; known are demo, run, gap,"),
        (("list", "fruit"), "argument what: invalid choice: 'fruit'"),
        (("list", "data", "--jsn"), "unrecognized arguments: --jsn"),
        (("attack", "--output_dir", "x"), "the following arguments are required: --model_name_or_path"),
        (("report", "nowhere"), "nowhere: no such run folder"),
        (("gap", "--model_name_or_path", "demo", "--seed", str(2**70)), "argument --seed: must be 0 to 4294967295"),
        (
            ("compare", "--config", "demo", "--seeds", str(2**40)),
            "--seeds 1099511627776: expected different",
        ),
        (("compare", "--methods", "all"), "the following arguments are required: --config"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(sirl: Any, words: tuple[str, ...], message: str) -> None:
    assert message in sirl(*words).error


def test_alone_it_prints_help(sirl: Any) -> None:
    alone = sirl()
    assert alone.code == 0
    assert alone.out == sirl("--help").out
    assert all(f"\n    {name} " in alone.out for name in COMMANDS)


def test_python_m_sirl_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sirl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sirl ")


def test_message_of_many_lines_is_put_in_one(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise UserError("first\n  second")

    monkeypatch.setattr(list_command, "run", fail)
    assert sirl("list", "data").error == "sirl: error: first second"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), UserError("no such file")])
def test_the_last_line_does_not_stand_behind_an_open_bar(
    end: BaseException, sirl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Any) -> Any:
        left = tqdm(total=2, desc="Loading weights", file=sys.stderr)
        left.update()
        bars.append(left)
        raise end

    bars: list[Any] = []
    monkeypatch.setattr(list_command, "run", stop)
    assert sirl("list", "data").err.splitlines()[-1].startswith("sirl: ")


def test_interrupted(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(list_command, "run", stop)
    result = sirl("list", "data")
    assert (result.code, result.out, result.err) == (130, "", "sirl: interrupted; run it again\n")


def test_sigterm_ends_as_ctrl_c_does(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_command, "run", lambda _: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)))
    result = sirl("list", "data")
    assert (result.code, result.out, result.err) == (143, "", "sirl: terminated; run it again\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_is_one_line(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr(list_command, "run", fail)
    assert "some/file: cannot be written (No space left on device); what was" in sirl("list", "data").error


@pytest.mark.parametrize("number", [1, 5, 13])
def test_a_file_that_may_not_be_opened_is_not_said_to_be_written(
    sirl: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: Any) -> Any:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(list_command, "run", fail)
    error = sirl("list", "data").error
    assert f"some/file: {os.strerror(number)}; see to its permissions" in error
    assert "writ" not in error


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("train", "list")])
def test_only_training_is_several_processes(
    sirl: Any, monkeypatch: pytest.MonkeyPatch, command: str, rank: str, lines: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    needed = {
        "run": ("--config", "demo"),
        "compare": ("--config", "demo"),
        "attack": ("--model_name_or_path", "demo", "--output_dir", "x"),
        "eval": ("--model_name_or_path", "demo", "--reference", "demo", "--output_dir", "x"),
        "referee": ("--with", "garak", "--model_name_or_path", "demo", "--output_dir", "x"),
        "gap": ("--model_name_or_path", "demo"),
    }
    result = sirl(command, *needed.get(command, () if command == "demo" else ("x",)))
    assert (result.code, result.out, result.err.count("\n")) == (2, "", lines)
    assert not lines or f"sirl {command} is one process, and WORLD_SIZE is 2" in result.err


def test_bugs_are_not_hidden(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(list_command, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        sirl("list", "data")


def test_what_libraries_print_stays_off_stdout(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty(_: Any) -> Outcome:
        print("loading weights")
        return Outcome({"x": 1}, lambda: print("shown"))

    monkeypatch.setattr(list_command, "run", chatty)
    assert sirl("list", "data", "--json").json == {"x": 1}
    result = sirl("list", "data")
    assert (result.out, result.err) == ("shown\n", "loading weights\n")


def test_public_names_are_importable_lazily() -> None:
    code = "import sys, sirl; sirl.Prompt, sirl.load_prompts; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", package.__all__)
def test_public_name(name: str) -> None:
    assert getattr(package, name) is not None


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nope'"):
        _ = package.Nope
