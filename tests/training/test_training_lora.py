"""`W + s B A` formed before it is used gives PEFT's outputs and gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from tiny_runs import tiny_trainer
from torch import Tensor

from precision import check_no_worse
from sirl.training.lora import FormedWeights, effective_weight, formed_for_rollouts, materialise_lora
from tiny_models import FAMILIES, tiny_model

IDS = torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(0))


def adapted(family: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A PEFT model whose B is not 0, as after training."""
    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    return get_peft_model(tiny_model(family, dtype=dtype), LoraConfig(**options)).eval()


def gradients(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(input_ids=IDS).logits
    logits.log_softmax(-1)[..., 7].mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"r": 1, "lora_alpha": 1}])
def test_same_outputs_and_gradients_as_peft(family: str, settings: dict[str, Any]) -> None:
    theirs = adapted(family, **settings)
    ours = copy.deepcopy(theirs)
    assert materialise_lora(ours) == 2 * 7  # q k v o gate up down, of two layers
    expected, expected_grads = gradients(theirs)
    got, grads = gradients(ours)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert set(grads) == set(expected_grads)
    assert all("lora_" in name for name in grads)
    for name, grad in grads.items():
        assert expected_grads[name].abs().max() > 0
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-3)


def test_bfloat16_weights_with_float32_adapters() -> None:
    theirs = adapted(dtype=torch.bfloat16)
    assert {p.dtype for n, p in theirs.named_parameters() if "lora_" in n} == {torch.float32}
    ours = copy.deepcopy(theirs)
    materialise_lora(ours)
    got, grads = gradients(ours)
    expected, _ = gradients(theirs)
    exact, _ = gradients(copy.deepcopy(theirs).double())
    assert got.dtype == torch.bfloat16
    # The sum W + s B A is rounded to bfloat16 before it is used, which PEFT's two products are not.
    check_no_worse(*(list((logits - exact).flatten(0, 1)) for logits in (got, expected)), margin=1.5)
    assert {g.dtype for g in grads.values()} == {torch.float32}


def test_disabled_adapters_give_the_base_model() -> None:
    model = adapted()
    base = tiny_model("llama")(input_ids=IDS).logits
    materialise_lora(model)
    assert not torch.allclose(model(input_ids=IDS).logits, base, atol=1e-2)
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=IDS).logits, base)
    assert not torch.allclose(model(input_ids=IDS).logits, base, atol=1e-2)


