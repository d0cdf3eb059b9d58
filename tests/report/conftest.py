"""Shared run folders; made by `report_runs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from report_runs import write_run


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 3,200 attacks and 600 benign prompts."""
    return write_run(tmp_path_factory.mktemp("runs") / "demo")
