"""Holding the policy to the base model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

import sirl.training.retention as retention_module
from sirl.divergence import answer_logits, bucketed_kl
from sirl.generation.local import LocalEngine
from sirl.records import Prompt
from sirl.training.packed import add_packed_forward
from sirl.training.retention import (
    FIRST_TOKENS,
    ReferenceAnswer,
    reference_answers,
    retention_loss,
)
from test_divergence import full_kl, top
from tiny_models import FAMILIES, PROMPTS, chat_ids, tiny_model

HELD_PROMPTS = [Prompt(str(i), text) for i, text in enumerate(PROMPTS)]


# -- answers of the base model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_held_answers_are_the_greedy_ones(family: str, tokenizer: Any) -> None:
    model = tiny_model(family)
    held = reference_answers(LocalEngine(model, tokenizer), HELD_PROMPTS, tokens=10)
    for prompt, answer in zip(chat_ids(tokenizer, PROMPTS), held, strict=True):
        assert answer.prompt_ids == prompt
        greedy = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=10,
            do_sample=False,
        )[0, len(prompt) :]
        assert answer.answer_ids == greedy.tolist()
        logits = model(input_ids=torch.tensor([[*prompt, *answer.answer_ids]])).logits[0, len(prompt) - 1 : -1]
        assert answer.top_ids.shape == answer.top_logprobs.shape == (len(answer.answer_ids), 256)
        exact = logits.log_softmax(-1).gather(-1, answer.top_ids)
        torch.testing.assert_close(answer.top_logprobs, exact, atol=1e-4, rtol=1e-4)
        assert answer.top_ids[:, 0].tolist() == answer.answer_ids


def test_our_decode_loop_asks_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions are kept while the answer is drawn; a second pass gives the same, where there has to be one."""
    engine = LocalEngine(tiny_model("qwen2"), tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "answer_logprobs", lambda *_: pytest.fail("the answers went through the model again"))
        once = reference_answers(engine, HELD_PROMPTS, tokens=10)
    rollout = engine.rollout
    monkeypatch.setattr(engine, "rollout", lambda *a: [[replace(r, top=None) for r in group] for group in rollout(*a)])
    for a, b in zip(once, reference_answers(engine, HELD_PROMPTS, tokens=10), strict=True):
        assert a.answer_ids == b.answer_ids
        assert a.top_ids[:, :8].tolist() == b.top_ids[:, :8].tolist()
        torch.testing.assert_close(a.top_logprobs, b.top_logprobs, atol=1e-4, rtol=1e-4)


def test_answer_logits_of_unequal_rows(tokenizer: Any) -> None:
    model = tiny_model("llama")
    prompts = chat_ids(tokenizer, PROMPTS[:3])
    pairs = [(prompts[0], [5, 6, 7]), (prompts[1], [8]), (prompts[2], [9, 10])]
    logits, lengths = answer_logits(model, pairs, tokenizer.pad_token_id)
    assert lengths == [3, 1, 2]
    assert logits.shape == (3, 3, 300)
    for row, (prompt, answer) in enumerate(pairs):
        alone = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits[row, : len(answer)], alone, atol=1e-4, rtol=1e-4)


# -- the loss ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held(tokenizer: Any) -> list[ReferenceAnswer]:
    return reference_answers(LocalEngine(tiny_model("llama"), tokenizer), HELD_PROMPTS, tokens=9)


def moved(model: Any) -> Any:
    """The model a step away from where it was."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return other


def test_loss_is_zero_at_the_starting_model(held: list[ReferenceAnswer], tokenizer: Any) -> None:
    model = tiny_model("llama")
    loss = retention_loss(model, held, tokenizer.pad_token_id, 8.0)
    assert abs(loss.item()) < 1e-6
    loss.backward()
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-3


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("first_weight", [1.0, 8.0])
def test_loss_is_the_weighted_mean_of_token_divergences(
    held: list[ReferenceAnswer], first_weight: float, packs: bool, tokenizer: Any
) -> None:
    start, policy = tiny_model("llama"), moved(tiny_model("llama"))
    total = weight = 0.0
    for answer in held:
        ids = torch.tensor([[*answer.prompt_ids, *answer.answer_ids]])
        first = len(answer.prompt_ids) - 1
        p = start(input_ids=ids).logits[0, first:-1].double().log_softmax(-1)
        q = policy(input_ids=ids).logits[0, first:-1].double().log_softmax(-1)
        divergences = bucketed_kl(*top(p, q, 256))
        for t, value in enumerate(divergences.tolist()):
            w = first_weight if t < FIRST_TOKENS else 1.0
            total, weight = total + w * value, weight + w
        assert (divergences <= full_kl(p, q) + 1e-5).all()
        torch.testing.assert_close(divergences, full_kl(p, q), atol=5e-3, rtol=0.1)  # 256 of 300 tokens: nearly all
    if packs:
        add_packed_forward(policy)
    got = retention_loss(policy, held, tokenizer.pad_token_id, first_weight, packs=packs).item()
    assert got == pytest.approx(total / weight, rel=1e-3)
    assert got > 0.01


def test_its_gradient_moves_the_policy_back(held: list[ReferenceAnswer], tokenizer: Any) -> None:
    policy = moved(tiny_model("llama"))
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        loss = retention_loss(policy, held, tokenizer.pad_token_id, 8.0)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_an_answer_that_ends_at_once(tokenizer: Any) -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = list(range(300))
    held = reference_answers(LocalEngine(model, tokenizer), HELD_PROMPTS[:3], tokens=9)
    assert [len(a.answer_ids) for a in held] == [1, 1, 1]
    assert torch.isfinite(retention_loss(moved(model), held, tokenizer.pad_token_id, 8.0))


def test_few_tokens_kept_still_hold(
    held: list[ReferenceAnswer], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "TOP_K", 4)
    few = reference_answers(LocalEngine(tiny_model("llama"), tokenizer), HELD_PROMPTS, tokens=9)
    assert few[0].top_ids.shape[-1] == 4
    policy = moved(tiny_model("llama"))
    bound = retention_loss(policy, few, tokenizer.pad_token_id, 8.0).item()
    assert 0 < bound <= retention_loss(policy, held, tokenizer.pad_token_id, 8.0).item() + 1e-5
