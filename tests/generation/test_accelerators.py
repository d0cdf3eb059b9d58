"""What is done on accelerators alone, on a CPU that is told to take itself for one.

Tensors on torch's `meta` device have shapes and no values: what waits for a value fails on them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from sirl.entropy import ROWS_PER_SLICE, entropy_from_logits, greedy_with_entropy, sample_with_entropy, score_tokens
from sirl.generation import SamplingParams, local, memory
from sirl.generation.cache import grouped_attention
from sirl.generation.local import LocalEngine, bytes_per_token
from sirl.generation.memory import CACHE_BYTES, cache_bytes
from tiny_models import PROMPTS, chat_ids, tiny_model


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keywords of torch's attention at each call, which on CUDA falls back to a slow kernel for some."""
    calls: list[dict[str, Any]] = []
    plain = functional.scaled_dot_product_attention

    def watched(query: Any, key: Any, value: Any, **settings: Any) -> Any:
        calls.append({**settings, "shape": tuple(query.shape), "keys": tuple(key.shape)})
        return plain(query, key, value, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr("sirl.generation.cache.shares_under_mask", lambda _: False)
    monkeypatch.setattr("sirl.entropy._on_host", lambda _: False)
    monkeypatch.setattr("sirl.generation.local.prepacked", lambda _: None)
    return calls


def is_slow(call: dict[str, Any]) -> bool:
    return bool(call.get("enable_gqa")) and call.get("attn_mask") is not None


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (8, 1)])
@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("masked", [True, False])
def test_attention(heads: int, kv_heads: int, width: int, masked: bool, accelerator: list[dict[str, Any]]) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, heads, width, 8, generator=generator)
    key, value = (torch.randn(3, kv_heads, 5, 8, generator=generator) for _ in range(2))
    mask = None
    if masked:
        mask = torch.ones(width, 5, dtype=torch.bool).tril(5 - width).expand(3, 1, -1, -1).clone()
        mask[1, :, :, 0] = width > 1  # a column of padding
    out, _ = grouped_attention(None, query, key, value, mask, 0.3)
    assert len(accelerator) == 1
    assert not is_slow(accelerator[0])
    if width == 1 and masked:
        assert accelerator[0]["keys"] == (3, kv_heads, 5, 8), "keys are not copied at each token"
    each = heads // kv_heads
    scores = query @ key.repeat_interleave(each, 1).transpose(2, 3) * 0.3
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif width > 1:
        scores = scores.masked_fill(~torch.ones(width, 5, dtype=torch.bool).tril(), -torch.inf)
    expected = (scores.softmax(-1) @ value.repeat_interleave(each, 1)).transpose(1, 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert out.is_contiguous()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rollouts_are_the_same(
    temperature: float, accelerator: list[dict[str, Any]], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = chat_ids(tokenizer, PROMPTS)
    params = SamplingParams(12, temperature, n=3, seed=1)
    model = tiny_model("llama")
    got = LocalEngine(model, tokenizer).rollout(prompts, params)
    assert not any(map(is_slow, accelerator))
    decoded = [call for call in accelerator if call["shape"][2] < call["keys"][2] // 2]
    assert len(decoded) > 10
    assert {call["keys"][1] for call in decoded} == {model.config.num_key_value_heads}, "keys are copied at each token"
    monkeypatch.undo()
    expected = LocalEngine(model, tokenizer).rollout(prompts, params)
    for a, b in zip((r for g in got for r in g), (r for g in expected for r in g), strict=True):
        assert (a.token_ids, a.finished) == (b.token_ids, b.finished)
        assert a.entropies == pytest.approx(b.entropies, abs=1e-5)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_entropy_waits_for_no_value() -> None:
    logits, uniforms = torch.empty(40, 1000, device="meta"), torch.empty(40, device="meta")
    assert entropy_from_logits(logits).shape == (40,)
    for scores in (sample_with_entropy(logits, uniforms, 0.7), greedy_with_entropy(logits)):
        assert [s.shape for s in scores] == [(40,)] * 3
    hidden, head = torch.empty(40, 16, device="meta"), torch.empty(1000, 16, device="meta")
    logprobs, entropies = score_tokens(hidden, head, torch.empty(40, dtype=torch.long, device="meta"), 0.7)
    assert logprobs.shape == (40,)
    assert entropies is not None
    assert entropies.shape == (40,)


@pytest.mark.usefixtures("accelerator")
def test_entropy_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3 * ROWS_PER_SLICE, 700, generator=torch.Generator().manual_seed(0)) * 5
    logits[3, 10:] = -torch.inf
    logits[4] = -torch.inf
    logits[5, 0] = torch.nan
    uniforms = torch.rand(len(logits), generator=torch.Generator().manual_seed(1))
    got = [entropy_from_logits(logits), *sample_with_entropy(logits, uniforms, 0.7), *greedy_with_entropy(logits)]
    monkeypatch.undo()
    expected = [entropy_from_logits(logits), *sample_with_entropy(logits, uniforms, 0.7), *greedy_with_entropy(logits)]
    assert expected[0].isnan().nonzero().flatten().tolist() == [4, 5]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


# -- memory of keys and values -----------------------------------------------------------------------------------------


def test_the_cache_takes_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 30 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 10 << 30)
    gpu = torch.device("cuda", 0)
    assert cache_bytes(gpu) == 30 << 30, "memory that torch keeps for itself is free too"
    assert cache_bytes(gpu, 1.5) == 3 << 29
    assert cache_bytes(torch.device("cpu")) == CACHE_BYTES == 2 << 30
    assert cache_bytes(torch.device("cpu"), 4) == 4 << 30


def test_the_cache_bounds_a_batch(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = local.decode_batch

    def watched(model: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        return plain(model, prompts, *rest)

    monkeypatch.setattr(local, "decode_batch", watched)
    model, prompts = tiny_model("llama"), chat_ids(tokenizer, PROMPTS)
    LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(4))
    assert sizes == [len(prompts)]
    sizes.clear()
    two_rows = 2 * (max(map(len, prompts)) + 4) * bytes_per_token(model)
    LocalEngine(model, tokenizer, max_cache_gb=two_rows / (1 << 30)).rollout(prompts, SamplingParams(4))
    assert sum(sizes) == len(prompts)
    assert len(sizes) > 2
    few = len(sizes)
    sizes.clear()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * two_rows if device == model.device else None)
    LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(4))
    assert len(sizes) == few, "without a flag the bound follows the memory that is free"
