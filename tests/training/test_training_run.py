"""`run_training`: from a prompt file and a model folder to a hardened model that everybody can load."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_runs import HELD, tiny_config, trainable
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import ModelConfig

from sirl.errors import CannotWriteError, UserError
from sirl.generation import SamplingParams, load_engine
from sirl.models import load_model
from sirl.records import Message
from sirl.training.arguments import DataConfig
from sirl.training.checkpoint_selection import CheckpointSelectionCallback, SelectionRule
from sirl.training.run import last_checkpoint, retention_prompts, run_training, starting_model, training_prompts
from tiny_models import PROMPTS, tiny_tokenizer

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def prompt_files(tmp_path: Path) -> DataConfig:
    rows = [{"prompt": text, "label": "unsafe", "is_safe": False} for text in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "benign.txt").write_text("\n".join(HELD) + "\n")
    return DataConfig(dataset_name=str(tmp_path / "prompts.jsonl"), retention_dataset_name=str(tmp_path / "benign.txt"))


def model_args(folder: Path, lora: bool = True, **settings: Any) -> ModelConfig:
    options = {"model_name_or_path": str(folder), "use_peft": lora, "lora_r": 4, "lora_dropout": 0.0}
    return ModelConfig(**{**options, "dtype": "float32", "lora_target_modules": ["all-linear"], **settings})


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


class Killed(Exception):  # noqa: N818
    """As if the machine had gone down."""


class KillAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("qwen3", "bfloat16")])
def test_lora(family: str, dtype: str, tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    run = tmp_path / "run"
    config = tiny_config(run, learning_rate=1e-2, max_steps=3, save_strategy="steps", save_steps=2)
    folder = run_training(config, model_args(model_folder(family), dtype=dtype), prompt_files)
    assert folder == run / "model"
    assert {"model", "adapter", "checkpoints", "metrics.jsonl"} <= {path.name for path in run.iterdir()}

    hardened = AutoModelForCausalLM.from_pretrained(folder)
    assert hardened.dtype == getattr(torch, dtype)
    assert not (folder / "adapter_config.json").exists()
    base = AutoModelForCausalLM.from_pretrained(model_folder(family), dtype=getattr(torch, dtype))
    moved = (logits(hardened) - logits(base)).abs().max()
    assert moved > 0.05
    merged = PeftModel.from_pretrained(base.float(), run / "adapter").merge_and_unload()
    rtol = 1e-4 if dtype == "float32" else 2**-7  # one unit in the last place: saved weights are rounded once
    for name, parameter in hardened.named_parameters():
        torch.testing.assert_close(parameter.float(), merged.get_parameter(name), atol=1e-5, rtol=rtol, msg=name)

    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny_tokenizer().chat_template
    [[answer]] = load_engine(str(folder)).generate([(Message(role="user", content="How?"),)], SamplingParams(4))
    assert answer.token_ids

    checkpoint = run / "checkpoints" / "checkpoint-2"
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder(family)), checkpoint)


def test_full_fine_tuning(tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    """The reference model of a model object comes from a folder that the run writes."""
    run = tmp_path / "run"
    config = tiny_config(run, learning_rate=1e-3, max_steps=3, beta=0.1, save_strategy="steps", save_steps=3)
    folder = run_training(config, model_args(model_folder("qwen2"), lora=False, dtype=None), prompt_files)
    hardened = AutoModelForCausalLM.from_pretrained(folder)
    assert hardened.dtype == torch.float32, "updates of 1e-6 are lost in bfloat16 weights"
    base = load_model(str(model_folder("qwen2")), dtype=torch.float32)
    assert (logits(hardened) - logits(base)).abs().max() > 0.05
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(run / "checkpoints/reference")), logits(base)
    )
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(run / "checkpoints/checkpoint-3")), logits(hardened)
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 1e-4


def test_a_model_that_is_an_adapter(tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    """Hardening goes on from the merged model, and is held to that, not to the adapter's base."""
    first, second = tmp_path / "first", tmp_path / "second"
    run_training(tiny_config(first, learning_rate=3e-2), model_args(model_folder("llama")), prompt_files)
    config = tiny_config(second, beta=0.1, max_steps=1)
    run_training(config, model_args(first / "adapter", lora=False), prompt_files)
    reference = AutoModelForCausalLM.from_pretrained(second / "checkpoints/reference")
    hardened = AutoModelForCausalLM.from_pretrained(first / "model")
    torch.testing.assert_close(logits(reference), logits(hardened), atol=1e-4, rtol=1e-3)


