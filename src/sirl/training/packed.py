"""Score completions without computing what the task does not need: no padding, no prompt twice, no logits of prompts.

A padded batch of G responses to one prompt encodes that prompt G times, computes every row to the length of the
longest, and projects prompts to the vocabulary. Here all rows of a batch are one sequence without padding,

    prompt 1 | branch 1.1 | branch 1.2 | ... | prompt 2 | branch 2.1 | ...

in which each branch sees its own prompt and itself. A prompt's last token opens each of its branches, so that every
position of a branch, and no other, predicts a completion token; positions count as in the padded row. The result is
that of the padded batch up to rounding. Attention is swapped through transformers' attention interface; linear layers,
norms and rotary embeddings are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from sirl.entropy import score_tokens
from sirl.generation.decode import alike
from sirl.models import attention

ATTENTION = "sirl_packed"

Reader = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Part:
    """Prompts of like length and their completions: U stems and R branches, for attention padded to each other.

    `stems` and `branches` are places in the sequence, filled up with 0, which the biases, added to attention scores,
    hide.
    """

    stems: Tensor  # (U, P)
    branches: Tensor  # (R, T)
    owner: Tensor  # (R,) whose prompt
    stem_bias: Tensor  # (1, 1, 1, P, P)
    branch_bias: Tensor  # (R, 1, 1, T, P + T)


@dataclass(frozen=True)
class Packed:
    """Rows of prompt and completion as one sequence of N tokens."""

    input_ids: Tensor  # (1, N)
    position_ids: Tensor  # (1, N)
    targets: Tensor  # (M,) completion tokens
    scored: Tensor  # (M,) places that predict them
    parts: tuple[Part, ...]
    slots: Tensor  # places of all parts' stems and branches, laid end to end
    order: Tensor  # (N,) where each place stands among `slots`

    def to(self, device: torch.device) -> Packed:
        """The same on another device."""
        parts = tuple(Part(**{k: v.to(device) for k, v in vars(part).items()}) for part in self.parts)
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, parts=parts, **moved)


def pack(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], dtype: torch.dtype) -> Packed | None:
    """Pack rows; rows without completion tokens are left out. None where nothing is left."""
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    stems: list[range] = []
    branches: list[list[range]] = []  # by stem
    known: dict[tuple[int, ...], int] = {}
    scored: list[range] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        if not len(completion):
            continue
        stem = len(prompt) - 1
        if (key := tuple(prompt)) not in known:
            known[key] = len(stems)
            stems.append(range(len(ids), len(ids) + stem))
            branches.append([])
            ids += prompt[:-1]
            positions += range(stem)
        scored.append(range(len(ids), len(ids) + len(completion)))
        branches[known[key]].append(scored[-1])
        ids += [prompt[-1], *completion[:-1]]
        positions += range(stem, stem + len(completion))
        targets += completion
    if not scored:
        return None
    parts, slots, used = [], [], []
    for members in _by_length(stems):
        part, hold = _part([stems[i] for i in members], [branches[i] for i in members], dtype)
        parts.append(part)
        slots += [part.stems.flatten(), part.branches.flatten()]
        used += [places.flatten() for places in hold]
    order = torch.empty(len(ids), dtype=torch.long)
    order[torch.cat(slots)[torch.cat(used)]] = torch.cat(used).nonzero().squeeze(-1)
    return Packed(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        targets=torch.tensor(targets),
        scored=torch.cat([torch.arange(s.start, s.stop) for s in scored]),
        parts=tuple(parts),
        slots=torch.cat(slots),
        order=order,
    )


def _by_length(stems: Sequence[range]) -> list[list[int]]:
    """Which stems are padded to each other: a long prompt shall not make all others as wide as itself."""
    order = sorted(range(len(stems)), key=lambda i: -len(stems[i]))
    return [[order[i] for i in group] for group in alike([len(stems[i]) for i in order])]


def _part(stems: list[range], branches: list[list[range]], dtype: torch.dtype) -> tuple[Part, tuple[Tensor, Tensor]]:
    """Stems and the branches of each; also which cells of the two tables hold a place."""
    branch_table, branch_used = _table([b for of in branches for b in of])
    owner = torch.tensor([i for i, of in enumerate(branches) for _ in of])
    width = branch_table.shape[1]
    longest = max(1, *map(len, stems))
    # torch's softmax of bfloat16 is three times as fast where rows of keys fill the processor's vectors
    stem_table, stem_used = _table(stems, longest + -(longest + width) % 32)
    causal, stem_causal = (torch.ones(n, n, dtype=torch.bool).tril() for n in (width, stem_table.shape[1]))
    seen = torch.cat(
        [stem_used[owner][:, None].expand(-1, width, -1), causal.expand(len(owner), -1, -1)], -1
    )  # (R, T, P + T)
    part = Part(stem_table, branch_table, owner, _bias(stem_causal[None], dtype), _bias(seen, dtype))
    return part, (stem_used, branch_used)


def _table(spans: Sequence[range], width: int | None = None) -> tuple[Tensor, Tensor]:
    """Spans as rows `(n, width)`, filled up with 0, and which cells are theirs."""
    table = torch.zeros(len(spans), width or max(map(len, spans)), dtype=torch.long)
    used = torch.zeros(table.shape, dtype=torch.bool)
    for row, span in enumerate(spans):
        table[row, : len(span)] = torch.arange(span.start, span.stop)
        used[row, : len(span)] = True
    return table, used


def pack_rows(input_ids: Tensor, attention_mask: Tensor, completion_width: int, dtype: torch.dtype) -> Packed | None:
    """`pack` for padded rows `(B, P + T)` whose last `completion_width` columns are the completions."""
    prompts, completions = (
        [row[kept].tolist() for row, kept in zip(input_ids[:, columns], attention_mask[:, columns].bool(), strict=True)]
        for columns in (slice(None, -completion_width), slice(-completion_width, None))
    )
    packed = pack(prompts, completions, dtype)
    return None if packed is None else packed.to(input_ids.device)


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, Q, K)` visibility as what is added to scores `(B, H_kv, repeats, Q, K)`."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]


def packed_attention(
    _: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, packed: Packed, **__: Any
) -> tuple[Tensor, None]:
    """Attention of a packed sequence: `(1, H, N, D)`, `(1, H_kv, N, D)` twice `-> (1, N, H, D)`."""
    del mask  # transformers makes none for an attention that it does not know; the biases say who sees whom
    laid_out = [_Spread.apply(t[0].transpose(0, 1), packed.slots, packed.order) for t in (query, key, value)]
    sizes = [table.numel() for part in packed.parts for table in (part.stems, part.branches)]
    pieces = list(zip(*(t.split(sizes) for t in laid_out), strict=True))  # (q, k, v), each (cells, heads, D)
    flat: list[Tensor] = []
    for part, stem, branch in zip(packed.parts, pieces[::2], pieces[1::2], strict=True):
        stem_q, stem_k, stem_v = (t.unflatten(0, part.stems.shape) for t in stem)  # (U, P, heads, D)
        branch_q, branch_k, branch_v = (t.unflatten(0, part.branches.shape) for t in branch)
        keys = torch.cat([stem_k.index_select(0, part.owner), branch_k], 1)  # (R, P + T, H_kv, D)
        values = torch.cat([stem_v.index_select(0, part.owner), branch_v], 1)
        flat.append(_attend(stem_q, stem_k, stem_v, part.stem_bias, scaling).flatten(0, 1))
        flat.append(_attend(branch_q, keys, values, part.branch_bias, scaling).flatten(0, 1))
    return _Gather.apply(torch.cat(flat), packed.order)[None], None


class _Spread(torch.autograd.Function):  # type: ignore[misc]
    """Rows of the sequence laid out among stems and branches. A place counts once: fill-ups have gradient 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """The way back: the sequence's rows from among stems and branches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.rows = len(x)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, ctx.saved_tensors[0], grad), None


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """`(B, Q, H, D)`, `(B, K, H_kv, D)` twice `-> (B, Q, H, D)`.

    Written out, since torch's fused kernel for CPUs takes several times as long backwards. The query heads that share
    keys are rows of one product.
    """
    batch, width, heads, dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.view(batch, width, kv_heads, heads // kv_heads, dim).permute(0, 2, 3, 1, 4)  # (B, H_kv, R, Q, D)
    rows = grouped.reshape(batch, kv_heads, -1, dim)
    scores = rows @ k.permute(0, 2, 3, 1)  # (B, H_kv, R * Q, K)
    scores = torch.add(bias, scores.view(batch, kv_heads, -1, width, k.shape[1]), alpha=scaling)
    weights = scores.softmax(-1).view(batch, kv_heads, rows.shape[2], -1)
    out = (weights @ v.transpose(1, 2)).view(batch, kv_heads, -1, width, dim)
    return out.permute(0, 3, 1, 2, 4).reshape(batch, width, heads, dim)


AttentionInterface.register(ATTENTION, packed_attention)


def packed_hidden(model: Any, packed: Packed) -> Tensor:
    """Last hidden states `(M, D)` of a causal LM at the places that predict the completion tokens."""
    with attention(model, ATTENTION):
        out = model.base_model(
            input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False, packed=packed
        )
    hidden: Tensor = out.last_hidden_state[0][packed.scored]
    return hidden


def add_packed_forward(model: Any) -> None:
    """Let `model(packed=..., read=...)` return `read(hidden, head)`: the last hidden states `(M, D)` at the places that
    predict the packed batch's completion tokens, and the output embedding `(V, D)`.

    Everything goes through `forward`, so that wrappers (DDP, PEFT) do what they do around a forward pass.
    """
    original = model.forward

    def forward(self: Any, *args: Any, packed: Packed | None = None, read: Reader | None = None, **kwargs: Any) -> Any:
        if packed is None or read is None:
            return original(*args, **kwargs)
        return read(packed_hidden(self, packed), self.get_output_embeddings().weight)

    model.forward = MethodType(forward, model)


def packed_scores(model: Any, packed: Packed, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """`score_tokens` of a packed batch's completion tokens by a model with `add_packed_forward`: `(M,)` each."""
    scores: tuple[Tensor, Tensor | None] = model(
        packed=packed, read=lambda hidden, head: score_tokens(hidden, head, packed.targets, temperature, entropy)
    )
    return scores
