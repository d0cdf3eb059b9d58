"""LoRA layers that form their weight before they use it.

PEFT computes `W x + s B (A x)`: two thin products beside every large one, in the adapter's float32, with casts of all
activations around them. On a CPU the casts and thin products cost more than the large product. Here `W' = W + s B A` is
formed once an update, used in one product forwards and one backwards, and the gradients of A and B come from thin
products in the type of W, so that the large gradient of W' never exists. Adapters, saving, loading and disabling stay
PEFT's. The price is a second copy of the adapted weights.

On accelerators the products are cheap and launching them is not, one at a time for each decoded token. There training
stays PEFT's, and weights are formed for the time of the rollouts alone (`formed_for_rollouts`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import TrainerCallback

from sirl.training.quantised import is_quantised

log = logging.getLogger(__name__)


def materialise_lora(model: Any) -> int:
    """Switch every plain LoRA linear layer of a PEFT model to `W + s B A`; returns how many were switched.

    Not for parameters that are sharded or written to behind autograd's back (FSDP, DeepSpeed).
    """
    layers = [m for m in _lora_layers(model) if _is_plain(m)]
    for module in layers:
        module.formed = None
        module.forward = MethodType(_forward, module)
        module.effective_weight = MethodType(effective_weight, module)  # for `sirl.generation.cpu_decoder`
    return len(layers)


def prepare_lora(trainer: Any) -> None:
    """Have a trainer's LoRA layers form their weights, where that pays and is possible: on a CPU, weights unsharded.

    Adapters on a quantised model stay float32, as on any other; TRL has cast them to bfloat16, where steps are lost.
    """
    if is_quantised(trainer.model):
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if trainer.accelerator.device.type == "cpu" and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        materialise_lora(trainer.model)
        trainer.add_callback(FormedWeights())


def adapters_alone(trainer: Any) -> list[Tensor]:
    """The trained parameters, where those are adapters that are whole on every process; else none."""
    if not is_peft_model(trainer.model) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return []
    return [p for p in trainer.model.parameters() if p.requires_grad]


def forms_for_rollouts(trainer: Any) -> bool:
    """Whether formed weights pay in a trainer's rollouts and are possible: on an accelerator, weights unsharded."""
    on_cpu = trainer.accelerator.device.type == "cpu"  # where `prepare_lora` has formed them
    return not (on_cpu or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


@contextmanager
def formed_for_rollouts(model: Any, room: int | None) -> Iterator[int]:
    """`model` without gradients, its plain LoRA layers as one product with `W + s B A`; yields how many they are.

    The weights themselves are not touched: to add an adapter to a bfloat16 weight and to take it away again would leave
    another weight. `room` (bytes) is the memory that is free; none are formed where they would take half of it.
    """
    layers = [m for m in _lora_layers(model) if _is_plain(m)]
    needed = sum(m.base_layer.weight.numel() * m.base_layer.weight.element_size() for m in layers)
    if room is not None and 2 * needed > room:
        log.info("adapters are not merged for rollouts: %d bytes of %d free", needed, room)
        layers = []
    try:
        for module in layers:
            module.formed = None
            # now, and not at the first use, which may be under an autocast that would round the sum
            module.forward = partial(functional.linear, weight=effective_weight(module), bias=module.base_layer.bias)
        yield len(layers)
    finally:
        for module in layers:  # of some there is nothing to take back, if memory ran out on the way
            vars(module).pop("forward", None)
            vars(module).pop("formed", None)


class FormedWeights(TrainerCallback):  # type: ignore[misc]
    """Drops formed weights whenever the trainer has changed an adapter."""

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        forget_formed(model)

    def on_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        forget_formed(model)


def forget_formed(model: Any) -> None:
    """Have every weight formed anew at its next use."""
    for module in _lora_layers(model):
        if hasattr(module, "formed"):
            module.formed = None


def effective_weight(module: Any) -> Tensor:
    """`W + s B A` of a LoRA layer, `(out, in)`, in the type of `W`; the sum is formed in the adapter's type.

    Carries no gradient. Kept until an adapter changes, which its tensors' version counters tell, or `forget_formed`:
    fused optimizers write past the counters.
    """
    base: Tensor = module.base_layer.weight
    adapters = _active(module)
    if not adapters:
        return base
    key = tuple((name, a._version, b._version, id(a), id(b), scale) for name, a, b, scale in adapters)
    if module.formed is None or module.formed[0] != key:
        # rollouts run in inference mode, whose tensors cannot take part in training afterwards
        with torch.inference_mode(False), torch.no_grad():
            weight = base
            for _, a, b, scale in adapters:
                weight = torch.addmm(weight.to(a.dtype), b, a, alpha=scale)
            module.formed = (key, weight.to(base.dtype))
    formed: Tensor = module.formed[1]
    return formed


def _active(module: Any) -> list[tuple[str, Tensor, Tensor, float]]:
    """Name, A `(r, in)`, B `(out, r)` and scale of each adapter that is to be added to the base weight."""
    if module.merged or module.disable_adapters:
        return []
    return [
        (name, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
        for name in module.active_adapters
        if name in module.lora_A
    ]


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if self.disable_adapters and self.merged:
        self.unmerge()  # as PEFT does
    bias = self.base_layer.bias
    adapters = _active(self) if torch.is_grad_enabled() else []
    if not adapters:  # without gradients any number of them is in the formed weight
        return functional.linear(x, effective_weight(self), bias)
    if len(adapters) > 1:
        result: Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    _, a, b, scale = adapters[0]
    out: Tensor = _AdaptedLinear.apply(x, effective_weight(self), bias, a, b, scale)
    return out


class _AdaptedLinear(torch.autograd.Function):  # type: ignore[misc]
    """`x W'^T + bias` with `W' = W + s B A` given; gradients for x, A and B as if it had been `W x + s B (A x)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b = ctx.saved_tensors
        rows, out = x.flatten(0, -2), grad.flatten(0, -2)  # (N, in), (N, out)
        to_x = grad @ weight if ctx.needs_input_grad[0] else None
        to_b = out.t() @ (rows @ a.to(x.dtype).t())  # (out, r)
        to_a = (out @ b.to(x.dtype)).t() @ rows  # (r, in)
        return to_x, None, None, to_a.to(a.dtype) * ctx.scale, to_b.to(b.dtype) * ctx.scale, None


def _lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora import Linear as LoraLinear

    return [m for m in model.modules() if isinstance(m, LoraLinear)]


def _is_plain(module: Any) -> bool:
    """Whether the layer is `W x + s B (A x)` and nothing else; what is not stays PEFT's."""
    from peft.tuners.lora import Linear as LoraLinear

    has_dropout = any(getattr(d, "p", 0.0) > 0 for d in module.lora_dropout.values())
    has_more = bool(module.lora_variant) or any(module.lora_bias.values())  # DoRA and its like, biases of B
    return type(module) is LoraLinear and not (has_dropout or has_more or module.fan_in_fan_out)
