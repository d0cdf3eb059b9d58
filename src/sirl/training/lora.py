"""LoRA layers that form their weight before they use it.

PEFT computes `W x + s B (A x)`: two thin products beside every large one, in the adapter's float32, with casts of all
activations around them. On a CPU the casts and thin products cost more than the large product. Here `W' = W + s B A` is
formed once a forward pass and used in one product; autograd gives the same gradients for A and B through W'. Adapters,
saving, loading and disabling stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def materialise_lora(model: Any) -> int:
    """Switch every plain LoRA linear layer of a PEFT model to `W + s B A`; returns how many were switched."""
    layers = [m for m in _lora_layers(model) if _is_plain(m)]
    for module in layers:
        module.fixed_weight = None
        module.forward = MethodType(_forward, module)
    return len(layers)


@contextmanager
def fixed_weights(model: Any) -> Iterator[None]:
    """Form the weights once for many forward passes without gradients: rollouts. A copy of the adapted weights."""
    layers = [m for m in _lora_layers(model) if hasattr(m, "fixed_weight")]
    try:
        with torch.no_grad():
            for module in layers:
                module.fixed_weight = effective_weight(module).detach()  # a Parameter would be registered as one
        yield
    finally:
        for module in layers:
            module.fixed_weight = None


def effective_weight(module: Any) -> Tensor:
    """`W + s B A` of a LoRA layer, `(out, in)`, in the type of `W`; the sum is formed in the adapter's type."""
    base: Tensor = module.base_layer.weight
    if module.merged or module.disable_adapters:
        return base
    weight = base
    for name in module.active_adapters:
        if name in module.lora_A:
            a, b = module.lora_A[name].weight, module.lora_B[name].weight
            weight = torch.addmm(weight.to(a.dtype), b, a, alpha=module.scaling[name])
    return weight.to(base.dtype)


def _forward(self: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    if self.disable_adapters and self.merged:
        self.unmerge()  # as PEFT does
    fixed = self.fixed_weight if not self.disable_adapters else None
    return functional.linear(x, effective_weight(self) if fixed is None else fixed, self.base_layer.bias)


def _lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora import Linear as LoraLinear

    return [m for m in model.modules() if isinstance(m, LoraLinear)]


def _is_plain(module: Any) -> bool:
    """Whether the layer is `W x + s B (A x)` and nothing else; what is not stays PEFT's."""
    from peft.tuners.lora import Linear as LoraLinear

    has_dropout = any(getattr(d, "p", 0.0) > 0 for d in module.lora_dropout.values())
    has_more = bool(module.lora_variant) or any(module.lora_bias.values())  # DoRA and its like, biases of B
    return type(module) is LoraLinear and not (has_dropout or has_more or module.fan_in_fan_out)
