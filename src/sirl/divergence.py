"""How far two models' next-token distributions lie apart on given answers: KL over the likeliest tokens and one bucket.

The reference keeps its `TOP_K` most likely tokens at each place and one bucket for the rest, which is a lower bound of
the KL over the full vocabulary and exact where the rest has no mass. Retention trains on it; drift measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sirl.generation.scoring import pad_pairs

TOP_K = 256


@torch.no_grad()
def logprobs_of(
    model: Any, pairs: Sequence[tuple[list[int], list[int]]], pad_id: int, batch_size: int = 16
) -> Iterator[Tensor]:
    """Log-probabilities `(T, V)`, float32, at the places of each answer; pairs are best sorted by length."""
    for start in range(0, len(pairs), batch_size):
        logits, lengths = answer_logits(model, pairs[start : start + batch_size], pad_id)
        for row, length in zip(logits, lengths, strict=True):
            yield row[:length].float().log_softmax(-1)


def top_tokens(logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and log-probabilities `(T, K)` of the `TOP_K` most likely tokens (one fewer than there are, at most)."""
    top = logprobs.topk(min(TOP_K, logprobs.shape[-1] - 1), -1)
    return top.indices.cpu(), top.values.cpu()


def answer_logits(model: Any, pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, list[int]]:
    """Logits `(B, T, V)` at the places of the answers, each row's first answer token at 0, and answer lengths."""
    device = next(model.parameters()).device
    prompts, answers = zip(*pairs, strict=True)
    ids, mask, answer_width = pad_pairs(prompts, answers, pad_id)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    out = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        use_cache=False,
        logits_to_keep=answer_width + 1,
    )
    return out.logits[:, :-1], [len(a) for _, a in pairs]


def bucketed_kl(reference: Tensor, policy: Tensor) -> Tensor:
    """KL between distributions known on K tokens with the rest in one bucket: log-probabilities `(N, K) -> (N,)`."""
    known = (reference.exp() * (reference - policy)).sum(-1)
    rest_ref, rest_policy = _rest(reference), _rest(policy)
    return known + rest_ref * (rest_ref.log() - rest_policy.log())


def _rest(logprobs: Tensor) -> Tensor:
    # float32 sums of probabilities can pass 1 by rounding; the floor keeps the logarithm finite
    return (1.0 - logprobs.exp().sum(-1)).clamp_min(1e-6)
