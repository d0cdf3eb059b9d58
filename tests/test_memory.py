"""Memory by arithmetic: against sums done by hand, against real models, and every recipe against its hardware."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig, Qwen2Config
from trl import get_peft_config

from sirl.config import bundled_configs, load_config
from sirl.errors import UserError
from sirl.flags import Training, parse_training
from sirl.memory import (
    ModelSize,
    Shape,
    announce,
    available,
    model_config,
    model_size,
    prompt_lengths,
    training_memory,
    training_shape,
)
from sirl.plan import training_options
from tiny_models import FAMILIES, tiny_config, tiny_model

CONFIGS = {
    "meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
    "Qwen/Qwen2.5-7B-Instruct": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}
"""As their config.json on the hub have it."""

LLAMA = ModelSize(8_030_261_248, 8_030_261_248, 32, 4096, 14336, 1024, 2 * 128256 * 4096)
FULL = Shape(weight=4, compute=2, lora=False, rows=8, group=4, prompt=1024, completion=3072, checkpointing=True)


@pytest.mark.parametrize(
    ("name", "parameters", "adapters"),
    [
        # r = 16 on all linear layers; Llama: (4096+4096)x2 + (4096+1024)x2 + (4096+14336)x3 = 81,920, x 16 x 32 layers
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, 41_943_040),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, 40_370_176),
    ],
)
def test_sizes_are_those_of_the_model_cards(name: str, parameters: int, adapters: int) -> None:
    assert model_size(CONFIGS[name]).parameters == parameters
    size = model_size(CONFIGS[name], LoraConfig(r=16, target_modules="all-linear"))
    assert (size.parameters, size.trained) == (parameters + adapters, adapters)


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_sizes_are_those_of_the_model_that_is_made(family: str) -> None:
    size = model_size(tiny_config(family, 300))
    assert size.parameters == sum(p.numel() for p in tiny_model(family).parameters())
    assert (size.layers, size.width) == (2, 32)


def test_the_demos_size_is_that_of_the_bundled_weights() -> None:
    assert model_size(model_config("demo")).parameters == 134_515_008  # as `load_base_model` loads it


def test_tied_embeddings_are_counted_once() -> None:
    assert model_size(tiny_config("llama", 300, tie_word_embeddings=True)).embeddings == 300 * 32
    assert model_size(tiny_config("llama", 300)).embeddings == 2 * 300 * 32


def test_full_fine_tuning_by_hand() -> None:
    """20 bytes a parameter with a reference model: 160 GB for 8.03 G, as the review of the recipes counted."""
    parts = training_memory(LLAMA, replace(FULL, reference=True))
    standing = ("weights", "reference", "gradients", "optimizer")
    assert [parts[name] for name in standing] == [n * 8_030_261_248 for n in (4, 4, 4, 8)]
    assert sum(parts[name] for name in standing) == pytest.approx(160.6e9, rel=1e-3)
    assert "reference" not in training_memory(LLAMA, FULL)
    halves = training_memory(LLAMA, replace(FULL, reference=True, shards=2))
    assert sum(halves[name] for name in standing) == 10 * 8_030_261_248
    assert halves["activations"] == parts["activations"]


def test_lora_by_hand() -> None:
    """scale.md: weights in bf16 16 GB; 42 M adapter parameters at 16 bytes 0.7 GB; no second copy for the reference."""
    size = replace(LLAMA, parameters=LLAMA.parameters + 41_943_040, trained=41_943_040)
    parts = training_memory(size, replace(FULL, weight=2, lora=True, reference=True))
    assert parts["weights"] == 2 * 8_030_261_248 + 4 * 41_943_040
    assert parts["weights"] + parts["gradients"] + parts["optimizer"] == 2 * 8_030_261_248 + 16 * 41_943_040
    assert "reference" not in parts


def test_activations_by_hand() -> None:
    """Checkpointed: 2 bytes x 4,096 wide x 32 layers = 0.26 MB a token, and one layer's own."""
    layer = 2 * (8 * 4096 + 2 * 1024 + 3 * 14336) + 16 * 4096
    tokens = 8 * 4096
    assert training_memory(LLAMA, FULL)["activations"] == tokens * (2 * 4096 * 32 + layer)
    assert training_memory(LLAMA, replace(FULL, checkpointing=False))["activations"] == tokens * 32 * layer
    packed = replace(FULL, packed=True)  # a prompt once for its group of 4
    assert training_memory(LLAMA, packed)["activations"] == (2 * 1024 + 8 * 3072) * (2 * 4096 * 32 + layer)


