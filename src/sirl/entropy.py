"""Token entropy: the one place where it is defined.

SIRL's reward (arXiv 2510.01088) is minus the mean over completion tokens of

    H_t = -sum_v p_v log p_v,   p = softmax(z_t / T),

over the full vocabulary, in nats, at the sampling temperature T. Everything here is pure, reduces in float32 and works
in slices, so that a `(B, T, V)` tensor of probabilities never exists.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_PER_SLICE = 64
"""Positions whose distributions are held in float32 at once: 64 x 128k x 4 bytes is 33 MB a buffer."""

FLOOR = -1.0e4
"""Logits this far below the largest have probability 0 in float32; the clamp keeps 0 * -inf (masked logits) finite."""


def entropy_from_logits(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature): `(..., V) -> (...)`, float32.

    `-inf` logits are allowed (probability 0). NaN or all `-inf` gives NaN, which callers must not take for a reward.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    flat = logits.reshape(-1, logits.shape[-1])  # (N, V)
    parts = [_entropy_slice(rows, temperature)[0] for rows in flat.split(ROWS_PER_SLICE)]
    joined = torch.cat(parts) if parts else flat.new_zeros(0, dtype=torch.float32)
    return joined.reshape(logits.shape[:-1])


def _entropy_slice(rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`(N, V)` logits -> entropy `(N,)` and unnormalised probabilities `(N, V)`, the largest being 1."""
    x = rows.float()
    if temperature != 1.0:
        x = x / temperature
    x = (x - x.amax(-1, keepdim=True)).clamp_min(FLOOR)  # (N, V)
    weights = x.exp()
    total = weights.sum(-1)  # (N,)
    # -sum p log p with log p = x - log Z. The product reuses x: this is the largest buffer of a decode step.
    return total.log() - x.mul_(weights).sum(-1) / total, weights


def sample_with_entropy(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row by inverse CDF: `(B, V), (B,) -> (B,), (B,), (B,)`.

    Returns the tokens, the entropies of the distributions they were drawn from and their log-probabilities there.
    `uniforms` are in [0, 1). One uniform and one cumulative sum a row replace the V random numbers of
    `torch.multinomial`, and softmax terms are shared with the entropy. Exact up to float32 rounding of the sum.
    """
    entropy, weights = _entropy_slice(logits, temperature)
    cdf = weights.cumsum(-1)  # (B, V)
    total = cdf[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # right=True: the first token whose cumulative weight exceeds the target, so weight-0 tokens are never drawn.
    # The clamp is for NaN, which no cumulative weight exceeds: NaN entropy says what is wrong, an index error does not.
    drawn = torch.searchsorted(cdf, target, right=True).clamp_max(cdf.shape[-1] - 1)
    return drawn.squeeze(-1), entropy, (weights.gather(-1, drawn) / total).log().squeeze(-1)


def greedy_with_entropy(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Most likely token a row, with entropy and log-probability at temperature 1: `(B, V) -> (B,), (B,), (B,)`."""
    entropy, weights = _entropy_slice(logits, 1.0)
    # the largest weight is exp(0) = 1, so log p = -log(sum)
    return logits.argmax(-1), entropy, -weights.sum(-1).log()


def mean_token_entropy(entropies: Tensor, mask: Tensor) -> Tensor:
    """Mean over unmasked tokens: `(B, T), (B, T) -> (B,)`. A row without tokens is NaN, never 0 (the best reward)."""
    kept = mask.to(entropies.dtype)
    total = torch.where(mask.bool(), entropies, 0.0).sum(-1)
    count = kept.sum(-1)
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


@torch.no_grad()
def completion_entropies(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    temperature: float = 1.0,
    batch_size: int = 8,
) -> Tensor:
    """Entropies of the distributions that the last `logits_to_keep` tokens were drawn from, by a plain forward pass.

    `input_ids`, `attention_mask`: `(B, L)`, padded on either side. Returns `(B, logits_to_keep)`, float32; values at
    padding are meaningless. The reference for every faster path, and what is used where rollouts cannot give entropies.
    """
    out = []
    for ids, mask in zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True):
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=logits_to_keep + 1,
        ).logits[:, :-1]
        out.append(entropy_from_logits(logits, temperature))
    return torch.cat(out)
