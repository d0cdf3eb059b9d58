"""What `make scale` is made of, and the arithmetic of docs/scale.md; the runs themselves are too long for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import LlamaConfig

from scale import plan
from scale.__main__ import table
from scale.beside_vllm import agreement
from scale.paths import TRAININGS, Attempt, answers_apart, failure, last_object, training_command
from sirl.training.memory import Shape, model_size, training_memory

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def plans() -> dict[str, plan.Plan]:
    return {made.name: made for made in plan.plans()}


def test_the_plan_is_what_the_docs_say() -> None:
    text = (ROOT / "docs" / "scale.md").read_text()
    for row in plan.rows():
        assert row in text


def test_sizes_are_those_of_llama(plans: dict[str, plan.Plan]) -> None:
    lora, small, large = (made.size for made in plans.values())
    assert small.parameters == small.trained == 8_030_261_248
    assert large.parameters == 70_553_706_496
    assert lora.trained == lora.parameters - small.parameters == 41_943_040


def test_every_plan_fits(plans: dict[str, plan.Plan]) -> None:
    for made in plans.values():
        assert sum(made.memory().values()) < plan.GPU_BYTES
    alone = plan.replace(plans["8B in full, FSDP2, 8 GPUs"].shape, shards=1)
    whole = training_memory(plans["8B in full, FSDP2, 8 GPUs"].size, alone)
    assert sum(whole.values()) > 2 * plan.GPU_BYTES, "which is why it is shared out"


def test_what_is_in_shares_and_what_is_not() -> None:
    size = model_size(LlamaConfig(**{**plan.LLAMA_8B, "num_hidden_layers": 1}))
    one = Shape(4, 2, False, rows=2, group=2, prompt=10, completion=20, reference=True, rollout_rows=2)
    whole, shared = training_memory(size, one), training_memory(size, plan.replace(one, shards=4))
    for part in ("weights", "gradients", "optimizer"):
        assert shared[part] == -(-whole[part] // 4)
    assert shared["reference"] == -(-whole["reference"] // 8), "shared out and in bfloat16"
    for part in ("activations", "logits", "rollouts"):
        assert shared[part] == whole[part]
    assert whole["optimizer"] == 2 * whole["weights"] == 8 * size.parameters
    assert whole["logits"] == 2 * 20 * plan.LLAMA_8B["vocab_size"] * (2 + 4 + 4)
    assert "logits" not in training_memory(size, plan.replace(one, packed=True))


def test_passes_are_counted(plans: dict[str, plan.Plan]) -> None:
    work = plan.Work(prompts=10, group=2, prompt=3, completion=4)
    assert (work.drawn, work.scored) == (80, 140)
    lora, full, _ = plans.values()
    assert lora.update_flops(work) == 2 * lora.size.parameters * 140 * 4  # reference, policy, again, one backward
    assert full.update_flops(work) == 2 * full.size.parameters * 140 * 5
    no_reference = plan.replace(full, shape=plan.replace(full.shape, reference=False, checkpointing=False))
    assert no_reference.update_flops(work) == 2 * full.size.parameters * 140 * 3


# -- figures that others have published: torchtitan, docs/performance.md (A100) and its H100 report of December 2024 ---

LONG = 8192
"""Tokens of a row in those runs but one."""


def attention_flops(config: dict[str, Any], length: int) -> int:
    """Of a token, forwards and backwards, as torchtitan counts them; the plan leaves them out."""
    return 12 * config["num_hidden_layers"] * config["hidden_size"] * length


@pytest.mark.parametrize(("config", "speed", "utilisation"), [("8B", 2904, 0.568), ("70B", 331, 0.517)])
def test_flops_are_those_of_published_runs(
    config: str, speed: int, utilisation: float, plans: dict[str, plan.Plan]
) -> None:
    """An A100 has 312 TFLOP/s at best: tokens a second times our FLOPs a token are the reported utilisation."""
    full = next(made for name, made in plans.items() if name.startswith(f"{config} in full"))
    plain = plan.replace(full, shape=plan.replace(full.shape, reference=False, checkpointing=False))
    work = plan.Work(prompts=1, group=1, prompt=0, completion=LONG)
    products = plain.update_flops(work) / work.scored
    model = plan.LLAMA_8B if config == "8B" else plan.LLAMA_70B
    assert abs((products + attention_flops(model, LONG)) * speed / 312e12 - utilisation) < 0.001
    assert products * speed / 312e12 < utilisation


def test_no_plan_is_faster_than_published_runs(plans: dict[str, plan.Plan]) -> None:
    """8B, 8 H100, not compiled: 5,762 tokens a second a GPU. What was computed again there is not counted."""
    reached = (6 * plans["8B in full, FSDP2, 8 GPUs"].size.parameters + attention_flops(plan.LLAMA_8B, LONG)) * 5762
    for made in plans.values():
        assert made.used <= reached / plan.PEAK < 0.36


def published(shape: Shape, size: Any, **settings: Any) -> dict[str, int]:
    """Memory of a full fine-tuning of 8B, without a reference and without rollouts."""
    plain = {"rows": 1, "group": 1, "prompt": 0, "reference": False, "vllm": 0, **settings}
    parts = training_memory(size, plan.replace(shape, **plain))
    return {name: value for name, value in parts.items() if name != "rollouts"}


def test_what_is_in_shares_takes_what_published_runs_took(plans: dict[str, plan.Plan]) -> None:
    """From 8 H100 to 128 the same training (compiled) went from 77.0 to 62.0 GiB."""
    full = plans["8B in full, FSDP2, 8 GPUs"]
    few, many = (sum(published(full.shape, full.size, rows=2, completion=LONG, shards=n).values()) for n in (8, 128))
    assert 0.9 < (few - many) / ((77.0 - 62.0) * 2**30) < 1.0


def test_what_is_not_in_shares_is_near_published_runs(plans: dict[str, plan.Plan]) -> None:
    """One row of 32,768 tokens, all layers computed again: 83.9 GiB. Every plan fits with as much more, too."""
    full = plans["8B in full, FSDP2, 8 GPUs"]
    parts = published(full.shape, full.size, completion=32768)
    rest = parts["activations"] + parts["logits"]
    more = 83.9 * 2**30 - sum(parts.values())
    assert 0 < more / rest < 0.3
    for made in plans.values():
        own = made.memory()
        assert sum(own.values()) + more / rest * (own["activations"] + own["logits"]) < plan.GPU_BYTES


def test_some_layers_computed_again_is_between_all_and_none(plans: dict[str, plan.Plan]) -> None:
    """Two rows of 8,192 tokens on 8 GPUs, not compiled: 82.4 GiB."""
    full = plans["8B in full, FSDP2, 8 GPUs"]
    every, none = (
        sum(published(full.shape, full.size, rows=2, completion=LONG, checkpointing=again).values())
        for again in (True, False)
    )
    assert every < 82.4 * 2**30 < none


def test_four_bits_are_those_of_the_paper() -> None:
    """QLoRA, arXiv 2305.14314: 4.5 bits a number; the matrices of 70B are then 38.5 GB, and fit on a GPU of 48."""
    size = model_size(LlamaConfig(**plan.LLAMA_70B))
    shape = Shape(weight=2, compute=2, lora=True, rows=1, group=1, prompt=0, completion=1, four_bits=True)
    weights = training_memory(plan.replace(size, trained=0), shape)["weights"]
    assert weights == 2 * size.embeddings + (size.parameters - size.embeddings) * 4.5 // 8
    assert weights < 48 * 10**9 < 2 * size.parameters


def test_lora_counts_adapters_alone() -> None:
    config = LlamaConfig(**{**plan.LLAMA_8B, "num_hidden_layers": 1})
    adapted = model_size(config, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    shape = Shape(weight=2, compute=2, lora=True, rows=2, group=2, prompt=10, completion=20, reference=True)
    parts = training_memory(adapted, shape)
    assert "reference" not in parts, "the model without its adapters"
    assert parts["optimizer"] == 2 * parts["gradients"] == 8 * adapted.trained


def test_commands_are_those_of_users(tmp_path: Path) -> None:
    """All processes together have the rows of one."""
    one = training_command(TRAININGS["one"], Path("python"), tmp_path, tmp_path / "out")
    two = training_command(TRAININGS["zero3"], Path("python"), tmp_path, tmp_path / "out")
    assert one[:4] == ["python", "-m", "sirl", "train"]
    assert two[1:3] == ["-m", "accelerate.commands.launch"]
    assert "--use_cpu" in one
    assert "--use_cpu" not in two, "accelerate would leave DeepSpeed out"
    for name in ("per_device_train_batch_size", "retention_batch_size"):
        assert int(one[one.index(f"--{name}") + 1]) == 2 * int(two[two.index(f"--{name}") + 1])
    for made in TRAININGS.values():
        assert made.config is None or (ROOT / "configs" / "accelerate" / f"{made.config}.yaml").is_file()
        assert made.reference is None or TRAININGS[made.reference].lora == made.lora


def test_a_failure_is_one_line() -> None:
    traceback = "Traceback\n  File x\nValueError: head size 8\nroot\nChildFailedError: \n====\n"
    assert failure(traceback) == "ValueError: head size 8"
    assert failure("a\nsirl: --engine vllm: needs it\nValueError: later") == "sirl: --engine vllm: needs it"
    assert failure("") == "nothing was said"


def test_two_engines_are_compared_as_far_as_their_tokens_are_the_same() -> None:
    ours = [([5, 6, 7], [-1.0, -2.0, -3.0], [0.5, 0.5, 0.5]), ([5], [-1.0], [0.5])]
    theirs = [([5, 6, 8], [-1.25, -2.0, -9.0], [0.5, 0.75, 9.0]), ([5], [-1.0], [0.5])]
    assert agreement(ours, ours) == {"answers": 0, "log-probabilities": 0, "entropies": 0}
    assert agreement(ours, theirs) == {"answers": 0.5, "log-probabilities": 0.25, "entropies": 0.25}


def test_a_shorter_answer_is_another_one() -> None:
    ours, theirs = [([5, 6], [-1.0, -2.0], [0.0, 0.0])], [([5], [-1.0], [0.0])]
    assert agreement(ours, theirs)["answers"] == 1  # type: ignore[arg-type]


def test_greedy_answers_of_two_folders(tmp_path: Path) -> None:
    def write(name: str, *texts: str) -> Path:
        (tmp_path / name).mkdir()
        rows = [{"id": i, "decoding": "greedy" if i else "sample", "response": text} for i, text in enumerate(texts)]
        (tmp_path / name / "attempts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    one = write("one", "a", "b", "c")
    assert answers_apart(one, write("sampled", "x", "b", "c")) == 0
    assert answers_apart(one, write("greedy", "a", "b", "x")) == 0.5
    assert answers_apart(one, write("fewer", "a", "b")) == 1


def test_figures_are_found_among_what_a_library_says() -> None:
    assert last_object('INFO {x\n{"answers": 1}\n{"answers": 0.0}\nbye\n') == {"answers": 0.0}


def test_the_table_says_what_differs() -> None:
    good = Attempt("ddp", "DDP", {"torch": "2"}, True, "", 3.4, True, {"weights": 1e-8})
    bad = Attempt("zero2", "DeepSpeed ZeRO-2", {}, True, "", 5.0, False, {"weights": 1.0})
    refused = Attempt("vllm", "vLLM", {}, False, "no room", 1.0)
    lines = table([good, bad, refused]).splitlines()
    assert lines[2] == "| ddp | DDP (torch 2) | yes | 3 | yes (weights 1e-08 apart) |"
    assert "NO (weights 1 apart)" in lines[3]
    assert "| no: no room | 1 |  |" in lines[4]
