"""What a training needs of memory, and that it gives back what it holds without need."""

from __future__ import annotations

from copy import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sirl.models import resident_bytes
from sirl.training import policy_mixin
from sirl.training.cpu_layers import enable_packing
from sirl.training.memory import Shape, model_size, training_memory
from sirl.training.policy_mixin import GivesBackMemory
from sirl.training.retention import ReferenceAnswer, retention_loss


def test_memory_is_given_back_after_the_first_update_and_where_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [90, 100, 120, 126, 110, 137, 138, 140]  # after each update
    left, given = iter(held), []
    monkeypatch.setattr(policy_mixin, "resident_bytes", lambda: next(left))
    monkeypatch.setattr(policy_mixin, "give_back_memory", lambda: given.append(len(held) - len(list(copy(left)))))
    callback = GivesBackMemory()
    for _ in held:
        callback.on_step_end()
    assert given == [1, 4, 7], "update 4 is a quarter above update 2, update 7 above update 5"
    callback.on_save()
    assert given == [1, 4, 7, 8]


def test_what_the_process_holds_is_told() -> None:
    before = resident_bytes()
    block = bytearray(b"x" * (64 << 20))
    assert resident_bytes() - before > 48 << 20
    del block


def test_activations_are_those_that_autograd_keeps() -> None:
    """Of a pass over rows that are held, where layers are packed: by bytes, within a fifth."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    size = model_size(config, adapters)
    model = get_peft_model(LlamaForCausalLM(config), adapters)
    enable_packing(model, on_cpu=True)
    system, answer, rows = 24, 8, 16  # all begin alike, and differ in length, as requests in wrappings do
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 90, (rows,), generator=generator).tolist()
    answers = [
        ReferenceAnswer(
            [*range(system), *torch.randint(320, (length,), generator=generator).tolist()],
            list(range(answer)),
            torch.arange(8).repeat(answer, 1),
            torch.full((answer, 8), -3.0),
        )
        for length in lengths
    ]
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        retention_loss(model, answers, 0, 8.0, packs=True)
    measured = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)
    shape = Shape(4, 4, True, rows=rows, group=1, prompt=sum(lengths) // rows, completion=answer, packed=True)
    assert training_memory(size, shape)["activations"] == pytest.approx(measured, rel=0.2)
