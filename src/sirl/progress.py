"""Progress for the person at the terminal, always on stderr: stdout is kept for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

Progress = Callable[[int, int], None]
"""Called with (done, in all) by whatever takes long."""

BarMaker = Callable[[str], AbstractContextManager[Progress]]
"""Name of a stage -> its bar, closed when the stage ends."""


@contextmanager
def no_bar(label: str) -> Iterator[Progress]:
    """Says nothing: for use from Python."""
    del label
    yield _ignore


def _ignore(done: int, total: int) -> None:
    del done, total


@contextmanager
def terminal_bar(label: str) -> Iterator[Progress]:
    """A bar with the time left; where stderr is no terminal, a line for every tenth."""
    with _rich_bar(label) if sys.stderr.isatty() else _lines(label) as bar:
        yield bar


@contextmanager
def _lines(label: str) -> Iterator[Progress]:
    start, told = time.monotonic(), 0
    say(f"{label} ...")

    def tell(done: int, total: int) -> None:
        nonlocal told
        tenth = 10 * done // total if total else 0
        if told < tenth < 10:
            told = tenth
            left = (time.monotonic() - start) * (total - done) / done
            say(f"{label}: {done:,} of {total:,}, about {left:,.0f} s left")

    yield tell
    say(f"{label}: {time.monotonic() - start:,.0f} s")


def say(text: str) -> None:
    """A line for the person at the terminal."""
    with suppress(OSError):  # nobody listens any more, or the disk with the log is full: no reason to stop
        print(f"{text}\n", end="", file=sys.stderr, flush=True)  # one write: Ctrl-C comes before a line or after it


@contextmanager
def _rich_bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def counted(progress: Progress, total: int) -> Callable[[int], None]:
    """For those who say how many *more* are done, as engines do."""
    done = 0

    def add(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    return add
