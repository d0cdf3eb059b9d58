"""The KL over the likeliest tokens and one bucket for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sirl.divergence import bucketed_kl


def log_probabilities(n: int, vocab: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    logits = torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (3 * logits).log_softmax(-1)


def full_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def top(p: Tensor, q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, ids = p.topk(k, -1)
    return values, q.gather(-1, ids)


def test_bucketed_kl_shows_its_arithmetic() -> None:
    # p = 1/2 1/4 1/4, q = 1/4 1/4 1/2, the last token in the bucket:
    # 1/2 log 2 + 1/4 log 1 + 1/4 log 1/2 = 1/4 log 2
    p, q = torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[0.25, 0.25]]).log()
    assert bucketed_kl(p, q).item() == pytest.approx(0.25 * 0.6931472, abs=1e-6)


def test_bucketed_kl_is_the_kl_where_the_bucket_holds_one_token() -> None:
    p, q = log_probabilities(50, 20, 0), log_probabilities(50, 20, 1)
    torch.testing.assert_close(bucketed_kl(*top(p, q, 19)), full_kl(p, q), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("k", [1, 5, 50, 199])
def test_bucketed_kl_is_a_lower_bound(k: int) -> None:
    p, q = log_probabilities(200, 200, 0), log_probabilities(200, 200, 1)
    bound = bucketed_kl(*top(p, q, k))
    assert (bound >= -1e-6).all()
    assert (bound <= full_kl(p, q) + 1e-4).all()
    assert (bucketed_kl(*top(p, q, k)) >= bucketed_kl(*top(p, q, 1)) - 1e-6).all(), "more tokens, a tighter bound"


@pytest.mark.parametrize("k", [1, 8, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bucketed_kl_of_equal_distributions_is_zero(k: int, dtype: torch.dtype) -> None:
    p = log_probabilities(50, 20, 0, dtype)
    torch.testing.assert_close(bucketed_kl(*top(p, p, k)), torch.zeros(50, dtype=dtype), atol=1e-6, rtol=0)


def test_bucketed_kl_with_an_empty_bucket_is_finite() -> None:
    p = torch.tensor([[0.0, -30.0, -40.0]]).log_softmax(-1).requires_grad_()
    loss = bucketed_kl(p.detach(), p)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(p.grad).all()
