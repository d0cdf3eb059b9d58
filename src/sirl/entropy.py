"""Token entropy: the one place where it is defined.

SIRL's reward (arXiv 2510.01088) is minus the mean over completion tokens of

    H_t = -sum_v p_v log p_v,   p = softmax(z_t / T),

over the full vocabulary, in nats, at the sampling temperature T. Everything here is pure, reduces in float32 and works
in slices, so that a `(B, T, V)` tensor of probabilities never exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ROWS_PER_SLICE = 16
"""Positions whose distributions are held in float32 at once: few enough to stay in a processor's cache."""

BYTES_PER_SLICE = 256 << 20
"""The same on accelerators, where it is each slice that costs time."""

BYTES_PER_PRODUCT = 128 << 20
"""Memory of the logits that are held at once. Less costs matrix-multiply speed."""

BLOCK = 256
"""Tokens of a block of the vocabulary, in drawing."""

FLOOR = -1.0e4
"""Logits this far below the largest have probability 0 in float32; the clamp keeps 0 * -inf (masked logits) finite."""


def entropy_from_logits(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature): `(..., V) -> (...)`, float32.

    `-inf` logits are allowed (probability 0). NaN or all `-inf` gives NaN, which callers must not take for a reward.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    flat = logits.reshape(-1, logits.shape[-1])  # (N, V)
    parts = [_distribution(rows, temperature)[0] for rows in flat.split(_slice_rows(flat))]
    joined = torch.cat(parts) if parts else flat.new_zeros(0, dtype=torch.float32)
    return joined.reshape(logits.shape[:-1])