def test_metrics_rows(tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    run = tmp_path / "run"
    asked: list[str] = []

    def watch(texts: Sequence[str]) -> dict[str, float]:
        asked.extend(texts)
        return {"refusal_rate": 0.25} if len(asked) > len(texts) else {}  # nothing is known of the first batch

    run_training(tiny_config(run, max_steps=3), model_args(model_folder("llama")), prompt_files, watch=watch)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    expected = {
        "reward",
        "reward_std",
        "advantage_spread",
        "zero_spread_rate",
        "entropy",
        "rollout_entropy",
        "completion_length",
        "truncated_rate",
        "repetition_rate",
        "distinct_response_rate",
        "empty_rate",
        "retention_kl",
        "kl",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "tokens_per_second",
        "epoch",
    }
    for row in rows:
        assert expected <= set(row)
        if not row["empty_rate"]:  # else the entropy is that of all answers drawn, the reward of those that earn one
            assert row["reward"] == pytest.approx(-row["rollout_entropy"], abs=1e-4)
        assert 0 <= row["truncated_rate"] <= 1
        assert 1 <= row["completion_length"] <= 10
        assert row["advantage_spread"] > 0.5
    assert {row["empty_rate"] == 0 for row in rows} == {True, False}
    assert [row.get("refusal_rate") for row in rows] == [None, 0.25, 0.25], "no rate of 0 where none is known"


def test_every_update_has_a_row(tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    """Those too that go over a batch again and so have no new rewards."""
    run = tmp_path / "run"
    config = tiny_config(run, max_steps=4, num_iterations=2)
    run_training(config, model_args(model_folder("llama")), prompt_files)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], "reward" in row) for row in rows] == [(1, True), (2, False), (3, True), (4, False)]


@pytest.mark.parametrize("lora", [True, False])
def test_a_killed_run_goes_on(lora: bool, tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    def go(run: Path, callbacks: Any = ()) -> Path:
        config = tiny_config(run, max_steps=6, save_strategy="steps", save_steps=2, beta=0.01, learning_rate=1e-3)
        return run_training(config, model_args(model_folder("llama"), lora), prompt_files, callbacks=callbacks)

    whole = go(tmp_path / "whole")
    with pytest.raises(Killed):
        go(tmp_path / "parts", [KillAt(5)])
    assert last_checkpoint(tmp_path / "parts" / "checkpoints") == str(tmp_path / "parts/checkpoints/checkpoint-4")
    parts = go(tmp_path / "parts")
    expected, got = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (whole, parts))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    shutil.rmtree(parts)  # killed between the last update and the copy of the model
    again = AutoModelForCausalLM.from_pretrained(go(tmp_path / "parts")).state_dict()
    assert all(torch.equal(expected[name], again[name]) for name in expected)


