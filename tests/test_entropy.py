"""Entropy against a float64 reference over the full logits, and sampling against the softmax that it claims to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sirl.entropy import (
    ROWS_PER_SLICE,
    completion_entropies,
    entropy_from_logits,
    greedy_with_entropy,
    mean_token_entropy,
    sample_with_entropy,
)
from tiny_models import FAMILIES, chat_ids, reference_scores, tiny_model, tiny_tokenizer

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
"""The largest float32 below 1: the largest uniform that a generator returns."""


def reference_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """`-sum p log p` in float64 with 0 log 0 = 0, written down as it is defined."""
    p = (logits.double() / temperature).softmax(-1)
    return -(torch.where(p > 0, p * p.log(), 0.0)).sum(-1)


def random_logits(*shape: int, scale: float = 4.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


# -- entropy -----------------------------------------------------------------------------------------------------------


def test_known_values() -> None:
    # uniform over 8: log 8; one certain token: 0; two tokens at 1/4 and 3/4: -(1/4 log 1/4 + 3/4 log 3/4) = 0.5623
    assert entropy_from_logits(torch.zeros(8)).item() == pytest.approx(math.log(8), abs=1e-6)
    assert entropy_from_logits(torch.tensor([0.0, -torch.inf, -torch.inf])).item() == 0.0
    assert entropy_from_logits(torch.tensor([0.0, math.log(3.0)])).item() == pytest.approx(0.56233514, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.05, 3.0])
@pytest.mark.parametrize("scale", [0.01, 4.0, 60.0])
def test_float32_equals_the_float64_reference(temperature: float, scale: float) -> None:
    logits = random_logits(2 * ROWS_PER_SLICE + 3, 1000, scale=scale)
    got = entropy_from_logits(logits, temperature)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), reference_entropy(logits, temperature), atol=1e-4, rtol=0)


def test_bfloat16_logits_are_reduced_in_float32() -> None:
    logits = random_logits(70, 5000, scale=2.0).bfloat16()
    torch.testing.assert_close(entropy_from_logits(logits).double(), reference_entropy(logits), atol=1e-4, rtol=0)
    exact = reference_entropy(random_logits(70, 5000, scale=2.0))  # what the rounding of the logits themselves costs
    torch.testing.assert_close(entropy_from_logits(logits).double(), exact, atol=2e-2, rtol=0)


def test_a_large_vocabulary() -> None:
    logits = random_logits(3, 151_936)
    torch.testing.assert_close(entropy_from_logits(logits).double(), reference_entropy(logits), atol=1e-4, rtol=0)
    flat = entropy_from_logits(torch.zeros(1, 151_936))
    assert flat.item() == pytest.approx(math.log(151_936), abs=1e-4)


def test_masked_logits_have_probability_zero() -> None:
    logits = random_logits(5, 100)
    masked = logits.clone()
    masked[:, 10:60] = -torch.inf
    kept = torch.cat([logits[:, :10], logits[:, 60:]], -1)
    torch.testing.assert_close(entropy_from_logits(masked), entropy_from_logits(kept), atol=1e-5, rtol=0)
    assert torch.isfinite(entropy_from_logits(masked, 0.7)).all()


def test_broken_logits_stay_nan() -> None:
    logits = random_logits(4, 20)
    logits[1, 3] = torch.nan
    logits[2] = -torch.inf
    logits[3, 0] = torch.inf
    got = entropy_from_logits(logits)
    assert torch.isfinite(got[0])
    assert got[1:].isnan().all(), "a broken distribution has no entropy, and least of all 0, the best reward"


def test_shape_and_input_are_kept() -> None:
    logits = random_logits(2, 3, 7)
    before = logits.clone()
    assert entropy_from_logits(logits).shape == (2, 3)
    assert entropy_from_logits(torch.zeros(0, 7)).shape == (0,)
    assert entropy_from_logits(torch.zeros(2, 0, 7)).shape == (2, 0)
    assert torch.equal(logits, before)
    sample_with_entropy(logits[0], torch.zeros(3), 1.0)
    greedy_with_entropy(logits[0])
    assert torch.equal(logits, before), "logits must not be written to: the reduction works in place on a copy"


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        entropy_from_logits(torch.zeros(3), temperature)


# -- drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_follow_the_softmax(temperature: float) -> None:
    n = 40_000
    logits = random_logits(1, 12, scale=1.5, seed=3)
    uniforms = torch.from_numpy(np.random.default_rng(5).random(n, dtype=np.float32))
    tokens, _, _ = sample_with_entropy(logits.expand(n, -1), uniforms, temperature)
    expected = (logits[0].double() / temperature).softmax(-1).numpy() * n
    assert expected.min() > 5  # what the chi-square approximation asks for
    result = stats.chisquare(np.bincount(tokens.numpy(), minlength=12), expected)
    assert result.pvalue > 1e-3
    shifted = np.roll(expected, 1)  # the test can fail
    assert stats.chisquare(np.bincount(tokens.numpy(), minlength=12), shifted).pvalue < 1e-6


def test_every_uniform_falls_into_the_right_interval() -> None:
    # p = 1/8, 1/2, 3/8, so the borders of the intervals are 0, 0.125, 0.625, 1
    logits = torch.tensor([1.0, 4.0, 3.0]).log().expand(5, -1)
    uniforms = torch.tensor([0.0, 0.12, 0.13, 0.62, 0.63])
    tokens, _, logprobs = sample_with_entropy(logits, uniforms, 1.0)
    assert tokens.tolist() == [0, 0, 1, 1, 2]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.125, 0.125, 0.5, 0.5, 0.375]))


@pytest.mark.parametrize("uniform", [0.0, 1e-30, 0.5, BELOW_ONE])
@pytest.mark.parametrize("vocab", [9, 50_000])
def test_impossible_tokens_are_never_drawn(uniform: float, vocab: int) -> None:
    logits = random_logits(64, vocab)
    allowed = torch.zeros(64, vocab, dtype=torch.bool)
    allowed[:, vocab // 3 : vocab // 3 + 2] = True  # both ends of the vocabulary are impossible
    logits = logits.masked_fill(~allowed, -torch.inf)
    tokens, entropies, logprobs = sample_with_entropy(logits, torch.full((64,), uniform), 0.7)
    assert allowed.gather(-1, tokens[:, None]).all()
    assert torch.isfinite(logprobs).all()
    assert torch.isfinite(entropies).all()


def test_extreme_uniforms_give_the_first_and_the_last_token() -> None:
    logits = torch.zeros(2, 50_257)
    tokens, _, _ = sample_with_entropy(logits, torch.tensor([0.0, BELOW_ONE]), 1.0)
    assert tokens.tolist() == [0, 50_256]


def test_a_draw_from_a_broken_distribution_is_nan() -> None:
    logits = random_logits(3, 20)
    logits[1, 3] = torch.nan
    for tokens, entropies, logprobs in (
        sample_with_entropy(logits, torch.full((3,), 0.5), 0.7),
        greedy_with_entropy(logits),
    ):
        assert ((tokens >= 0) & (tokens < 20)).all()
        assert entropies.isnan().tolist() == logprobs.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_and_logprob_of_a_draw(temperature: float) -> None:
    logits = random_logits(50, 3000)
    uniforms = torch.rand(50, generator=torch.Generator().manual_seed(1))
    tokens, entropies, logprobs = sample_with_entropy(logits, uniforms, temperature)
    torch.testing.assert_close(entropies.double(), reference_entropy(logits, temperature), atol=1e-4, rtol=0)
    exact = (logits.double() / temperature).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(logprobs.double(), exact, atol=1e-4, rtol=0)


def test_greedy_takes_the_most_likely_at_temperature_one() -> None:
    logits = random_logits(50, 3000)
    tokens, entropies, logprobs = greedy_with_entropy(logits)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(entropies.double(), reference_entropy(logits), atol=1e-4, rtol=0)
    torch.testing.assert_close(logprobs.double(), logits.double().log_softmax(-1).amax(-1), atol=1e-4, rtol=0)


# -- means -------------------------------------------------------------------------------------------------------------


def test_mean_token_entropy() -> None:
    entropies = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    # (1 + 2) / 2, 4 / 1, nothing
    got = mean_token_entropy(entropies, mask)
    assert got[:2].tolist() == [1.5, 4.0]
    assert got[2].isnan(), "no token, no entropy: 0 would be the best reward"


def test_mean_token_entropy_ignores_nan_at_padding_only() -> None:
    entropies = torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]])
    got = mean_token_entropy(entropies, torch.tensor([[1, 0], [1, 1]]))
    assert got[0] == 1.0
    assert got[1].isnan()


# -- by a forward pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_completion_entropies_equal_the_reference(family: str, temperature: float) -> None:
    """Left-padded prompts, right-padded completions of unequal length, split into uneven batches."""
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    prompts = chat_ids(
        tokenizer, ["How?", "What is the capital of France, and how large is it?", "Tell me about bread"]
    )
    completions = [[5, 9, 40, 2], [77], [100, 101, 102, 103, 104, 105]]
    width, longest = max(map(len, prompts)), max(map(len, completions))
    ids = torch.full((3, width + longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, width - len(p) : width + len(c)] = torch.tensor([*p, *c])
        mask[row, width - len(p) : width + len(c)] = 1
    got = completion_entropies(model, ids, mask, longest, temperature, batch_size=2)
    assert got.shape == (3, longest)
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        exact, _ = reference_scores(model, p, c, temperature)
        torch.testing.assert_close(got[row, : len(c)].double(), exact, atol=1e-4, rtol=0)