def _distribution(rows: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(N, V)` logits -> entropy, largest scaled logit and sum of weights `(N,)`, and weights `(N, V)`.

    Weights are unnormalised probabilities, the largest being 1.
    """
    x = rows.to(torch.float32, copy=True)
    if temperature != 1.0:
        x.div_(temperature)
    top = x.amax(-1)  # (N,)
    x.sub_(top[:, None])
    weights = x.exp()
    total = weights.sum(-1)
    on_host = _on_host(x)
    if not on_host:  # at once, since to look for NaN, as below, would wait for the device
        x.clamp_min_(FLOOR)
    # -sum p log p with log p = x - log Z
    entropy = total.log() - x.mul_(weights).sum(-1) / total
    if on_host and entropy.isnan().any():  # -inf logits make 0 * -inf; what is NaN for another reason stays NaN
        x = (rows.to(torch.float32) / temperature).sub_(top[:, None]).clamp_min_(FLOOR)
        entropy = total.log() - x.mul_(weights).sum(-1) / total
    return entropy, top, total, weights


def _log_total(rows: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp of `(N, V)` logits at a temperature, `(N,)`, float32. torch's own takes twice as long on a CPU."""
    x = rows.to(torch.float32, copy=True)
    if temperature != 1.0:
        x.div_(temperature)
    top = x.amax(-1)
    return x.sub_(top[:, None]).exp_().sum(-1).log_().add_(top)


def _on_host(x: Tensor) -> bool:
    """Whether a look at a value waits for nothing."""
    return x.device.type == "cpu"


def _slice_rows(logits: Tensor) -> int:
    """Rows of `(N, V)` logits that are reduced at once."""
    return ROWS_PER_SLICE if _on_host(logits) else max(ROWS_PER_SLICE, BYTES_PER_SLICE // (4 * logits.shape[-1]))


def sample_with_entropy(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row by inverse CDF: `(B, V), (B,) -> (B,), (B,), (B,)`.

    Returns the tokens, the entropies of the distributions they were drawn from and their log-probabilities there.
    `uniforms` are in [0, 1). One uniform a row replaces the V random numbers of `torch.multinomial`, and softmax terms
    are shared with the entropy. Exact up to float32 rounding of the sums.
    """
    drawn, entropies, logprobs = [], [], []
    size = _slice_rows(logits)
    for rows, u in zip(logits.split(size), uniforms.split(size), strict=True):
        entropy, _, total, weights = _distribution(rows, temperature)
        token = _inverse_cdf(weights, u)
        drawn.append(token)
        entropies.append(entropy)
        logprobs.append((weights.gather(-1, token[:, None]).squeeze(-1) / total).log())
    return torch.cat(drawn), torch.cat(entropies), torch.cat(logprobs)


def _inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """First token whose cumulative weight exceeds `uniform * total`: `(N, V), (N,) -> (N,)`.

    Two levels, blocks of the vocabulary and tokens of the block: a cumulative sum over the vocabulary is slow on a CPU.
    """
    blocks = _blocks(weights)
    block_cdf = blocks.sum(-1).cumsum(-1)  # (N, V / BLOCK)
    total = block_cdf[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # right=True: the first place whose cumulative weight exceeds the target, so weight-0 blocks are never chosen.
    # The clamp is for NaN, which nothing exceeds: NaN entropy says what is wrong, an index error does not.
    block = torch.searchsorted(block_cdf, target, right=True).clamp_max(block_cdf.shape[-1] - 1)  # (N, 1)
    before = torch.where(block > 0, block_cdf.gather(-1, (block - 1).clamp_min(0)), 0.0)
    cdf = _chosen(blocks, block).cumsum(-1)  # (N, BLOCK)
    # The block's sum and its cumulative sum round differently: stay below the last, and never on a token of weight 0
    inside = torch.minimum(target - before, torch.nextafter(cdf[:, -1:], torch.zeros_like(target))).clamp_min(0.0)
    place = torch.searchsorted(cdf, inside, right=True).clamp_max(BLOCK - 1)
    return (block * BLOCK + place).squeeze(-1).clamp_max(weights.shape[1] - 1)


def greedy_with_entropy(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Most likely token a row, with entropy and log-probability at temperature 1: `(B, V) -> (B,), (B,), (B,)`."""
    drawn, entropies, totals = [], [], []
    for rows in logits.split(_slice_rows(logits)):
        entropy, _, total, weights = _distribution(rows, 1.0)
        blocks = _blocks(weights)
        # the first of the largest, by block and then inside it: argmax over the vocabulary is slow on a CPU
        block = blocks.amax(-1).argmax(-1, keepdim=True)
        drawn.append((block * BLOCK + _chosen(blocks, block).argmax(-1, keepdim=True)).squeeze(-1))
        entropies.append(entropy)
        totals.append(total)
    # the largest weight is exp(0) = 1, so log p = -log(sum)
    return torch.cat(drawn), torch.cat(entropies), -torch.cat(totals).log()


def _blocks(weights: Tensor) -> Tensor:
    """Weights by block of the vocabulary, `(N, V) -> (N, ceil(V / BLOCK), BLOCK)`, filled up with 0."""
    missing = -weights.shape[1] % BLOCK
    padded = torch.nn.functional.pad(weights, (0, missing)) if missing else weights
    return padded.view(len(weights), padded.shape[1] // BLOCK, BLOCK)  # of no rows too


def _chosen(blocks: Tensor, block: Tensor) -> Tensor:
    """The block of each row that `block` `(N, 1)` names: `(N, BLOCK)`."""
    return blocks.gather(1, block[..., None].expand(-1, 1, BLOCK)).squeeze(1)


def mean_token_entropy(entropies: Tensor, mask: Tensor) -> Tensor:
    """Mean over unmasked tokens: `(B, T), (B, T) -> (B,)`. A row without tokens is NaN, never 0 (the best reward)."""
    kept = mask.to(entropies.dtype)
    total = torch.where(mask.bool(), entropies, 0.0).sum(-1)
    count = kept.sum(-1)
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def score_tokens(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float = 1.0, entropy: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target and entropy of its distribution: `(M, D), (V, D), (M,) -> (M,), (M,)`, float32.

    `hidden` are the last hidden states at the places that predict the targets, `head` the output embedding. Several
    targets a place, `(M, K)`, give log-probabilities `(M, K)`. Gradients reach `hidden` and `head` through the
    log-probabilities; entropies carry none, and are None where they are not wanted. Logits exist for a slice of places
    at a time and are computed again in the backward pass.
    """
    logprobs, entropies = _TokenScores.apply(hidden, head, targets, temperature, entropy)
    return logprobs, entropies


class _TokenScores(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        wanted = targets.reshape(len(targets), -1)  # (M, K)
        logprobs = torch.empty(wanted.shape, device=hidden.device)
        log_totals = torch.empty(len(targets), device=hidden.device)  # log-sum-exp of the logits at this temperature
        entropies = torch.empty_like(log_totals) if entropy else None
        for part, logits in _products(hidden, head):
            for rows, x in _slices(part, logits):
                if entropies is None:
                    log_totals[rows] = _log_total(x, temperature)
                else:
                    entropies[rows], top, total, _ = _distribution(x, temperature)
                    log_totals[rows] = total.log() + top
                logprobs[rows] = x.gather(-1, wanted[rows]).float() / temperature - log_totals[rows, None]
        ctx.save_for_backward(hidden, head, wanted, log_totals)
        ctx.temperature = temperature
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logprobs.view(targets.shape), entropies

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head, wanted, log_totals = ctx.saved_tensors
        grad = grad.reshape(wanted.shape) / ctx.temperature
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for part, logits in _products(hidden, head):  # turned in place into their gradient
            for rows, x in _slices(part, logits):
                # d log p_t / d z_v = ([v = t] - p_v) / T, summed over the targets of a place
                p = (x.float() / ctx.temperature).sub_(log_totals[rows, None]).exp_()
                p.mul_(-grad[rows].sum(-1, keepdim=True)).scatter_add_(-1, wanted[rows], grad[rows])
                x.copy_(p)
            if to_hidden is not None:
                torch.mm(logits, head, out=to_hidden[part])
            if to_head is not None:
                to_head += logits.t() @ hidden[part]
        return to_hidden, to_head, None, None, None


def _products(hidden: Tensor, head: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits `(n, V)` of some places at a time, in memory that the next ones take over."""
    rows = max(ROWS_PER_SLICE, BYTES_PER_PRODUCT // (len(head) * head.element_size()))
    room = torch.empty(min(rows, len(hidden)), len(head), dtype=head.dtype, device=head.device)
    for start in range(0, len(hidden), rows):
        part = slice(start, min(start + rows, len(hidden)))
        yield part, torch.mm(hidden[part], head.t(), out=room[: part.stop - start])


def _slices(part: slice, logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The logits of `part` by slices, and which places those are."""
    size = _slice_rows(logits)
    for start in range(part.start, part.stop, size):
        rows = slice(start, min(start + size, part.stop))
        yield rows, logits[start - part.start : rows.stop - part.start]


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
