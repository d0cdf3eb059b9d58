"""The decode loop: prompts in, sampled tokens and their exact entropies out.

Each unique prompt is prefilled once for all its samples and its greedy answer, prompts of similar length share a batch,
finished rows leave the batch, and the entropy is taken from the logits that the token is drawn from, so it costs no
extra forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache

from sirl.entropy import greedy_with_entropy, sample_with_entropy
from sirl.generation.base import SamplingParams
from sirl.generation.cache import ATTENTION, DecodeCache
from sirl.generation.cpu_decoder import PrepackedModel

Result = TypeVar("Result")

PREFILL_TOKENS = 2048
"""Prompt tokens, padding included, of one forward pass of the prefill, beside those that its prompts share."""

MIN_SHARED = 8
"""Fewer tokens that prompts begin with alike are not worth a forward pass of their own."""

NARROWER = 2 / 3
"""Prompts narrower than this share of the widest beside them are attended to apart."""

WORTH_PADDING = 64
"""Prompts of up to so many tokens are always padded to each other."""

COMPACT_BELOW = 0.75
"""Finished rows are dropped once fewer than this share of a batch is alive: dropping copies the cache."""


@dataclass(frozen=True)
class Rollout:
    """One completion: token ids, the end-of-turn token included, and for each the entropy (nats) of the distribution
    it was drawn from and its log-probability there.

    `top` are the likeliest tokens at each place, ids and log-probabilities `(T, K)`, where they were asked for.
    """

    token_ids: list[int]
    entropies: list[float]
    logprobs: list[float]
    finished: bool
    top: tuple[Tensor, Tensor] | None = None


def uniforms_for(prompt_ids: Sequence[int], params: SamplingParams, occurrence: int, sample: int) -> np.ndarray:
    """The uniforms `(max_new_tokens,)` of one completion.

    They hang on the seed, the prompt and the sample index alone, so a completion does not depend on which other prompts
    share its batch, and an interrupted run that goes on draws what it would have drawn.
    """
    text = np.asarray([params.seed, occurrence, sample, *prompt_ids], dtype=np.int64).tobytes()
    key = int.from_bytes(blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(params.max_new_tokens, dtype=np.float32)


def plan_batches(
    prompts: Sequence[Sequence[int]], n: int, steps: int, max_rows: int, max_cells: int
) -> list[list[int]]:
    """Indices of prompts by batch: alike in length, at most `max_rows` completions and `max_cells` tokens of cache.

    Inside a batch, prompts of like length that begin alike are neighbours.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    batches: list[list[int]] = []
    for i in order:
        rows = (len(batches[-1]) + 1) * n if batches else 0
        if not batches or rows > max_rows or rows * (len(prompts[batches[-1][0]]) + steps) > max_cells:
            batches.append([])
        batches[-1].append(i)
    return [sorted(batch, key=lambda i: (len(prompts[i]) // 32, list(prompts[i]))) for batch in batches]


def without_gradients(run: Callable[..., Result]) -> Callable[..., Result]:
    """Have a function of a model, or a generator, run in inference mode, where its tensors are no part of a training.

    Of weights in shares they are: FSDP keeps the tensors into which it gathers, and updates use them again.
    """
    alone, in_shares = torch.inference_mode()(run), torch.no_grad()(run)

    @wraps(run)
    def wrapped(model: Any, *given: Any, **named: Any) -> Result:
        result: Result = (in_shares if isinstance(model, FSDPModule) else alone)(model, *given, **named)
        return result

    return wrapped


@without_gradients
def decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    params: SamplingParams,
    eos_ids: Sequence[int],
    pad_id: int,
    progress: Callable[[int], None] | None = None,
    greedy: bool = False,
) -> list[list[Rollout]]:
    """Decode one batch: B prompts, `params.n` completions each; `uniforms` is `(B * n, max_new_tokens)`.

    With `greedy` each prompt has one completion more, the first, which is greedy, and `uniforms` a row for it.
    Works with any causal LM of plain full attention (see `supports_decode_cache`), fastest inside `shared_keys`.
    """
    n, steps = params.n + greedy, params.max_new_tokens
    packed = isinstance(model, PrepackedModel)
    logits, groups = prefill(model, prompts, pad_id, n, steps, apart=packed)
    position = torch.cat([group.visible.sum(-1, keepdim=True) for group in groups])
    batch = _Batch(len(position), steps, eos_ids, model.device, progress)
    tops = _Tops(len(position), steps, min(params.top_logprobs, logits.shape[-1] - 1)) if params.top_logprobs else None
    uniforms = uniforms.to(model.device)
    # ours takes the mask as it is; what other attentions make of a boolean one differs, so transformers builds theirs
    as_it_is = packed or model.config._attn_implementation == ATTENTION
    for group in groups:
        group.visible = torch.nn.functional.pad(group.visible, (0, steps), value=True)  # (rows, P + T)
    for step in range(steps):
        first = batch.rows % n == 0 if greedy else None
        drawn, *scores = _draw(logits, uniforms[batch.rows, step], params.temperature, first)
        if tops is not None:
            tops.record(batch.rows, step, logits)
        n_alive = batch.record(step, drawn, *scores)
        if n_alive == 0 or step == steps - 1:
            break
        if n_alive < COMPACT_BELOW * len(batch.rows):
            kept = batch.drop_finished()
            groups = keep_rows(groups, kept)
            drawn, position = drawn[kept], position[kept]
        seen = [group.visible[:, : group.width + step + 1] for group in groups]
        masks = [mask[:, None, None] for mask in seen] if as_it_is else seen
        caches = [group.cache for group in groups]
        logits = model(
            input_ids=drawn[:, None],
            attention_mask=masks if packed else masks[0],
            position_ids=position,
            past_key_values=caches if packed else caches[0],
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        position = position + 1
    out = collect(batch.tokens.tolist(), batch.scores.tolist(), set(eos_ids), n)
    return out if tops is None else tops.given_to(out)


def _draw(logits: Tensor, uniforms: Tensor, temperature: float, greedy: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, entropies and log-probabilities `(R,)` of `(R, V)` logits; the rows of the mask `greedy` are greedy."""
    if temperature == 0:
        return greedy_with_entropy(logits)
    if greedy is None:
        return sample_with_entropy(logits, uniforms, temperature)
    chosen = greedy_with_entropy(logits[greedy])
    sampled = sample_with_entropy(logits[~greedy], uniforms[~greedy], temperature)
    joined = []
    for own, other in zip(chosen, sampled, strict=True):
        both = own.new_empty(len(logits))
        both[greedy], both[~greedy] = own, other
        joined.append(both)
    token, entropy, logprob = joined
    return token, entropy, logprob


@dataclass
class RowGroup:
    """Rows of a batch that are attended to together: their cache, and which of its columns hold tokens of the row."""

    cache: DecodeCache
    visible: Tensor  # (rows, P), of the prompts' columns
    width: int  # P


def keep_rows(groups: Sequence[RowGroup], kept: Tensor) -> list[RowGroup]:
    """Drop all rows of the batch but `kept` `(B',)`, in rising order; a group without rows goes."""
    out, first = [], 0
    for group in groups:
        last = first + len(group.visible)
        rows = kept[(kept >= first) & (kept < last)] - first
        first = last
        if len(rows):
            group.cache.keep_rows(rows)
            out.append(RowGroup(group.cache, group.visible[rows], group.width))
    return out


class _Batch:
    """What has been drawn for each completion, and which rows of the running batch still go on."""

    def __init__(
        self, size: int, steps: int, eos_ids: Sequence[int], device: Any, progress: Callable[[int], None] | None
    ) -> None:
        self.tokens = torch.full((size, steps), -1, dtype=torch.long, device=device)
        self.scores = torch.zeros(2, size, steps, device=device)  # entropies, log-probabilities
        self.rows = torch.arange(size, device=device)  # which completion each row of the running batch belongs to
        self.alive = torch.ones_like(self.rows, dtype=torch.bool)
        self.n_alive = size
        self.eos = torch.tensor(list(eos_ids), device=device)
        self.progress = progress or (lambda _: None)

    def record(self, step: int, drawn: Tensor, entropy: Tensor, logprob: Tensor) -> int:
        """Keep one drawn token a row; returns how many rows go on."""
        # no selection by `alive`, whose size only the device knows: the count below is the one thing waited for
        self.tokens[self.rows, step] = torch.where(self.alive, drawn, -1)
        self.scores[:, self.rows, step] = torch.where(self.alive, torch.stack([entropy, logprob]), 0.0)
        self.alive = self.alive & ~torch.isin(drawn, self.eos)
        going, self.n_alive = self.n_alive, int(self.alive.sum())
        self.progress(going - (0 if step == self.tokens.shape[1] - 1 else self.n_alive))
        return self.n_alive

    def drop_finished(self) -> Tensor:
        """Leave finished rows behind; returns the places of those that stay."""
        kept = self.alive.nonzero().squeeze(-1)
        self.rows, self.alive = self.rows[kept], self.alive[kept]
        return kept


class _Tops:
    """The `k` likeliest tokens at each place of each completion, kept on the CPU."""

    def __init__(self, size: int, steps: int, k: int) -> None:
        self.ids = torch.zeros(size, steps, k, dtype=torch.long)
        self.logprobs = torch.zeros(size, steps, k)

    def record(self, rows: Tensor, step: int, logits: Tensor) -> None:
        """Keep those of one step, of the running batch's rows with logits `(B', V)`."""
        top = logits.float().log_softmax(-1).topk(self.ids.shape[-1], -1)
        self.ids[rows.cpu(), step] = top.indices.cpu()
        self.logprobs[rows.cpu(), step] = top.values.cpu()

    def given_to(self, groups: list[list[Rollout]]) -> list[list[Rollout]]:
        """The rollouts, in the order of the batch, each with its own."""
        rows = iter(zip(self.ids, self.logprobs, strict=True))
        return [
            [replace(r, top=tuple(kept[: len(r.token_ids)] for kept in next(rows))) for r in group] for group in groups
        ]


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], pad_id: int, n: int, steps: int, apart: bool = False
) -> tuple[Tensor, list[RowGroup]]:
    """Logits `(B * n, V)` of each prompt's next token, and the rows with their caches; a prompt's samples are
    neighbours. `apart` lets much longer prompts be a group of their own, else there is one group.

    Prompts go through the model a few at a time: activations that stay in the processor's cache cost less than those
    of the whole batch, and short prompts are not padded to the longest of all. What neighbours begin with (a system
    prompt, the template of an attack) is computed once for them.
    """
    logits, parts, masks = [], [], []
    for chunk, shared in prefill_chunks(prompts):
        chosen = [prompts[i] for i in chunk]
        part = DynamicCache()
        if shared:
            first = torch.tensor([chosen[0][:shared]], device=model.device)
            model(input_ids=first, past_key_values=part, use_cache=True, logits_to_keep=1)
            part.batch_repeat_interleave(len(chosen))
        ids, mask = left_pad([p[shared:] for p in chosen], pad_id, model.device)  # (b, p)
        masks.append(torch.cat([mask.new_ones(len(chosen), shared), mask], 1).bool())
        out = model(
            input_ids=ids,
            attention_mask=masks[-1],
            position_ids=shared + (mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=part,
            use_cache=True,
            logits_to_keep=1,
        )
        logits.append(out.logits[:, -1])
        parts.append(part)
    groups = []
    for members in alike([mask.shape[1] for mask in masks]) if apart else [range(len(masks))]:
        width = max(masks[i].shape[1] for i in members)
        padded = [torch.nn.functional.pad(masks[i], (width - masks[i].shape[1], 0)) for i in members]
        cache = DecodeCache([parts[i] for i in members], n, steps)
        groups.append(RowGroup(cache, torch.cat(padded).repeat_interleave(n, 0), width))
    return torch.cat(logits).repeat_interleave(n, 0), groups


def alike(widths: Sequence[int]) -> list[range]:
    """Neighbours of like width: a group ends where the next is much narrower or wider than all of it."""
    groups: list[range] = []
    low = high = 0
    for i, width in enumerate(widths):
        low, high = min(low, width), max(high, width)
        if not groups or (high > WORTH_PADDING and low < NARROWER * high):
            groups.append(range(i, i + 1))
            low = high = width
        else:
            groups[-1] = range(groups[-1].start, i + 1)
    return groups


def prefill_chunks(
    prompts: Sequence[Sequence[int]], share: bool = True, positions: int | None = None
) -> list[tuple[range, int]]:
    """Neighbouring prompts that are prefilled together, and how many first tokens are computed once for them.

    A prompt joins its neighbours where that costs no more tokens, padding included, than a chunk of its own. Without
    `share` nothing is computed once, and every token of a chunk counts. `positions` bounds what a chunk holds in a
    cache: rows times the longest, what they share included.
    """
    chunks: list[tuple[range, int]] = []
    shared = cost = widest = 0
    for i, prompt in enumerate(prompts):
        if chunks:
            start = chunks[-1][0].start
            joined = min(shared, common_prefix(prompts[start], prompt), len(prompt) - 1)
            joined = joined if share and joined >= MIN_SHARED else 0
            width = max(widest, len(prompt))
            own = (i + 1 - start) * (width - joined)
            after = joined + own
            fits = positions is None or (i + 1 - start) * width <= positions
            if fits and after <= cost + len(prompt) and own <= PREFILL_TOKENS:
                chunks[-1] = (range(start, i + 1), joined)
                shared, cost, widest = joined, after, width
                continue
        chunks.append((range(i, i + 1), 0))
        shared, cost, widest = len(prompt) - 1, len(prompt), len(prompt)
    return chunks


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens two prompts share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


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
