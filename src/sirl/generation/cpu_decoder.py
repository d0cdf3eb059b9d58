"""A Llama-like decoder for inference on a CPU, with its weights laid out for the processor's matrix unit.

torch lays a weight out anew at every product, which for a batch of decoded tokens costs as much as the product. This
model lays each out once, makes one product of those that read the same input, and has oneDNN apply SiLU, gate and
residual sums inside the products. `torch.compile` with frozen weights does the same, but would have to compile at every
update of an RL policy. The function is that of the transformers model that it is made from, up to rounding, and is
called as that is.

The price is a second copy of the weights. `prepacked` says where the model cannot be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sirl.generation.cache import supports_decode_cache

MAX_PACKED_BYTES = 4 << 30
"""Larger models keep one copy of their weights."""

ROWS = 128
"""Rows that the layout of the weights is chosen for: a batch of decoded tokens."""


@dataclass(frozen=True)
class _Product:
    """`x W^T + b` with `W` laid out for the processor, and what may be done to it before it is written."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, *layers: Any) -> _Product:
        """One product for linear layers that read the same input."""
        weights = [layer.weight if type(layer) is nn.Linear else layer.effective_weight() for layer in layers]
        biases = [getattr(layer, "base_layer", layer).bias for layer in layers]
        joined = torch.cat(weights) if len(weights) > 1 else weights[0]
        packed = torch.ops.mkldnn._reorder_linear_weight(joined.detach(), ROWS)
        if all(b is None for b in biases):
            return cls(packed, None)
        full = [w.new_zeros(len(w)) if b is None else b.detach() for w, b in zip(weights, biases, strict=True)]
        return cls(packed, torch.cat(full))

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], "")
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`x W^T + b + other`."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, other, self.weight, self.bias, "add")
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`(x W^T + b) * other`."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, other, self.weight, self.bias, "mul")
        return out


class _Norm:
    def __init__(self, module: Any) -> None:
        self.weight, self.eps = module.weight.detach(), module.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Layer:
    def __init__(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim, self.scaling, self.index = attention.head_dim, attention.scaling, attention.layer_idx
        self.before_attention, self.before_mlp = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.q_norm, self.k_norm = (
            _Norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )
        self.qkv = _Product.of(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _Product.of(attention.o_proj)
        self.gate, self.up, self.down = (_Product.of(p) for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, groups: list[tuple[Any, Tensor | None, int]]) -> Tensor:
        """`(B, S, hidden)`, rotary factors `(B, S, 1, D)`; cache, mask `(rows, 1, S, L)` and rows of each group."""
        batch, width, _ = x.shape
        heads = self.qkv(self.before_attention(x)).view(batch, width, -1, self.dim)
        turned = heads[:, :, : self.heads + self.kv_heads]
        if self.q_norm is not None and self.k_norm is not None:
            turned = torch.cat([self.q_norm(turned[:, :, : self.heads]), self.k_norm(turned[:, :, self.heads :])], 2)
        turned = torch.addcmul(turned * cos, turned.roll(self.dim // 2, -1), sin).transpose(1, 2)
        values = heads[:, :, self.heads + self.kv_heads :].transpose(1, 2)
        outs, first = [], 0
        for cache, mask, rows in groups:
            own = slice(first, first + rows)
            first += rows
            seen_keys, seen_values = cache.update(turned[own, self.heads :], values[own], self.index)
            out = functional.scaled_dot_product_attention(
                turned[own, : self.heads],
                seen_keys,
                seen_values,
                attn_mask=mask,
                is_causal=mask is None and width > 1,
                scale=self.scaling,
                enable_gqa=True,
            )
            outs.append(out.transpose(1, 2).reshape(rows, width, -1))
        x = self.out.plus(outs[0] if len(outs) == 1 else torch.cat(outs), x)
        inner = self.before_mlp(x)
        return self.down.plus(self.up.times(inner, self.gate(inner, "swish")), x)


class PrepackedModel:
    """A causal LM's weights as they are when this is made, behind the part of its `forward` that decoding needs."""

    def __init__(self, model: Any) -> None:
        inner = model.base_model
        config = model.config
        self.device = model.device
        self.embed, self.rotary = inner.embed_tokens, inner.rotary_emb
        with torch.inference_mode():
            self.layers = [_Layer(layer, config) for layer in inner.layers]
            self.norm, self.head = _Norm(inner.norm), _Product.of(model.lm_head)

    def __call__(
        self,
        *,
        input_ids: Tensor,
        past_key_values: Any,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | Sequence[Tensor] | None = None,
        logits_to_keep: int = 1,
        use_cache: bool = True,
    ) -> SimpleNamespace:
        """Logits `(B, logits_to_keep, V)` of token ids `(B, S)` behind what the cache holds.

        The mask is `(B, L)`, over the cache and these tokens. A single token a row may come with several caches, each
        of some rows, and as many masks, `(rows, 1, 1, L)`.
        """
        del use_cache  # always
        batch, width = input_ids.shape
        if isinstance(past_key_values, Sequence):
            assert attention_mask is not None
            groups = [(c, m, len(m)) for c, m in zip(past_key_values, attention_mask, strict=True)]
        else:
            before = past_key_values.get_seq_length()
            if position_ids is None:
                position_ids = torch.arange(before, before + width, device=input_ids.device)[None]
            groups = [(past_key_values, _causal(attention_mask, before, width), batch)]
        x = self.embed(input_ids)
        cos, sin = (t.unsqueeze(2) for t in self.rotary(x, position_ids))  # (B, S, 1, D)
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)  # rolling by half changes sides, but no sign
        for layer in self.layers:
            x = layer(x, cos, sin, groups)
        return SimpleNamespace(logits=self.head(self.norm(x[:, -logits_to_keep:])))


def _causal(mask: Tensor | None, before: int, width: int) -> Tensor | None:
    """A mask of columns `(B, L)` as what each of the last `width` tokens sees, `(B, 1, S, L)`."""
    if mask is None:
        return None
    causal = torch.ones(width, before + width, dtype=torch.bool, device=mask.device).tril(before)
    return mask[:, None, None].bool() & causal


def prepacked(model: Any) -> PrepackedModel | None:
    """`PrepackedModel` of a causal LM (of PEFT's too), or None where there is none: on GPUs, without oneDNN, for other
    architectures and layers, for models with hooks, which it would pass by, and for those too large to hold twice."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return PrepackedModel(model) if _can_fuse(model) else None


def _can_fuse(model: Any) -> bool:
    config = model.config
    if type(model).__name__ not in {f"{name}ForCausalLM" for name in ("Llama", "Qwen2", "Qwen3", "Mistral")}:
        return False
    if not (supports_decode_cache(config) and config.hidden_act == "silu" and model.device.type == "cpu"):
        return False
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    if not (
        model.dtype == torch.float32 or (model.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    ):
        return False
    head = model.get_output_embeddings()  # may have our own hook, see `contiguous_head`
    if any(m._forward_hooks or (m._forward_pre_hooks and m is not head) for m in model.modules()):
        return False
    linear = [m for layer in model.base_model.layers for m in _linear_layers(layer)]
    if any(type(m) is not nn.Linear and not hasattr(m, "effective_weight") for m in (*linear, model.lm_head)):
        return False
    return sum(p.numel() * p.element_size() for p in model.parameters()) <= MAX_PACKED_BYTES


def _linear_layers(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [getattr(attention, f"{name}_proj") for name in "qkvo"]
    return [*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