def test_the_active_adapter_is_used() -> None:
    """TRL's reference may be a second adapter, `ref`."""
    model = adapted()
    model.add_adapter("ref", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    plain = copy.deepcopy(model)
    materialise_lora(model)
    for name in ("default", "ref"):
        model.set_adapter(name)
        plain.set_adapter(name)
        torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


def test_a_new_adapter_changes_nothing() -> None:
    model = adapted(init_lora_weights=True)
    materialise_lora(model)
    assert torch.equal(model(input_ids=IDS).logits, tiny_model("llama")(input_ids=IDS).logits)


def test_what_is_not_plain_stays_pefts() -> None:
    assert materialise_lora(adapted(use_dora=True)) == 0
    assert materialise_lora(adapted(lora_dropout=0.1)) == 0
    assert materialise_lora(adapted(lora_bias=True)) == 0
    assert materialise_lora(tiny_model("llama")) == 0
    assert materialise_lora(adapted("gpt2", target_modules=["c_attn"])) == 0  # Conv1D: (in, out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_formed_for_rollouts(dtype: torch.dtype) -> None:
    """On accelerators: one product a layer meanwhile, and not a bit of the weights is another one afterwards."""
    model = adapted(dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        with formed_for_rollouts(model, None) as count:
            assert count == len([m for m in model.modules() if isinstance(m, LoraLinear)]) > 0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(LoraLinear, "forward", None)  # PEFT's, of three products
                got = model(input_ids=IDS).logits
        again = model(input_ids=IDS).logits
    if dtype == torch.float32:
        torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-5)  # another order of sums, by processor
        merged = copy.deepcopy(model).merge_and_unload()
        torch.testing.assert_close(got, merged(input_ids=IDS).logits, atol=5e-5, rtol=1e-5)
    else:
        exact = copy.deepcopy(model).double()(input_ids=IDS).logits
        check_no_worse(*(list((logits - exact).flatten(0, 1)) for logits in (got, expected)), margin=1.5)
    assert torch.equal(again, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(hasattr(m, "formed") or "forward" in vars(m) for m in model.modules() if isinstance(m, LoraLinear))


def test_weights_are_not_formed_without_room() -> None:
    model = adapted()
    needed = sum(4 * m.base_layer.weight.numel() for m in model.modules() if isinstance(m, LoraLinear))
    for room, formed_ in ((2 * needed, True), (2 * needed - 1, False)):
        with torch.no_grad(), formed_for_rollouts(model, room) as count:
            assert bool(count) is formed_


def test_rollouts_of_a_trainer_on_an_accelerator(
    tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU that takes itself for one: rollouts do not go through PEFT's products, and are those of the policy."""
    monkeypatch.setattr("sirl.training.trainer.prepare_lora", lambda _: None)
    monkeypatch.setattr("sirl.training.policy_mixin.forms_for_rollouts", lambda _: True)
    trainer = tiny_trainer(tmp_path, model_folder("llama"), max_steps=3)
    trainer.train()
    for step in trainer.record.steps:
        for got, expected in zip(step.mean_entropy, step.reference_entropy, strict=True):
            assert got is None or got == pytest.approx(expected, abs=1e-4)
    with trainer.policy() as engine:
        assert all("forward" in vars(m) for m in engine.model.modules() if isinstance(m, LoraLinear))


def formed(model: Any) -> list[Tensor]:
    return [effective_weight(m) for m in model.modules() if hasattr(m, "formed")]


def test_weights_are_formed_once_an_update() -> None:
    model = adapted()
    materialise_lora(model)
    with torch.inference_mode():  # as in rollouts; the update must be able to go on with them
        model(input_ids=IDS)
    before = formed(model)
    assert len(before) == 14
    gradients(model)
    assert all(a is b for a, b in zip(before, formed(model), strict=True))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    assert not any(a is b for a, b in zip(before, formed(model), strict=True))
    theirs = adapted()
    theirs.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(input_ids=IDS).logits, theirs(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


def test_weights_are_dropped_on_demand() -> None:
    """Fused optimizers change parameters behind the version counters; the trainer's callback says so."""
    model = adapted()
    materialise_lora(model)
    gradients(model)
    before = [w.clone() for w in formed(model)]
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True).step()
    FormedWeights().on_optimizer_step(model=model)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(before, formed(model), strict=True))


def test_loaded_adapters_are_seen() -> None:
    model, other = adapted(), adapted()
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.mul_(2.0)
    materialise_lora(model)
    model(input_ids=IDS)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(input_ids=IDS).logits, other(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


def test_two_active_adapters_are_pefts() -> None:
    theirs = adapted()
    theirs.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    theirs.base_model.set_adapter(["default", "second"])
    ours = copy.deepcopy(theirs)
    materialise_lora(ours)
    expected, expected_grads = gradients(theirs)
    got, grads = gradients(ours)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert set(grads) == set(expected_grads)
    assert len(grads) == 56
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_saved_adapters_load_with_peft_and_say_the_same(tmp_path: Path) -> None:
    model = adapted("qwen3")
    materialise_lora(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    gradients(model)
    optimizer.step()
    expected = model(input_ids=IDS).logits
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model("qwen3"), tmp_path).eval()
    torch.testing.assert_close(again(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_merged_layers_are_not_added_twice() -> None:
    model = adapted()
    materialise_lora(model)
    expected = model(input_ids=IDS).logits
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=IDS).logits, tiny_model("llama")(input_ids=IDS).logits)
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_effective_weight_shows_its_arithmetic() -> None:
    model = adapted(r=2, lora_alpha=6)
    materialise_lora(model)
    layer = next(m for n, m in model.named_modules() if n.endswith("q_proj"))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(effective_weight(layer), layer.base_layer.weight + 3.0 * b @ a)
