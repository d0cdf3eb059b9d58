"""Contenders of a benchmark that does nothing. Each process imports this file, so it imports nothing heavy."""

from __future__ import annotations

import time

from benchmarks.workers import NotMeasuredError, Turns


def sleeper(turns: Turns, seconds: float) -> None:
    while turns.next():
        time.sleep(seconds)
        turns.done(tokens=10)


def not_there(_: Turns) -> None:
    raise NotMeasuredError("no such library")


def breaks_down(turns: Turns) -> None:
    turns.next()
    raise ValueError("in the first round\nand more")


def dies(turns: Turns) -> None:
    turns.next()
    raise SystemExit(3)
