"""Log-probabilities of targets and gradients by one-hot vectors, against plain forward passes and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sirl.chat.encoding import encode_chat
from sirl.generation.base import GradientEngine, ScoringEngine
from sirl.generation.local import LocalEngine
from sirl.generation.scoring import one_hot_gradients, pad_pairs, printable_pieces
from sirl.records import user_turn
from tiny_models import PROMPTS, chat_ids, reference_scores, tiny_model

TARGETS = ["Sure, here is the answer", "I", "Write three tips for growing tomatoes"]


def engine_of(family: str, tokenizer: Any, **kwargs: Any) -> LocalEngine:
    return LocalEngine(tiny_model(family, **kwargs), tokenizer)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_logprobs_are_those_of_a_forward_pass_each(family: str, tokenizer: Any) -> None:
    if family == "gpt2":  # no plain full attention that we know of: no cache, no shared first tokens
        from transformers import AutoModelForCausalLM

        from tiny_models import tiny_config

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config("gpt2", len(tokenizer))).eval()
        engine = LocalEngine(model, tokenizer)
    else:
        engine = engine_of(family, tokenizer)
    conversations = [user_turn(text) for text in PROMPTS for _ in TARGETS]
    conversations.append((*user_turn("Write a tip."), {"role": "assistant", "content": "Sure,"}))
    targets = [*TARGETS * len(PROMPTS), " here is"]
    sums = engine.target_logprobs(conversations, targets)
    means = engine.target_logprobs(conversations, targets, mean=True)
    for conversation, target, total, mean in zip(conversations, targets, sums, means, strict=True):
        ids = tokenizer(target, add_special_tokens=False)["input_ids"]
        _, expected = reference_scores(engine.model, encode_chat(tokenizer, conversation), ids)
        assert total == pytest.approx(float(expected.sum()), abs=2e-3)
        assert mean == pytest.approx(float(expected.mean()), abs=1e-3)


def test_shared_first_tokens_go_through_the_model_once(tokenizer: Any) -> None:
    engine = engine_of("llama", tokenizer)
    engine._prepacked = None
    seen = 0

    def count(_: Any, __: Any, kwargs: Any) -> None:
        nonlocal seen
        seen += kwargs["input_ids"].numel()

    start = chat_ids(tokenizer, [PROMPTS[1]])[0]
    prompts = [[*start, 40 + i, 41, 42] for i in range(20)]
    with engine.model.register_forward_pre_hook(count, with_kwargs=True):
        scores = engine.token_logprobs(prompts, [[50, 51]] * 20)
    assert seen < len(start) + 20 * 5
    assert len({round(sum(row), 4) for row in scores}) > 10


def test_batch_of_one_is_batch_of_many(tokenizer: Any) -> None:
    engine = engine_of("qwen2", tokenizer)
    conversations = [user_turn(text) for text in PROMPTS]
    targets = [TARGETS[i % 3] for i in range(len(PROMPTS))]
    alone = [engine.target_logprobs([c], [t])[0] for c, t in zip(conversations, targets, strict=True)]
    assert engine.target_logprobs(conversations, targets) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gradients_are_those_of_full_one_hot_vectors(family: str, tokenizer: Any) -> None:
    model = tiny_model(family)
    prompts = chat_ids(tokenizer, PROMPTS[:5])
    spans = [(3, 6), (5, 20), (2, 3), (4, 7), (3, 5)]
    targets = [tokenizer(TARGETS[i % 3], add_special_tokens=False)["input_ids"] for i in range(5)]
    found = one_hot_gradients(model, prompts, spans, targets, 0)
    for prompt, (a, b), target, gradient in zip(prompts, spans, targets, found, strict=True):
        matrix = model.get_input_embeddings().weight
        one_hot = torch.nn.functional.one_hot(torch.tensor([[*prompt, *target[:-1]]]), len(matrix)).float()
        one_hot.requires_grad_(True)
        logits = model(inputs_embeds=one_hot @ matrix).logits[0, len(prompt) - 1 :]
        torch.nn.functional.cross_entropy(logits, torch.tensor(target)).backward()
        assert gradient.shape == (b - a, len(matrix))
        torch.testing.assert_close(gradient, one_hot.grad[0, a:b], atol=1e-5, rtol=1e-3)
    model.zero_grad()


def test_gradients_leave_the_weights_without_any(tokenizer: Any) -> None:
    engine = engine_of("llama", tokenizer)
    prompts = chat_ids(tokenizer, PROMPTS[:2])
    engine.one_hot_gradients(prompts, [(1, 4), (2, 5)], [[40, 41], [42]])
    assert all(p.grad is None for p in engine.model.parameters())


def test_pieces_are_printable_single_tokens(tokenizer: Any) -> None:
    pieces = printable_pieces(tokenizer)
    assert len(pieces) > 50
    for i, text in pieces.items():
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == [i]
        assert text.isascii()
        assert text.isprintable()
    assert not set(tokenizer.all_special_ids) & set(pieces)


def test_what_cannot_be_scored_is_refused(tokenizer: Any) -> None:
    engine = engine_of("llama", tokenizer)
    with pytest.raises(ValueError, match="without tokens"):
        engine.target_logprobs([user_turn("x")], [""])
    with pytest.raises(ValueError, match="1 prompts with 2 targets"):
        engine.token_logprobs([[1]], [[2], [3]])


def test_local_engine_has_both_protocols(tokenizer: Any) -> None:
    engine = engine_of("llama", tokenizer)
    assert isinstance(engine, ScoringEngine)
    assert isinstance(engine, GradientEngine)
    assert engine.parameters == sum(p.numel() for p in engine.model.parameters())
    assert engine.count_tokens([user_turn(PROMPTS[0])]) == [len(chat_ids(tokenizer, PROMPTS[:1])[0])]


def test_pad_pairs() -> None:
    ids, mask, width = pad_pairs([[1, 2, 3], [4]], [[5], [6, 7]], pad_id=0)
    assert width == 2
    assert ids.tolist() == [[1, 2, 3, 5, 0], [0, 0, 4, 6, 7]]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_pad_pairs_without_any_completion() -> None:
    ids, mask, width = pad_pairs([[1], [2, 3]], [[], []], pad_id=9)
    assert width == 1
    assert ids.tolist() == [[9, 1, 9], [2, 3, 9]]
    assert mask.tolist() == [[0, 1, 0], [1, 1, 0]]
