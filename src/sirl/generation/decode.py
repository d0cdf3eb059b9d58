"""The decode loop: prompts in, sampled tokens and their exact entropies out.

Each unique prompt is prefilled once for all its samples, prompts of similar length share a batch, finished rows leave
the batch, and the entropy is taken from the logits that the token is drawn from, so it costs no extra forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from sirl.entropy import greedy_with_entropy, sample_with_entropy
from sirl.generation.base import SamplingParams
from sirl.generation.cache import DecodeCache

PREFILL_TOKENS = 2048
"""Prompt tokens, padding included, of one forward pass of the prefill."""

COMPACT_BELOW = 0.75
"""Finished rows are dropped once fewer than this share of a batch is alive: dropping copies the cache."""


@dataclass(frozen=True)
class Rollout:
    """One completion: token ids, the end-of-turn token included, and for each the entropy (nats) of the distribution
    it was drawn from and its log-probability there."""

    token_ids: list[int]
    entropies: list[float]
    logprobs: list[float]
    finished: bool


def uniforms_for(prompt_ids: Sequence[int], params: SamplingParams, occurrence: int, sample: int) -> np.ndarray:
    """The uniforms `(max_new_tokens,)` of one completion.

    They hang on the seed, the prompt and the sample index alone, so a completion does not depend on which other prompts
    share its batch, and an interrupted run that goes on draws what it would have drawn.
    """
    text = np.asarray([params.seed, occurrence, sample, *prompt_ids], dtype=np.int64).tobytes()
    key = int.from_bytes(blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(params.max_new_tokens, dtype=np.float32)


def plan_batches(prompts: Sequence[Sequence[int]], n: int, max_rows: int, max_cells: int) -> list[list[int]]:
    """Indices of prompts by batch: alike in length, at most `max_rows` completions and `max_cells` prompt tokens."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    batches: list[list[int]] = []
    for i in order:
        longest = len(prompts[batches[-1][0]]) if batches else 0
        full = not batches or (len(batches[-1]) + 1) * n > max_rows or (len(batches[-1]) + 1) * longest > max_cells
        if full:
            batches.append([])
        batches[-1].append(i)
    return batches


@torch.inference_mode()
def decode_batch(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    params: SamplingParams,
    eos_ids: Sequence[int],
    pad_id: int,
    progress: Callable[[int], None] | None = None,
) -> list[list[Rollout]]:
    """Decode one batch: B prompts, `params.n` completions each; `uniforms` is `(B * n, max_new_tokens)`.

    Works with any causal LM of plain full attention (see `supports_decode_cache`).
    """
    n, steps = params.n, params.max_new_tokens
    logits, cache = prefill(model, prompts, pad_id, n, steps)  # (B * n, V)
    lengths = torch.tensor([len(p) for p in prompts], device=model.device).repeat_interleave(n)  # (B * n,)
    width = int(lengths.max())
    columns = torch.arange(width + steps, device=model.device)
    visible = columns >= (width - lengths)[:, None]  # (B * n, P + T): all but the padding on the left
    position = lengths[:, None]
    batch = _Batch(len(lengths), steps, eos_ids, model.device, progress)
    uniforms = uniforms.to(model.device)
    # SDPA takes the mask as it is; what other attentions make of a boolean one differs, so transformers builds theirs
    is_sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
    for step in range(steps):
        if params.temperature > 0:
            drawn, *scores = sample_with_entropy(logits, uniforms[batch.rows, step], params.temperature)
        else:
            drawn, *scores = greedy_with_entropy(logits)
        n_alive = batch.record(step, drawn, *scores)
        if n_alive == 0 or step == steps - 1:
            break
        if n_alive < COMPACT_BELOW * len(batch.rows):
            kept = batch.drop_finished()
            cache.keep_rows(kept)
            drawn, visible, position = drawn[kept], visible[kept], position[kept]
        seen = visible[:, : width + step + 1]
        logits = model(
            input_ids=drawn[:, None],
            attention_mask=seen[:, None, None] if is_sdpa else seen,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        position = position + 1
    return collect(batch.tokens.tolist(), batch.scores.tolist(), set(eos_ids), n)


class _Batch:
    """What has been drawn for each completion, and which rows of the running batch still go on."""

    def __init__(
        self, size: int, steps: int, eos_ids: Sequence[int], device: Any, progress: Callable[[int], None] | None
    ) -> None:
        self.tokens = torch.full((size, steps), -1, dtype=torch.long, device=device)
        self.scores = torch.zeros(2, size, steps, device=device)  # entropies, log-probabilities
        self.rows = torch.arange(size, device=device)  # which completion each row of the running batch belongs to
        self.alive = torch.ones_like(self.rows, dtype=torch.bool)
        self.eos = torch.tensor(list(eos_ids), device=device)
        self.progress = progress or (lambda _: None)

    def record(self, step: int, drawn: Tensor, entropy: Tensor, logprob: Tensor) -> int:
        """Keep one drawn token a row; returns how many rows go on."""
        going = self.rows[self.alive]
        self.tokens[going, step] = drawn[self.alive]
        self.scores[:, going, step] = torch.stack([entropy, logprob])[:, self.alive]
        self.alive = self.alive & ~torch.isin(drawn, self.eos)
        n_alive = int(self.alive.sum())
        self.progress(len(going) - (0 if step == self.tokens.shape[1] - 1 else n_alive))
        return n_alive

    def drop_finished(self) -> Tensor:
        """Leave finished rows behind; returns the places of those that stay."""
        kept = self.alive.nonzero().squeeze(-1)
        self.rows, self.alive = self.rows[kept], self.alive[kept]
        return kept


def prefill(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], pad_id: int, n: int, steps: int
) -> tuple[Tensor, DecodeCache]:
    """Logits `(B * n, V)` of each prompt's next token, repeated for its samples, and the cache to decode with.

    Prompts go through the model a few at a time: activations that stay in the processor's cache cost less than those
    of the whole batch, and short prompts are not padded to the longest of all.
    """
    logits, parts = [], []
    start = 0
    while start < len(prompts):
        width = len(prompts[start])
        end = start
        while end < len(prompts) and (end + 1 - start) * max(width, len(prompts[end])) <= PREFILL_TOKENS:
            width = max(width, len(prompts[end]))
            end += 1
        end = max(end, start + 1)
        ids, mask = left_pad(prompts[start:end], pad_id, model.device)  # (b, p)
        part = DynamicCache()
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=part,
            use_cache=True,
            logits_to_keep=1,
        )
        logits.append(out.logits[:, -1])
        parts.append(part)
        start = end
    return torch.cat(logits).repeat_interleave(n, 0), DecodeCache(parts, n, steps)


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask `(B, P)`, int64, padded on the left so that all prompts end at the same column."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def collect(tokens: list[list[int]], scores: list[list[list[float]]], eos: set[int], n: int) -> list[list[Rollout]]:
    """Rows of token ids (-1 where there is none) and of entropies and log-probabilities, as `n` rollouts a prompt."""
    out: list[list[Rollout]] = []
    for row, (ids, entropies, logprobs) in enumerate(zip(tokens, *scores, strict=True)):
        length = ids.index(-1) if -1 in ids else len(ids)
        finished = length > 0 and ids[length - 1] in eos
        if row % n == 0:
            out.append([])
        out[-1].append(Rollout(ids[:length], entropies[:length], logprobs[:length], finished))
    return out
