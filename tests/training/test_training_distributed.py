"""Two gloo processes do what one process with twice the batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_worker import CASES
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANKS = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model_folder: Any) -> Callable[[str], Path]:
    """`run("distributed-2")`: the folder of that run."""
    out = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, str(RANKS), str(out), str(model_folder("llama")), str(model_folder("qwen2"))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    codes = json.loads(done.stdout.splitlines()[-1])

    def folder(name: str) -> Path:
        assert codes[name] == 0, done.stderr[-8000:]
        return out / name

    return folder


@pytest.fixture(scope="module")
def runs(run: Callable[[str], Path]) -> tuple[Path, Path]:
    return run("distributed-1"), run("distributed-2")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, runs: tuple[Path, Path]) -> None:
    one = torch.load(runs[0] / case / "0.pt")
    first, second = (torch.load(runs[1] / case / f"{rank}.pt") for rank in range(2))
    assert len(one["steps"]) == len(first["steps"]) == len(second["steps"]) == 3
    for whole, a, b in zip(one["steps"], first["steps"], second["steps"], strict=True):
        assert a["prompt_ids"] + b["prompt_ids"] == whole["prompt_ids"]
        assert a["completion_ids"] + b["completion_ids"] == whole["completion_ids"]
        assert len(a["completion_ids"]) == len(b["completion_ids"])
        for key in ("mean_entropy", "mean_logprob"):
            torch.testing.assert_close(torch.tensor(a[key] + b[key]), torch.tensor(whole[key]), atol=1e-5, rtol=1e-5)
        for part in (a, b):  # rewards are gathered: every process sees all
            torch.testing.assert_close(part["rewards"], whole["rewards"], atol=1e-5, rtol=1e-5)
        advantages = torch.cat([a["advantages"], b["advantages"]])
        torch.testing.assert_close(advantages, whole["advantages"], atol=1e-3, rtol=1e-3)
        assert advantages.abs().max() > 0.5
    for name, weight in one["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_metrics_of_two_processes_equal_those_of_one(case: str, runs: tuple[Path, Path]) -> None:
    one, two = ([json.loads(line) for line in (run / case / "metrics.jsonl").read_text().splitlines()] for run in runs)
    assert len(one) == len(two) == 3
    keys = ["reward", "rollout_entropy", "advantage_spread", "retention_kl", "num_tokens"]
    if "gradient_accumulation_steps" not in CASES[case]:  # else means of micro-batches, which are shuffled differently
        keys += ["entropy", "kl"]
    for a, b in zip(one, two, strict=True):
        for key in keys:
            assert b[key] == pytest.approx(a[key], abs=1e-4, rel=1e-4), key
        assert "retention_kl" in a
        assert a["retention_kl"] > 0 or a["step"] == 1


def test_the_hardened_model_is_written_once(runs: tuple[Path, Path]) -> None:
    """Both processes share the folder, in which the reference model of full fine-tuning is written too."""
    one, two = (AutoModelForCausalLM.from_pretrained(run / "run" / "model").state_dict() for run in runs)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5)
    assert not list(runs[1].glob("run/**/.*partial*"))


def test_sharded_parameters_give_the_same_answers_and_gradients(run: Callable[[str], Path]) -> None:
    """FSDP2, which accelerate offers on accelerators only, put to work by hand."""
    folders = [run("fsdp-1"), run("fsdp-2")]
    one = torch.load(folders[0] / "0.pt")
    parts = [torch.load(folders[1] / f"{rank}.pt") for rank in range(2)]
    # three prompts and one, of other lengths: who is done goes along with the passes of the other
    assert [len(part["answers"]) for part in parts] == [6, 2]
    for (ids, entropies), (expected, exact) in zip(
        [answer for part in parts for answer in part["answers"]], one["answers"], strict=True
    ):
        assert ids == expected
        assert entropies == pytest.approx(exact, abs=1e-4)
    for key in ("logps", "entropies"):
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), one[key], atol=1e-5, rtol=1e-5)
    for name, gradient in one["grads"].items():
        assert gradient.abs().max() > 0
        for part in parts:
            assert (part["grads"][name] - gradient).norm() < 1e-4 * gradient.norm(), name