def test_rollouts_by_hand() -> None:
    """128 kB a token in bf16 (2 x 32 layers x 1,024 x 2 bytes), up to what our engine keeps."""
    shape = replace(FULL, weight=2, lora=True, rollout_rows=2, prompt=100, completion=28)
    assert training_memory(LLAMA, shape)["rollouts"] == 2 * 128 * 131_072
    assert training_memory(LLAMA, replace(shape, rollout_rows=512, completion=3072))["rollouts"] == 2 << 30
    assert training_memory(LLAMA, replace(shape, vllm=24 * 10**9))["vLLM"] == 24 * 10**9


@pytest.mark.parametrize(("optim", "times"), [("adamw_torch", 8), ("sgd", 0), ("adafactor", 0), ("adamw_bnb_8bit", 2)])
def test_optimizer_states(optim: str, times: int) -> None:
    training = parsed(optim=optim)
    shape = training_shape(training.config, training.model, on_cpu=False, device_bytes=0, prompts=[])
    parts = training_memory(LLAMA, shape)
    assert parts.get("optimizer", 0) == times * 8_030_261_248


def parsed(**options: Any) -> Training:
    return parse_training([], {"model_name_or_path": "m", "dataset_name": "demo/train", "output_dir": "o", **options})


def test_shape_is_what_the_flags_say() -> None:
    lora = parsed(use_peft=True, max_completion_length=40, num_rollouts=8, per_device_train_batch_size=48)
    shape = training_shape(lora.config, lora.model, on_cpu=True, device_bytes=0, prompts=[10, 20, 60])
    assert (shape.lora, shape.packed, shape.prompt, shape.completion) == (True, True, 30, 40)
    assert (shape.rows, shape.group, shape.rollout_rows) == (48, 4, 96)
    full = parsed(max_prompt_tokens=50, beta=0.0, bf16=False)
    shape = training_shape(full.config, full.model, on_cpu=False, device_bytes=0, prompts=[10, 20, 60])
    assert (shape.weight, shape.lora, shape.reference, shape.prompt) == (4, False, False, 50)
    low = parsed(use_peft=True, dtype="bfloat16", use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=0.25)
    shape = training_shape(low.config, low.model, on_cpu=False, device_bytes=80, prompts=[])
    assert (shape.weight, shape.vllm, shape.rollout_rows, shape.prompt) == (2, 20, 0, 1024)


def test_lengths_of_prompts_are_about_right() -> None:
    lengths = prompt_lengths(parsed())
    assert len(lengths) == 256
    assert 12 < sum(lengths) / len(lengths) < 80


def test_modules_that_the_model_does_not_have() -> None:
    with pytest.raises(UserError, match=r"^--lora_target_modules: .*c_attn"):
        model_size(tiny_config("llama", 300), LoraConfig(target_modules=["c_attn"]))


HARDWARE = re.compile(r"Hardware: (?:1 GPU of (\d+) GB|(\d+) GB of memory)")


@pytest.mark.parametrize("name", bundled_configs())
def test_every_recipe_fits_the_hardware_that_it_names(name: str) -> None:
    """With a quarter to spare, since the arithmetic is no closer than that."""
    named = HARDWARE.search(bundled_configs()[name].read_text())
    assert named, "say which hardware it is for"
    room = int(named[1] or named[2]) * 10**9
    config = load_config(name)
    training = parse_training([], training_options(config), name)
    size = model_size(
        CONFIGS.get(config.model_name_or_path) or model_config(config.model_name_or_path),
        get_peft_config(training.model),
    )
    lengths = prompt_lengths(training) if config.model_name_or_path == "demo" else []
    shape = training_shape(training.config, training.model, on_cpu=named[1] is None, device_bytes=room, prompts=lengths)
    parts = training_memory(size, shape)
    assert sum(parts.values()) < 0.8 * room, parts
    if named[1]:
        whole = training_memory(size, replace(shape, lora=False, weight=4))
        assert sum(whole.values()) > room, "what the recipe departs from the paper for"


def test_what_is_needed_is_said_and_a_warning_where_it_does_not_fit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    training = parsed(use_peft=True, lora_target_modules=["q_proj"], max_completion_length=40)
    for free, warned in ((10**12, False), (10**9, True)):
        caplog.clear()
        monkeypatch.setattr("sirl.memory.available", lambda _, free=free: (free, free, "in memory"))
        with caplog.at_level(logging.INFO, logger="sirl.memory"):
            parts = announce(training, "demo")
        line, *more = caplog.messages
        assert line.startswith("memory: training 0.6 M of 135.1 M parameters takes about")
        assert f"about {sum(parts.values()) / 1e9:.1f} GB (weights" in line
        assert line.endswith(f"; {free / 1e9:.1f} GB are free in memory")
        assert [m.startswith("memory: that may not fit; --use_peft") for m in more] == [True] * warned


def test_what_there_is() -> None:
    free, total, where = available(on_cpu=True)
    assert 0 < free <= total
    assert where == "in memory"
