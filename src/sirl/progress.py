"""Progress for the person at the terminal, always on stderr: stdout is kept for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """What a stage tells its progress to, either way."""

    def add(self, n: int) -> None:
        """`n` more are done, as engines say it."""
        ...

    def at(self, done: int, total: int) -> None:
        """So many of so many are done, as attacks say it."""
        ...


BarMaker = Callable[[str], AbstractContextManager[Bar]]
"""Label of a stage -> its bar, closed when the stage ends."""


class _Count:
    """A bar that only counts."""

    def __init__(self) -> None:
        self.done = 0

    def add(self, n: int) -> None:
        self.done += n

    def at(self, done: int, total: int) -> None:
        self.done = done


@contextmanager
def no_bar(label: str) -> Iterator[Bar]:  # noqa: ARG001
    """Says nothing: for use from Python."""
    yield _Count()


@contextmanager
def terminal_bar(label: str) -> Iterator[Bar]:
    """A bar with the time left; where stderr is no terminal, one line when the stage begins and one when it ends."""
    if sys.stderr.isatty():
        with _rich_bar(label) as bar:
            yield bar
        return
    start = time.monotonic()
    print(f"{label} ...", file=sys.stderr, flush=True)
    count = _Count()
    yield count
    how_many = f"{count.done:,} in " if count.done else ""
    print(f"{label}: {how_many}{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def _rich_bar(label: str) -> Iterator[Bar]:
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

        class Rich:
            def add(self, n: int) -> None:
                progress.advance(task, n)

            def at(self, done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

        yield Rich()
