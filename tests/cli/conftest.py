"""Running commands in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sirl.cli.main import main


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a user's mistake."""
        assert (self.code, self.out) == (2, ""), self
        lines = [line for line in self.err.splitlines() if line.startswith("sirl: ")]
        assert len(lines) == 1
        assert "Traceback" not in self.err
        return lines[0]


Sirl = Callable[..., Result]


@pytest.fixture
def sirl(capfd: pytest.CaptureFixture[str]) -> Sirl:
    """Call as `sirl("list", "attacks")`."""

    def call(*words: object) -> Result:
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # --help and --version
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def goals(tmp_path: Path) -> str:
    """Four mild requests in two categories."""
    rows = [
        {"id": f"g{i}", "prompt": f"How do I hide snack number {i}?", "category": ("kitchen", "school")[i % 2]}
        for i in range(4)
    ]
    path = tmp_path / "goals.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
