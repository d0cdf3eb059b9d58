"""Models as people have them, through a whole run: gap, attack, one update, attack again, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import odd_models as odd
from sirl.experiment.config import load_config

WORKS = (
    odd.no_pad_token,
    odd.llama_pad_token,
    odd.pad_token_beyond_the_embedding,
    odd.sampling_without_do_sample,
    odd.sentencepiece,
    odd.adapter_on_a_tied_head,
    odd.no_system_role,
    odd.thinks,
)
REFUSED = (odd.pickled, odd.adapter_on_quantised, odd.prompt_tuning, odd.newer_tokenizer, odd.smaller_vocabulary)
"""Some of those of `tests/models/test_odd_models.py`, for the way that a refusal takes through the commands."""

TINY: dict[str, Any] = {
    "gap": {"dataset_name": None, "max_prompts": 2, "k": 2, "max_new_tokens": 6, "required": False},
    "train": {
        "use_peft": True,
        "lora_r": 2,
        "lora_target_modules": "all-linear",
        "learning_rate": 0.01,
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "max_completion_length": 6,
        "min_reward_spread": 0.0,
        "report_to": "none",
        "use_cpu": True,
    },
    "attack": {"attacks": ["direct"], "max_goals": 2, "max_new_tokens": 6, "decoding": ["greedy"]},
    "evals": {"overrefusal": None, "drift": False},
}


@pytest.fixture
def folder(tmp_path: Path, model_folder: Any) -> Path:
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "tiny"))


def written(tmp_path: Path, model: Path, **train: Any) -> Path:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"What is {word}?\n" for word in ("bread", "the sea", "a tomato", "France")))
    config = {**TINY, "name": "odd", "model_name_or_path": str(model), "output_dir": str(tmp_path / "run")}
    config["train"] = {**TINY["train"], "dataset_name": str(prompts), **train}
    config["attack"] = {**TINY["attack"], "goals": str(tmp_path / "goals.jsonl")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.usefixtures("goals")
@pytest.mark.parametrize("change", WORKS, ids=lambda change: change.__name__)
def test_a_whole_run(change: odd.Change, sirl: Any, folder: Path, tmp_path: Path) -> None:
    config = written(tmp_path, change(folder))
    more = ("--set", "chat_template_kwargs={enable_thinking: false}") if change is odd.thinks else ()
    attacks = ["direct", "caesar"] if change is odd.no_system_role else ["direct"]
    result = sirl("run", "--config", config, "--set", f"attack.attacks=[{','.join(attacks)}]", *more, "--json")
    assert result.code == 0, result.err
    run = tmp_path / "run"
    page = (run / "report.html").read_text()
    assert "<html" in page
    if change is odd.sentencepiece:
        assert "▁" not in page
        assert "0x" not in page
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert [a["phase"] for a in attempts] == ["before"] * 2 * len(attacks) + ["after"] * 2 * len(attacks)
    for attempt in attempts:  # caesar explains itself in a system turn
        assert ("System role not supported" in (attempt["error"] or "")) is (attempt["attack"] == "caesar")
    base, hardened = (AutoModelForCausalLM.from_pretrained(run / name) for name in ("base", "model"))
    assert AutoTokenizer.from_pretrained(run / "model").get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()
    assert hardened.get_input_embeddings().weight.shape == base.get_input_embeddings().weight.shape
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7]])
        assert not torch.equal(base(ids).logits, hardened(ids).logits), "an update changed something"


def test_full_fine_tuning_writes_its_checkpoints_and_its_model(
    sirl: Any, folder: Path, tmp_path: Path, goals: str
) -> None:
    """transformers checks sampling settings at every save, with the first checkpoint already."""
    model = odd.sampling_without_do_sample(folder)
    flags = {**TINY["train"], "use_peft": False, "save_steps": 1, "skip_gap_check": None}
    words = [
        w
        for k, v in flags.items()
        if k not in ("lora_r", "lora_target_modules")
        for w in (f"--{k}", v)
        if w is not None
    ]
    prompts = written(tmp_path, model).with_name("prompts.txt")
    out = tmp_path / "out"
    result = sirl("train", "--model_name_or_path", model, "--dataset_name", prompts, "--output_dir", out, *words)
    assert result.code == 0, (result.err, goals)
    assert (out / "checkpoints" / "checkpoint-1" / "generation_config.json").is_file()
    saved = json.loads((out / "model" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], saved.get("pad_token_id")) == (0.9, 0.6, None)


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_refused_before_any_work(change: odd.Change, sirl: Any, folder: Path, tmp_path: Path, goals: str) -> None:
    model = change(folder)
    assert f"--model_name_or_path {model}: " in sirl("run", "--config", written(tmp_path, model)).error
    flags = ("--model_name_or_path", model, "--output_dir", tmp_path / "run")
    assert f"--model_name_or_path {model}: " in sirl("attack", *flags, "--goals", goals, "--attacks", "direct").error
    assert (
        f"--model_name_or_path {model}: " in sirl("gap", "--model_name_or_path", model, "--dataset_name", goals).error
    )
    flags = (*flags, "--dataset_name", tmp_path / "prompts.txt")
    assert f"--model_name_or_path {model}: " in sirl("train", *flags).error
    assert not list((tmp_path / "run").glob("*")), "nothing is half written"


@pytest.mark.usefixtures("goals")
def test_an_adapter_on_the_head_cannot_be_trained(sirl: Any, folder: Path, tmp_path: Path) -> None:
    config = written(tmp_path, folder, lora_target_modules=["q_proj", "lm_head"])
    assert "train.lora_target_modules: TRL trains no adapter on the head" in sirl("run", "--config", config).error
    assert not list((tmp_path / "run").glob("*"))


# -- recipes -----------------------------------------------------------------------------------------------------------

RECIPES = {"paper-llama-3.1-8b": ("llama", odd.llama_pad_token), "paper-qwen2.5-7b": ("qwen2", None)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_a_tiny_model_of_its_family(
    name: str, sirl: Any, tmp_path: Path, model_folder: Any, goals: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With its own settings but for sizes, vLLM, and where its model and data come from."""
    family, change = RECIPES[name]
    model = Path(shutil.copytree(model_folder(family), tmp_path / "tiny"))
    if change:
        change(model)
    prompts = written(tmp_path, model).with_name("prompts.txt")
    smaller = {
        "train.dataset_name": prompts,
        "train.use_vllm": "false",
        "train.use_cpu": "true",
        "train.max_steps": 1,
        "train.gradient_accumulation_steps": 2,
        "train.max_completion_length": 6,
        "train.report_to": "none",
        "gap.max_prompts": 2,
        "gap.max_new_tokens": 6,
        "gap.required": "false",
        "attack.attacks": "[direct]",
        "attack.goals": goals,
        "attack.max_new_tokens": 6,
        "evals.overrefusal": "null",
    }
    assert {key.partition(".")[2] for key in smaller if key.startswith("train.")} - {"report_to", "use_cpu"} <= {
        "dataset_name",
        *load_config(name).train.options,
    }
    words = [word for key, value in smaller.items() for word in ("--set", f"{key}={value}")]
    flags = ("--model_name_or_path", model, "--output_dir", tmp_path / "run")
    with caplog.at_level("INFO", logger="sirl.training.memory"):
        result = sirl("run", "--config", name, *flags, *words)
    assert result.code == 0, result.err
    assert any(message.startswith("memory: training ") for message in caplog.messages)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
