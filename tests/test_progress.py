"""Bars and their plain form."""

from __future__ import annotations

import sys

import pytest

from sirl import progress as module
from sirl.progress import counted, no_bar, terminal_bar


def test_lines_at_every_tenth_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, *(float(i) for i in range(1, 10)), 100.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with terminal_bar("attack") as bar:
        for done in range(0, 101):
            bar(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "attack ..."
    assert lines[1] == "attack: 10 of 100, about 9 s left"  # 10 in the first second
    assert lines[-1] == "attack: 100 s"
    assert len(lines) == 11


def test_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_bar("attack") as bar:
        bar(0, 0)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with terminal_bar("attack") as bar:
        bar(3, 4)
        bar(4, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err


def test_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with no_bar("attack") as bar:
        bar(1, 2)
    assert capsys.readouterr() == ("", "")


def test_counted() -> None:
    seen: list[tuple[int, int]] = []
    add = counted(lambda done, total: seen.append((done, total)), 5)
    add(2)
    add(3)
    assert seen == [(2, 5), (5, 5)]
