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
from sirl.models import attention

ATTENTION = "sirl_packed"

Reader = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Packed:
    """Rows of prompt and completion as one sequence of N tokens: U unique prompts, R branches with a completion each.

    Slots are places in the sequence; `stems` and `branches` are filled up with slot 0, which the biases, added to
    attention scores, hide.
    """

    input_ids: Tensor  # (1, N)
    position_ids: Tensor  # (1, N)
    targets: Tensor  # (M,) completion tokens
    scored: Tensor  # (M,) slots that predict them
    stems: Tensor  # (U, P)
    branches: Tensor  # (R, T)
    owner: Tensor  # (R,) whose prompt
    order: Tensor  # (N,) where each slot's result stands among stems and branches laid end to end
    stem_bias: Tensor  # (1, 1, 1, P, P)
    branch_bias: Tensor  # (R, 1, 1, T, P + T)

    def to(self, device: torch.device) -> Packed:
        """The same on another device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def pack(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], dtype: torch.dtype) -> Packed | None:
    """Pack rows; rows without completion tokens are left out. None where nothing is left."""
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    stems: list[range] = []
    branches: list[range] = []
    owner: list[int] = []
    known: dict[tuple[int, ...], int] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        if not len(completion):
            continue
        stem = len(prompt) - 1
        if (key := tuple(prompt)) not in known:
            known[key] = len(stems)
            stems.append(range(len(ids), len(ids) + stem))
            ids += prompt[:-1]
            positions += range(stem)
        branches.append(range(len(ids), len(ids) + len(completion)))
        ids += [prompt[-1], *completion[:-1]]
        positions += range(stem, stem + len(completion))
        targets += completion
        owner.append(known[key])
    if not branches:
        return None
    branch_slots = _slots(branches)
    width = branch_slots.shape[1]
    longest = max(1, *map(len, stems))
    # torch's softmax of bfloat16 is three times as fast where rows of keys fill the processor's vectors
    stem_slots = _slots(stems, longest + -(longest + width) % 32)
    order = torch.empty(len(ids), dtype=torch.long)
    for start, table, spans in ((0, stem_slots, stems), (stem_slots.numel(), branch_slots, branches)):
        for i, span in enumerate(spans):
            order[span.start : span.stop] = start + i * table.shape[1] + torch.arange(len(span))
    before = torch.arange(stem_slots.shape[1]) < torch.tensor([[len(stems[i])] for i in owner])  # (R, P)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    seen = torch.cat([before[:, None].expand(-1, width, -1), causal.expand(len(branches), -1, -1)], -1)
    stem_causal = torch.ones(stem_slots.shape[1], stem_slots.shape[1], dtype=torch.bool).tril()
    return Packed(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        targets=torch.tensor(targets),
        scored=torch.cat([torch.arange(s.start, s.stop) for s in branches]),
        stems=stem_slots,
        branches=branch_slots,
        owner=torch.tensor(owner),
        order=order,
        stem_bias=_bias(stem_causal[None], dtype),
        branch_bias=_bias(seen, dtype),
    )


def pack_rows(input_ids: Tensor, attention_mask: Tensor, completion_width: int, dtype: torch.dtype) -> Packed | None:
    """`pack` for padded rows `(B, P + T)` whose last `completion_width` columns are the completions."""
    prompts, completions = (
        [row[kept].tolist() for row, kept in zip(input_ids[:, columns], attention_mask[:, columns].bool(), strict=True)]
        for columns in (slice(None, -completion_width), slice(-completion_width, None))
    )
    packed = pack(prompts, completions, dtype)
    return None if packed is None else packed.to(input_ids.device)


def _slots(spans: Sequence[range], width: int | None = None) -> Tensor:
    table = torch.zeros(len(spans), width or max(map(len, spans)), dtype=torch.long)
    for row, span in enumerate(spans):
        table[row, : len(span)] = torch.arange(span.start, span.stop)
    return table


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, Q, K)` visibility as what is added to scores `(B, H_kv, repeats, Q, K)`."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]


def packed_attention(
    _: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, packed: Packed, **__: Any
) -> tuple[Tensor, None]:
    """Attention of a packed sequence: `(1, H, N, D)`, `(1, H_kv, N, D)` twice `-> (1, N, H, D)`."""
    del mask  # transformers makes none for an attention that it does not know; the biases say who sees whom
    n_stem = packed.stems.numel()
    slots = torch.cat([packed.stems.flatten(), packed.branches.flatten()])
    laid_out = [_Spread.apply(t[0].transpose(0, 1), slots, packed.order) for t in (query, key, value)]
    stem_q, stem_k, stem_v = (t[:n_stem].unflatten(0, packed.stems.shape) for t in laid_out)  # (U, P, heads, D)
    branch_q, branch_k, branch_v = (t[n_stem:].unflatten(0, packed.branches.shape) for t in laid_out)
    branch_k = torch.cat([stem_k.index_select(0, packed.owner), branch_k], 1)  # (R, P + T, H_kv, D)
    branch_v = torch.cat([stem_v.index_select(0, packed.owner), branch_v], 1)
    stem_out = _attend(stem_q, stem_k, stem_v, packed.stem_bias, scaling)
    branch_out = _attend(branch_q, branch_k, branch_v, packed.branch_bias, scaling)
    flat = torch.cat([stem_out.flatten(0, 1), branch_out.flatten(0, 1)])  # (U * P + R * T, H, D)
    return _Gather.apply(flat, packed.order)[None], None


class _Spread(torch.autograd.Function):  # type: ignore[misc]
    """Rows of the sequence laid out among stems and branches. A slot counts once: fill-ups have gradient 0."""

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
