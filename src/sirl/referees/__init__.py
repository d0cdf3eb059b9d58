"""Referees: other people's tools that examine a model of ours, for those who would rather not take our word.

The model is served on this machine over the OpenAI protocol (`sirl.referees.server`), because that is what such tools
all speak, whatever runs the model and whatever versions of libraries they need. A referee runs as a program of its own;
what it finds is read from its report.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sirl.errors import UserError
from sirl.stats import wilson_interval

__all__ = ["Finding", "Referee", "Served", "find_program", "run_program"]

PARALLEL = 16
"""Requests that a referee has under way at a time; they are answered as one batch."""


@dataclass(frozen=True)
class Served:
    """Where the model is, for a client of the OpenAI protocol."""

    url: str
    key: str
    model: str
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Finding:
    """How many answers to one probe passed one test of the referee's. `unscored` ones are in neither figure."""

    probe: str
    test: str
    passed: int
    total: int
    unscored: int

    def row(self) -> dict[str, Any]:
        """For JSON, with the rate and its 95% Wilson interval; None where nothing was scored."""
        rate = self.passed / self.total if self.total else None
        low, high = wilson_interval(self.passed, self.total) if self.total else (None, None)
        return {**vars(self), "rate": rate, "low": low, "high": high}


class Referee(ABC):
    """One such tool. Made with the user's choices, checked, before a model is loaded.

    `program` is the name of its executable, `install` how to get it.
    """

    program: ClassVar[str]
    install: ClassVar[str]

    @abstractmethod
    def command(self, served: Served, folder: Path) -> list[str]:
        """The words behind the program's name. May write what it needs into the folder."""
        ...

    @abstractmethod
    def environment(self, served: Served) -> Mapping[str, str]:
        """Environment variables that it needs."""
        ...

    @abstractmethod
    def read(self, folder: Path) -> tuple[str, list[Finding]]:
        """The version of the tool, and what it found.

        Raises:
            UserError: there is no report, or not all of one.
        """
        ...


def find_program(referee: Referee, given: str | None) -> str:
    """The referee's executable: the one given, else the one beside this Python, else the one on the path.

    Raises:
        UserError: there is none.
    """
    if given is not None:
        if not (os.path.isfile(given) and os.access(given, os.X_OK)):
            raise UserError(f"--executable {given}: not a program that can be run")
        return given
    beside = str(Path(sys.executable).parent)
    found = shutil.which(referee.program, path=beside) or shutil.which(referee.program)
    if found is None:
        raise UserError(f"{referee.program}: not installed; {referee.install}")
    return found


def run_program(words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Run a program to its end, with all that it prints in a file.

    Raises:
        UserError: it fails; the message has the last line that it printed.
    """
    local = ",".join(
        filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])
    )  # the way to the model is not through a proxy
    env = {**os.environ, "NO_PROXY": local, "no_proxy": local, "PYTHONIOENCODING": "utf-8", **environment}
    with log.open("wb") as out:
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, check=False)
        except OSError as error:
            raise UserError(f"{words[0]}: cannot be run ({error.strerror})") from None
    if done.returncode:
        raise UserError(f"{words[0]} failed with exit code {done.returncode}: {last_line(log)} (all of it in {log})")


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, not too long."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it printed nothing")
