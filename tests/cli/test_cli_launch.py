"""`sirl train` as its users start it on several devices: the command itself, under torchrun, with two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tiny_models import PROMPTS

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def launch(*words: object) -> subprocess.CompletedProcess[str]:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = [str(word) for word in (*launcher, "-m", "sirl", *words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)


def test_two_processes_start_on_a_new_folder_and_one_of_them_writes(tmp_path: Path, model_folder: Any) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    folder = tmp_path / "deep" / "run"
    words = ("train", "--model_name_or_path", model_folder("llama"), "--dataset_name", prompts, "--output_dir", folder)
    sizes = ("--per_device_train_batch_size", 4, "--num_generations", 2, "--max_completion_length", 4)
    done = launch(*words, *sizes, "--max_steps", 2, "--save_steps", 1, "--use_cpu", "--report_to", "none", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == {"model": str(folder / "model"), "output_dir": str(folder)}
    AutoModelForCausalLM.from_pretrained(folder / "model")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert {name: stage["status"] for name, stage in stages.items()} == {"gap": "done", "train": "done"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
