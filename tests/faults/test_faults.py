"""Commands that are killed, filled up or left by their server lose nothing: 20 times in CI, `make soak` for more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_20_kills_lose_nothing() -> None:
    """In a process of its own: it forks, which this one's threads would not survive."""
    command = [sys.executable, "-m", "faults.soak", "--kills", "20", "--starts", "12", "--seed", "20"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(command, cwd=TESTS, env=env, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("soak: 20 kills, 0 lost, 0 unequal, 0 ended badly, ")
    for name in ("run", "train", "attack", "server"):
        assert f"\n{name}: " in done.stdout
