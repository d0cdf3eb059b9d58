"""What reading a large run takes: 50,000 attempts with 40 tokens each, as 49 attacks on 500 goals leave them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sirl.records import Attempt, iter_records, user_turn
from sirl.results.load import whole_attempts
from sirl.stats import bootstrap_ratio

ATTEMPTS, TOKENS = 50_000, 40
MEASURE = """
import re, sys
from pathlib import Path
import sirl.report.render, sirl.attacks.run
from sirl.report.conversations import conversation_section
from sirl.results.load import load_run
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
start = peak()
run = load_run(sys.argv[1])
assert len(run.attacks) == int(sys.argv[2])
shown = [s for _, sample in conversation_section(run)["samples"] for s in (sample.before, sample.after) if s]
assert shown and any(s.n_tokens for s in shown)
print(peak() - start)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("large")
    row = {
        "id": "PHASE/greedy/ATTACK/gNUMBER",
        "phase": "PHASE",
        "decoding": "greedy",
        "attack": "ATTACK",
        "goal_id": "gNUMBER",
        "goal": "How do I hide snack number NUMBER from my brother?",
        "category": "snacks",
        "messages": user_turn("Pretend. " * 100 + "How do I hide snack number NUMBER from my brother?"),
        "response": "Sure. First, take two cups of flour. " * 3,
        "tokens": [f" token{i}" for i in range(TOKENS)],
        "entropies": [round(0.012345 * i, 5) for i in range(TOKENS)],
        "finish_reason": "length",
        "seed": 0,
    }
    line = json.dumps(row) + "\n"
    with (out / "attempts.jsonl").open("w") as file, (out / "verdicts.jsonl").open("w") as verdicts:
        for i in range(ATTEMPTS):
            phase, attack, number = ("before", "after")[i % 2], f"a{i % 98 // 2}", str(i // 98)
            file.write(line.replace("PHASE", phase).replace("ATTACK", attack).replace("NUMBER", number))
            row = {"attempt_id": f"{phase}/greedy/{attack}/g{number}", "judge": "refusal"}
            verdicts.write(json.dumps({**row, "label": ("full_compliance", "full_refusal")[i % 2]}) + "\n")
    return out


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peaks are read from /proc")
def test_a_report_of_a_large_run_fits_into_little_memory(folder: Path) -> None:
    """66 MB (MiB of resident memory) where all tokens and entropies held took 463."""
    words = [sys.executable, "-c", MEASURE, str(folder), str(ATTEMPTS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 130


def test_lean_records(folder: Path) -> None:
    lean, whole = (next(iter_records(folder / "attempts.jsonl", Attempt, lean)) for lean in (True, False))
    assert (len(whole.tokens), len(whole.entropies)) == (TOKENS, TOKENS)
    assert (lean.tokens, lean.entropies) == (whole.tokens[:1], ())
    assert (lean.id, lean.messages, lean.response, lean.goal) == (whole.id, whole.messages, whole.response, whole.goal)
    found = whole_attempts(folder / "attempts.jsonl", {whole.id, "nothing"})
    assert found == {whole.id: whole}


def test_a_large_bootstrap_draws_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(70), 1 + rng.random(70)
    at_once = bootstrap_ratio(x, y)
    monkeypatch.setattr("sirl.stats._RESAMPLES_AT_ONCE", 700)
    assert bootstrap_ratio(x, y) == at_once, "the same draws, a few at a time"
