"""`PrepackedModel` is the model that it is made from: logits of prefill and decoding, LoRA, and where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

import sirl.generation.cpu_decoder
from precision import check_no_worse
from sirl.generation import SamplingParams, decode
from sirl.generation.cpu_decoder import PrepackedModel, prepacked
from sirl.generation.decode import left_pad
from sirl.generation.local import LocalEngine
from sirl.training.lora import materialise_lora
from tiny_models import FAMILIES, PROMPTS, chat_ids, tiny_model

DECODERS = (*FAMILIES, "mistral")


def model_of(family: str, **kwargs: Any) -> Any:
    return tiny_model(family, **({"sliding_window": None} if family == "mistral" else {}), **kwargs)


@torch.inference_mode()
def logits_of(model: Any, prompts: list[list[int]]) -> torch.Tensor:
    """Of a left-padded prefill behind a cached first token, then of three decoded tokens, one at a time."""
    cache = DynamicCache()
    first = torch.tensor([[p[0]] for p in prompts])
    steps = [model(input_ids=first, past_key_values=cache, use_cache=True, logits_to_keep=1).logits]
    ids, mask = left_pad([p[1:] for p in prompts], 0, "cpu")
    mask = torch.cat([mask.new_ones(len(prompts), 1), mask], 1).bool()
    position = 1 + (mask[:, 1:].long().cumsum(-1) - 1).clamp_min(0)
    for step in range(4):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        steps.append(out.logits)
        ids = torch.tensor([[7 + step]] * len(prompts))
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        position = position[:, -1:] + 1
    return torch.cat(steps, 1)


@pytest.mark.parametrize("family", DECODERS)
def test_logits_are_those_of_transformers(family: str, tokenizer: Any) -> None:
    model = model_of(family)
    prompts = chat_ids(tokenizer, PROMPTS)
    expected = logits_of(model, prompts)
    assert expected.std() > 1
    torch.testing.assert_close(logits_of(PrepackedModel(model), prompts), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
def test_bfloat16_is_no_further_from_the_truth(family: str, tokenizer: Any) -> None:
    prompts = chat_ids(tokenizer, PROMPTS)
    ours, plain = [], []
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert prepacked(model_of(family, dtype=torch.bfloat16)) is None
        return
    for seed in range(2):
        model = model_of(family, dtype=torch.bfloat16, seed=seed)
        exact = logits_of(copy.deepcopy(model).double(), prompts)
        ours += list((logits_of(PrepackedModel(model), prompts).double() - exact).flatten(0, 1))
        plain += list((logits_of(model, prompts).double() - exact).flatten(0, 1))
    check_no_worse(ours, plain)


@pytest.mark.parametrize("family", DECODERS)
def test_lora_is_added(family: str, tokenizer: Any) -> None:
    model = get_peft_model(model_of(family), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert prepacked(model) is None, "PEFT's own layers are no plain products"
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    materialise_lora(model)
    prompts = chat_ids(tokenizer, PROMPTS)
    with_adapter = prepacked(model)
    assert with_adapter is not None
    expected = logits_of(model, prompts)
    torch.testing.assert_close(logits_of(with_adapter, prompts), expected, atol=1e-4, rtol=0)
    with model.disable_adapter():
        without = prepacked(model)
        assert without is not None
        torch.testing.assert_close(logits_of(without, prompts), logits_of(model, prompts), atol=1e-4, rtol=0)
    assert (logits_of(without, prompts) - expected).abs().max() > 0.1


def test_biases_are_added(tokenizer: Any) -> None:
    model = tiny_model("llama", attention_bias=True, mlp_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    prompts = chat_ids(tokenizer, PROMPTS)
    torch.testing.assert_close(logits_of(PrepackedModel(model), prompts), logits_of(model, prompts), atol=1e-4, rtol=0)


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepacked(tiny_model("llama")) is not None
    assert prepacked(tiny_model("gpt2")) is None
    assert prepacked(tiny_model("mistral", sliding_window=8)) is None
    assert prepacked(tiny_model("llama", hidden_act="gelu")) is None
    assert prepacked(tiny_model("llama").half()) is None
    assert prepacked(tiny_model("llama").to("meta")) is None
    hooked = tiny_model("llama")
    hooked.model.layers[0].register_forward_hook(lambda *_: None)
    assert prepacked(hooked) is None, "it would pass the hook by"
    monkeypatch.setattr(sirl.generation.cpu_decoder, "MAX_PACKED_BYTES", 1000)
    assert prepacked(tiny_model("llama")) is None


def test_an_engine_answers_as_the_model_was(tokenizer: Any) -> None:
    model = tiny_model("llama")
    engine, params = LocalEngine(model, tokenizer), SamplingParams(8)
    prompts = chat_ids(tokenizer, PROMPTS)
    before = engine.rollout(prompts, params)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    assert engine.rollout(prompts, params) == before
    assert LocalEngine(model, tokenizer).rollout(prompts, params) != before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_long_prompts_apart(temperature: float, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in groups of like length draw what they draw together, while groups shrink and end."""
    model = tiny_model("llama", eos_bias=11.0)
    prompts = chat_ids(tokenizer, [*PROMPTS, "Tell me more. " * 30, "And more of this. " * 40])
    params = SamplingParams(16, temperature, n=3, seed=2)
    engine = LocalEngine(model, tokenizer)
    assert len(decode.alike(sorted(map(len, prompts)))) > 1
    apart = engine.rollout(prompts, params)
    monkeypatch.setattr(decode, "WORTH_PADDING", 10_000)
    together = engine.rollout(prompts, params)
    assert [[r.token_ids for r in group] for group in apart] == [[r.token_ids for r in group] for group in together]
    assert len({len(r.token_ids) for group in apart for r in group}) > 3


def test_alike() -> None:
    assert decode.alike([10, 20, 60]) == [range(0, 3)], "not worth it"
    assert decode.alike([40, 50, 90, 100, 130, 200]) == [range(0, 2), range(2, 5), range(5, 6)]
    assert decode.alike([]) == []
