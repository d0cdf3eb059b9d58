"""How probable a given answer is, and in which direction its prompt would have to change.

For attacks that search with the model's own probabilities: random search needs the first, Greedy Coordinate Gradient
(Zou et al. 2023, arXiv 2307.15043) both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sirl.generation.decode import left_pad, prefill_chunks, without_gradients

GRADIENT_TOKENS = 512
"""Tokens, padding included, of one backward pass: its activations are held all at once."""

CACHE_POSITIONS = 32_768
"""Keys and values of so many tokens are held at once: 4 GB in an 8B model, where a common beginning is repeated."""

PIECE_CHARACTERS = 20
"""Longer tokens (rules of dashes, runs of spaces) are no pieces of a suffix."""


@without_gradients
def continuation_scores(
    model: Any, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad_id: int, share: bool = True
) -> list[tuple[list[float], bool]]:
    """Log-probability (nats, temperature 1) of every token of each target behind its prompt, and whether each of them
    is the most probable one there.

    With `share`, which needs plain full attention, tokens that neighbouring prompts begin with go through the model
    once. Nothing is approximated: a row is what a forward pass of its own gives, up to rounding.
    """
    check_pairs(prompts, targets)
    out: list[tuple[list[float], bool]] = [([], True) for _ in prompts]
    for i, logits in continuation_logits(model, prompts, targets, pad_id, share):
        wanted = torch.tensor(targets[i], device=logits.device)
        logprobs = logits.float().log_softmax(-1)
        greedy = bool((logprobs.argmax(-1) == wanted).all())
        out[i] = (logprobs.gather(-1, wanted[:, None]).squeeze(-1).tolist(), greedy)
    return out


@without_gradients
def continuation_logits(
    model: Any, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad_id: int, share: bool = True
) -> Iterator[tuple[int, Tensor]]:
    """Each pair's index and the logits `(T, V)` at its target's tokens, pairs of like prompts after each other.

    `share` is as for `continuation_scores`.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]) // 32, list(prompts[i])))
    for chunk, shared in prefill_chunks([prompts[i] for i in order], share, CACHE_POSITIONS):
        rows = [order[j] for j in chunk]
        texts = [[*prompts[i][shared:], *targets[i][:-1]] for i in rows]
        keep = max(len(targets[i]) for i in rows)
        logits = _logits(model, prompts[rows[0]][:shared], texts, pad_id, keep, share)
        for row, i in enumerate(rows):
            yield i, logits[row, keep - len(targets[i]) :]


def _logits(
    model: Any, first: Sequence[int], texts: Sequence[Sequence[int]], pad_id: int, keep: int, cached: bool
) -> Tensor:
    """Logits `(B, keep, V)` at the last tokens of texts that go on from the same first tokens."""
    ids, mask = left_pad(texts, pad_id, model.device)
    positions = len(first) + (mask.cumsum(-1) - 1).clamp_min(0)
    visible = torch.cat([mask.new_ones(len(texts), len(first)), mask], 1).bool()
    memory: dict[str, Any] = {"use_cache": False}
    if cached:
        memory = {"use_cache": True, "past_key_values": DynamicCache()}
        if first:
            model(input_ids=torch.tensor([list(first)], device=model.device), logits_to_keep=1, **memory)
            memory["past_key_values"].batch_repeat_interleave(len(texts))
    out = model(input_ids=ids, attention_mask=visible, position_ids=positions, logits_to_keep=keep, **memory)
    logits: Tensor = out.logits
    return logits


def one_hot_gradients(
    model: Any,
    prompts: Sequence[Sequence[int]],
    spans: Sequence[tuple[int, int]],
    targets: Sequence[Sequence[int]],
    pad_id: int,
) -> list[Tensor]:
    """Gradients `(stop - start, V)`, float32, of the targets' mean negative log-probability.

    By the one-hot vectors of the prompts' tokens from `start` to `stop`. The embedding of a token is its one-hot vector
    times the embedding matrix E, so the gradient by the one is that by the other times E^T: no one-hot vector is made.
    """
    check_pairs(prompts, targets)
    out: list[Tensor] = []
    widest = max((len(p) + len(t) for p, t in zip(prompts, targets, strict=True)), default=1)
    size = max(1, GRADIENT_TOKENS // widest)
    for start in range(0, len(prompts), size):
        part = slice(start, start + size)
        out += _gradients_of_batch(model, prompts[part], spans[part], targets[part], pad_id)
    return out


def _gradients_of_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    spans: Sequence[tuple[int, int]],
    targets: Sequence[Sequence[int]],
    pad_id: int,
) -> list[Tensor]:
    texts = [[*p, *t[:-1]] for p, t in zip(prompts, targets, strict=True)]
    width = max(map(len, texts))
    # padded on the right, where a causal model sees no padding: no mask, no row without anything to attend to
    ids = torch.tensor([[*t, *[pad_id] * (width - len(t))] for t in texts], device=model.device)
    matrix = model.get_input_embeddings()
    first = min(len(p) for p in prompts) - 1  # the first place whose logits are needed
    with torch.inference_mode(False), torch.enable_grad():
        embedded = matrix(ids).detach().requires_grad_(True)
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=width - first).logits
        loss = logits.new_zeros((), dtype=torch.float32)
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            begin = len(prompt) - 1 - first
            wanted = torch.tensor(target, device=ids.device)
            rows = logits[row, begin : begin + len(target)].float()
            loss = loss + torch.nn.functional.cross_entropy(rows, wanted)
        (by_embedding,) = torch.autograd.grad(loss, embedded)  # rows do not touch each other: the sum's is each one's
    weight = matrix.weight.detach()
    return [(by_embedding[row, a:b] @ weight.t()).float() for row, (a, b) in enumerate(spans)]


def printable_pieces(tokenizer: Any) -> dict[int, str]:
    """Token id -> text, for tokens that are printable ASCII and the tokeniser's way of writing that text."""
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    chosen = [
        (i, text)
        for i, text in zip(ids, texts, strict=True)
        if text.strip() and text.isascii() and text.isprintable() and len(text) <= PIECE_CHARACTERS
    ]
    again = tokenizer([text for _, text in chosen], add_special_tokens=False)["input_ids"] if chosen else []
    return {i: text for (i, text), ids_again in zip(chosen, again, strict=True) if list(ids_again) == [i]}


def check_pairs(prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
    """Raise `ValueError` for another number of targets than prompts, and for one without tokens."""
    if len(prompts) != len(targets):
        raise ValueError(f"{len(prompts)} prompts with {len(targets)} targets")
    if not all(len(p) for p in prompts) or not all(len(t) for t in targets):
        raise ValueError("a prompt or target without tokens cannot be scored")


def pad_pairs(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int
) -> tuple[Tensor, Tensor, int]:
    """Prompts padded on the left and completions on the right: ids and mask `(B, P + T)`, and T (at least 1)."""
    left = max(len(p) for p in prompts)
    right = max(1, max(len(c) for c in completions))
    ids = torch.full((len(prompts), left + right), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        span = slice(left - len(prompt), left + len(completion))
        ids[row, span] = torch.tensor([*prompt, *completion])
        mask[row, span] = 1
    return ids, mask, right
