"""Weights in shares: no process does alone, or more often than another, what all have to do together.

There is no accelerator in tests, so these see that the ways that would hang are not taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import HELD, tiny_config, tiny_trainer
from transformers.integrations import deepspeed
from trl import ModelConfig

from sirl.cli import train as cli
from sirl.errors import UserError
from sirl.models import load_model, load_tokenizer
from sirl.training import holding, run, scoring, trainer
from sirl.training.memory import model_size
from sirl.training.sharding import check_rollouts, loaded_whole, loads_shares, sharded
from tiny_models import PROMPTS, tiny_model


class Stop(Exception):  # noqa: N818
    """What was to be seen has been seen."""


class Zero3:
    """As transformers knows DeepSpeed's configuration."""

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def zero3() -> Iterator[Zero3]:
    config = Zero3()
    deepspeed.set_hf_deepspeed_config(config)
    yield config
    deepspeed.unset_hf_deepspeed_config()


def settings(**given: Any) -> Any:
    options = {"use_vllm": False, "fsdp": "", "deepspeed": None, "ds3_gather_for_generation": True}
    return SimpleNamespace(**{**options, **given})


# -- rollouts ----------------------------------------------------------------------------------------------------------


def test_the_first_fsdp_needs_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_rollouts(settings())
    check_rollouts(settings(fsdp="full_shard", use_vllm=True))
    check_rollouts(settings(fsdp="full_shard"))  # transformers' default is the second
    with pytest.raises(UserError, match="--use_vllm: needed with FSDP 1"):
        check_rollouts(settings(fsdp="full_shard", fsdp_config={"version": 1}))
    assert not sharded(settings())
    args = tiny_config(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` does
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert sharded(args)
    check_rollouts(args)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="add --use_vllm true --vllm_mode colocate"):
        trainer.SIRLTrainer(None, args, PROMPTS)
    with pytest.raises(UserError, match="needed with FSDP"):
        run.build_trainer(args, ModelConfig(), None, [], [])
    with pytest.raises(UserError, match="needed with FSDP"):
        cli.run(SimpleNamespace(training=SimpleNamespace(config=args, data=None)))  # type: ignore[arg-type]


@pytest.mark.usefixtures("zero3")
def test_zero3_gathers_weights_for_rollouts() -> None:
    assert loads_shares()
    check_rollouts(settings())
    check_rollouts(settings(ds3_gather_for_generation=False, use_vllm=True))
    with pytest.raises(UserError, match="--ds3_gather_for_generation false: not with DeepSpeed ZeRO-3"):
        check_rollouts(settings(ds3_gather_for_generation=False))


# -- one process alone -------------------------------------------------------------------------------------------------


def test_a_model_of_one_process_is_loaded_whole(zero3: Zero3, model_folder: Any) -> None:
    with loaded_whole():
        assert not loads_shares()
        assert load_model(str(model_folder("llama"))).lm_head.weight.numel() > 0
    assert loads_shares()
    assert deepspeed._hf_deepspeed_config_weak_ref() is zero3
    with pytest.raises(Stop), loaded_whole():
        raise Stop
    assert loads_shares()


@pytest.mark.usefixtures("zero3")
def test_parameters_are_counted_without_weights() -> None:
    """transformers would fill weights in, by all processes together, and there are none to fill."""
    with loaded_whole():
        model = tiny_model()
    assert model_size(model.config).parameters == sum(p.numel() for p in model.parameters())
    assert loads_shares()


def test_nothing_is_packed_under_zero3(tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's weight is read outside of its module, where ZeRO-3 has a share of it."""
    made = tiny_trainer(tmp_path, model_folder("llama"))
    assert made._packs
    made.is_deepspeed_enabled = True
    made._prepare_packing()
    assert made._packs, "with ZeRO-2 the weight is whole"
    monkeypatch.setattr(scoring, "loads_shares", lambda: True)
    made._prepare_packing()
    assert not made._packs
    made.args.packed_scoring = True
    with pytest.raises(UserError, match="packed_scoring: not possible here"):
        made._prepare_packing()


@pytest.mark.usefixtures("zero3")
def test_the_gap_is_measured_on_a_whole_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Any
) -> None:
    """By the first process, while the others wait."""

    def load_engine(*_: Any, **__: Any) -> None:
        assert not loads_shares()
        raise Stop

    monkeypatch.setattr("sirl.generation.load_engine", load_engine)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is it?\nHow large is it?\n")
    training = SimpleNamespace(
        config=tiny_config(tmp_path / "run"),
        model=ModelConfig(model_name_or_path=str(model_folder("llama"))),
        data=SimpleNamespace(
            dataset_name=str(prompts),
            prompt_column=None,
            dataset_train_split="train",
            max_prompts=None,
            retention_dataset_name=None,
        ),
    )
    with pytest.raises(Stop):
        cli._measure_gap(training, tmp_path, None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("zero3")
def test_the_reference_is_written_from_a_whole_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the first process, which holds but a share of the policy."""
    written: list[Any] = []

    def load(name: str, **given: Any) -> Any:
        assert not loads_shares()
        assert given["place"] is False
        return f"whole {name}"

    monkeypatch.setattr(run, "load_model", load)
    monkeypatch.setattr(run, "export_model", lambda model, *_: written.append(model))
    run._export_start("a share", ModelConfig(model_name_or_path="m"), None, tmp_path)
    deepspeed.unset_hf_deepspeed_config()
    run._export_start("the policy", ModelConfig(model_name_or_path="m"), None, tmp_path)
    assert written == ["whole m", "the policy"]


# -- where weights are put ---------------------------------------------------------------------------------------------


def test_models_that_are_shared_out_are_not_put_on_a_device(monkeypatch: pytest.MonkeyPatch, model_folder: Any) -> None:
    monkeypatch.setattr("sirl.models.load.default_device", lambda: torch.device("meta"))
    assert load_model(str(model_folder("llama")), dtype=torch.float32).device.type == "meta"
    assert load_model(str(model_folder("llama")), dtype=torch.float32, place=False).device.type == "cpu"
    places: list[bool] = []

    def start(_: Any, place: bool) -> Any:
        places.append(place)
        raise Stop

    monkeypatch.setattr(run, "starting_model", start)
    for value in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", value)
        with pytest.raises(Stop):
            run.build_trainer(settings(beta=0.1), ModelConfig(), None, [], [])  # type: ignore[arg-type]
    assert places == [True, False]


def test_a_sharded_reference_is_kept_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Any
) -> None:
    config = tiny_config(tmp_path, beta=0.1)
    config.bf16 = config.use_vllm = True
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    seen: list[Any] = []

    def made(model: Any, config: Any, *_: Any, **__: Any) -> None:
        seen.append((model.dtype, config.model_init_kwargs))

    monkeypatch.setattr(trainer, "SIRLTrainer", made)
    name = str(model_folder("llama"))
    run.build_trainer(config, ModelConfig(model_name_or_path=name), load_tokenizer(name), [], [])
    assert seen == [(torch.float32, {"dtype": "bfloat16"})]


# -- what the base model says --------------------------------------------------------------------------------------


def test_the_first_process_asks_the_starting_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Any
) -> None:
    """With FSDP the others may have no weights before training begins."""
    told: list[list[Any]] = []
    monkeypatch.setattr(holding, "broadcast_object_list", told.append)
    made = tiny_trainer(tmp_path, model_folder("llama"), retention=HELD)
    made.before_training()
    assert not told
    expected = made._held.rows
    made.is_fsdp_enabled, made._held = True, None
    made.before_training()
    assert told == [[made._held.rows]]
    for got, row in zip(made._held.rows, expected, strict=True):
        assert got.answer_ids == row.answer_ids
        assert torch.equal(got.top_logprobs, row.top_logprobs)

    def tell(found: list[Any]) -> None:
        found[0] = expected

    monkeypatch.setattr(holding, "broadcast_object_list", tell)
    monkeypatch.setattr(type(made.accelerator), "is_main_process", property(lambda _: False))
    monkeypatch.setattr(trainer.SIRLTrainer, "policy", None)  # another process does not ask
    made._held = None
    made.before_training()
    assert made._held.rows is expected