def test_a_run_killed_while_it_exports(
    tmp_path: Path, prompt_files: DataConfig, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last policy refuses everything; the one before it is deployed, also by the run that goes on."""
    figures = {0: (0.5, 0.0), 2: (0.8, 0.0), 4: (1.0, 1.0)}

    def go() -> Path:
        def measure(_: Any) -> dict[str, float]:
            dsr, refused = figures[check.trainer.state.global_step]
            return {"dsr": dsr, "over_refusal": refused}

        check = CheckpointSelectionCallback(measure, 2, tmp_path / "run" / "development.jsonl", SelectionRule())
        config = tiny_config(tmp_path / "run", max_steps=4, save_strategy="steps", save_steps=4)
        return run_training(config, model_args(model_folder("llama")), prompt_files, callbacks=[check])

    def killed(trainer: Any, *_: Any) -> None:
        deployed.append(trainable(trainer))
        raise Killed

    deployed: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr("sirl.training.run.save_hardened", killed)
        for _ in range(2):
            with pytest.raises(Killed):
                go()
    assert all(torch.equal(value, deployed[1][name]) for name, value in deployed[0].items())
    final = AutoModelForCausalLM.from_pretrained(go())
    last = PeftModel.from_pretrained(load_model(str(model_folder("llama"))), tmp_path / "run/checkpoints/checkpoint-4")
    assert (logits(final) - logits(last)).abs().max() > 1e-3
    adapter = PeftModel.from_pretrained(load_model(str(model_folder("llama"))), tmp_path / "run" / "adapter")
    names = {name.replace(".default", ""): value for name, value in deployed[0].items()}
    got = {name.replace(".default", ""): value for name, value in adapter.state_dict().items()}
    assert all(torch.equal(got[name], value) for name, value in names.items())
    assert not list((tmp_path / "run" / "checkpoints").glob("*chosen*"))


def test_last_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()  # killed while it was written
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_prompts_that_are_too_long_are_left_out(
    tmp_path: Path, prompt_files: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, max_prompt_tokens=40)
    with caplog.at_level("WARNING"):
        kept = training_prompts(config, prompt_files, tiny_tokenizer())
    assert 2 <= len(kept) < len(PROMPTS)
    assert f"{len(PROMPTS) - len(kept)} of 8 prompts are longer than 40 tokens" in caplog.text
    with pytest.raises(UserError, match=r"--dataset_name .*: 0 prompts, but one batch takes 2"):
        training_prompts(tiny_config(tmp_path, max_prompt_tokens=5), prompt_files, tiny_tokenizer())


def test_too_few_prompts_for_a_batch(tmp_path: Path, prompt_files: DataConfig) -> None:
    config = tiny_config(tmp_path, per_device_train_batch_size=64)
    with pytest.raises(UserError, match="8 prompts, but one batch takes 16"):
        training_prompts(config, prompt_files, tiny_tokenizer())


def test_retention_prompts(prompt_files: DataConfig) -> None:
    assert [p.text for p in retention_prompts(prompt_files)] == list(HELD)
    assert retention_prompts(DataConfig(dataset_name="x")) == []
    with pytest.raises(UserError, match="--retention_dataset_name"):
        retention_prompts(DataConfig(retention_dataset_name="/nowhere/benign.jsonl"))


def test_attention_is_as_asked_for(model_folder: Any) -> None:
    folder = model_folder("llama")
    for name in ("eager", "sdpa"):
        model, _ = starting_model(model_args(folder, attn_implementation=name))
        assert model.config._attn_implementation == name
    with pytest.raises(UserError, match=r"cannot be loaded .*FlashAttention2"):
        starting_model(model_args(folder, attn_implementation="flash_attention_2"))


def test_checkpoints_are_pushed_under_the_name_of_the_run(
    tmp_path: Path, prompt_files: DataConfig, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not `checkpoints`, the folder that they lie in, where every run would overwrite every other's."""
    names = []

    def stop(config: Any, *_: Any, **__: Any) -> None:
        names.append(config.hub_model_id)
        raise Killed

    monkeypatch.setattr("sirl.training.run.build_trainer", stop)
    for given in (None, "lab/mine"):
        config = tiny_config(tmp_path / "hard-7b", push_to_hub=True, hub_model_id=given)
        with pytest.raises(Killed):
            run_training(config, model_args(model_folder("llama")), prompt_files)
    assert names == ["hard-7b", "lab/mine"]


def test_unknown_dtype(tmp_path: Path, prompt_files: DataConfig, model_folder: Any) -> None:
    with pytest.raises(UserError, match="--dtype float7: unknown; give bfloat16"):
        run_training(tiny_config(tmp_path / "r"), model_args(model_folder("llama"), dtype="float7"), prompt_files)


def test_killed_between_the_export_and_the_end_it_does_not_train_or_choose_again(
    tmp_path: Path, model_folder: Any, prompt_files: DataConfig
) -> None:
    """The weights that were chosen are gone by then: choosing again would find the last ones alone."""
    folder = tmp_path / "run"
    config = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    run_training(tiny_config(folder, **config), model_args(model_folder("llama")), prompt_files)
    exported = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "checkpoints" / "chosen-1.safetensors").touch()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-2")
    before = (folder / "metrics.jsonl").read_bytes()
    check = CheckpointSelectionCallback(
        lambda _: {"dsr": 0.0, "over_refusal": 0.0}, 1, folder / "development.jsonl", SelectionRule()
    )
    again = run_training(
        tiny_config(folder, **config), model_args(model_folder("llama")), prompt_files, callbacks=[check]
    )
    assert (again / "model.safetensors").read_bytes() == exported
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert not list((folder / "checkpoints").glob("chosen-*"))


def test_machines_that_share_no_disk(
    tmp_path: Path, model_folder: Any, prompt_files: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sirl.training.run.gather_object", lambda own: [*own, ("elsewhere/checkpoint-8", False)])
    with pytest.raises(UserError, match=r"find different checkpoints in .*; put it on a disk that all machines share"):
        run_training(tiny_config(tmp_path / "run"), model_args(model_folder("llama")), prompt_files)


def test_a_checkpoint_whose_last_file_is_torn_is_no_checkpoint(tmp_path: Path) -> None:
    for step, text in ((2, "{}"), (4, "{"), (6, "")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_disk_without_room_for_a_checkpoint_is_one_line(
    tmp_path: Path, model_folder: Any, prompt_files: DataConfig
) -> None:
    """And with room again the training is resumed."""
    folder = tmp_path / "run"
    config = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    try:
        with pytest.raises(CannotWriteError, match=r"checkpoints/checkpoint-1: cannot be written \("):
            run_training(tiny_config(folder, **config), model_args(model_folder("llama")), prompt_files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert last_checkpoint(folder / "checkpoints") is None
    run_training(tiny_config(folder, **config), model_args(model_folder("llama")), prompt_files)
    assert (folder / "model" / "model.safetensors").is_file()
