"""A loss whose gradients are taken at once, so that its activations do not wait for the rest of the update.

Retention and pairs add their losses to GRPO's. Summed first and differentiated afterwards, the activations of all
three are in memory at the same time. Here each is differentiated while it is computed; the update's own backward pass
only scales the gradients and hands them on, so that accumulation and hooks (DDP) see one gradient as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def with_early_gradients(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The scalar `loss()`, its gradients to `parameters` already known and its activations freed.

    `loss` must depend on nothing else that wants a gradient. The gradients are kept until the backward pass: a copy of
    the trained parameters, which pays for adapters.
    """
    result: Tensor = _Early.apply(loss, *parameters)
    return result


class _Early(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, loss: Callable[[], Tensor], *parameters: Tensor) -> Tensor:
        with torch.enable_grad():
            value = loss()
            ctx.gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(None if g is None else g * scale for g in ctx.gradients))
