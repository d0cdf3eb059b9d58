"""Norms, rotary embeddings and gated MLPs of Llama-like models that keep less for the backward pass.

transformers' RMSNorm goes through float32 in six operations, each of which leaves autograd a tensor of the activations'
size, the gated MLP keeps four where two are enough, and turning queries and keys takes seven passes over them where
three are. On a CPU, where memory is what such operations cost, they take as long as the matrix products. Same values,
up to rounding.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.nn import functional
from transformers.activations import SiLUActivation

from sirl.training.packed import add_packed_forward, packed_attention

ROWS = 512
"""Tokens normalised at a time: what is in float32 for a moment stays in the processor's cache."""

NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm"}
MLPS = {"LlamaMLP", "Qwen2MLP", "Qwen3MLP", "MistralMLP"}
ATTENTIONS = {"LlamaAttention", "Qwen2Attention", "Qwen3Attention", "MistralAttention"}


def enable_packing(model: Any, *, on_cpu: bool) -> None:
    """Give a model, or what PEFT has wrapped around it, `add_packed_forward`; `on_cpu` also `use_cpu_layers`."""
    base = model.get_base_model() if is_peft_model(model) else model
    add_packed_forward(base)
    if on_cpu:
        use_cpu_layers(base)


def use_cpu_layers(model: Any) -> int:
    """Switch the model's norms, attentions and MLPs to the functions below; returns how many were switched.

    transformers' modules stay, with their parameters and linear layers.
    """
    switched = 0
    for module in model.modules():
        kind = type(module).__name__
        if kind in NORMS:
            module.forward = MethodType(_norm, module)
        elif kind in MLPS and isinstance(module.act_fn, SiLUActivation):
            module.forward = MethodType(_mlp, module)
        elif kind in ATTENTIONS:
            module.forward = MethodType(_attention, module)
        else:
            continue
        switched += 1
    return switched


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    out: Tensor = RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return out


def _mlp(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))
    return out


def _attention(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    if "packed" not in kwargs:
        plain: tuple[Tensor, None] = type(self).forward(self, hidden_states, position_embeddings, *args, **kwargs)
        return plain
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    query, key, value = (p(hidden_states).view(shape) for p in (self.q_proj, self.k_proj, self.v_proj))
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    cos, sin = (t.unsqueeze(-2) for t in position_embeddings)  # (1, N, 1, D)
    query, key, value = (t.transpose(1, 2) for t in (Rotary.apply(query, cos, sin), Rotary.apply(key, cos, sin), value))
    out, _ = packed_attention(self, query, key, value, None, scaling=self.scaling, packed=kwargs["packed"])
    return self.o_proj(out.flatten(-2)), None


class Rotary(torch.autograd.Function):  # type: ignore[misc]
    """`x cos + rotate_half(x) sin` of `(B, S, H, D)`; cos and sin `(B, S, 1, D)` (Su et al., arXiv 2104.09864)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)  # rolling by half changes sides, but no sign
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(half, -1), sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return (grad * cos).add_((grad * sin).roll(cos.shape[-1] // 2, -1)), None, None


class RMSNorm(torch.autograd.Function):  # type: ignore[misc]
    """`weight * x / sqrt(mean(x^2) + eps)` over the last dimension, in float32 inside (Zhang & Sennrich, 2019)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x)
        rows, normed = x.reshape(-1, x.shape[-1]), out.view(-1, x.shape[-1])
        scales = torch.empty(len(rows), 1, device=x.device)
        for part in _parts(len(rows)):
            h = rows[part].to(torch.float32, copy=True)
            scale = torch.linalg.vecdot(h, h).div_(h.shape[-1]).add_(eps).rsqrt_()[:, None]
            normed[part] = h.mul_(scale)  # rounded before the weight is applied, as in transformers
            scales[part] = scale
        ctx.save_for_backward(x, weight, scales)
        return out.mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scales = ctx.saved_tensors
        to_x = torch.empty_like(x)
        rows, grads, out = (t.reshape(-1, x.shape[-1]) for t in (x, grad, to_x))
        to_weight = torch.zeros(weight.shape, device=x.device) if ctx.needs_input_grad[1] else None
        wide = weight.float()
        for part in _parts(len(rows)):
            h, g = (t[part].to(torch.float32, copy=True) for t in (rows, grads))
            h.mul_(scales[part])
            if to_weight is not None:
                to_weight += (g * h).sum(0)
            g.mul_(wide)
            along = torch.linalg.vecdot(g, h).div_(-h.shape[-1])[:, None]
            out[part] = g.addcmul_(h, along).mul_(scales[part])
        return to_x, None if to_weight is None else to_weight.to(weight.dtype), None


class SwiGLU(torch.autograd.Function):  # type: ignore[misc]
    """`silu(gate) * up` (Shazeer, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), functional.silu(gate).mul_(grad)


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, rows, ROWS)]
