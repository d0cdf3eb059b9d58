"""Norms, rotary embeddings and MLPs that keep less: the values and gradients of transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from precision import check_no_worse
from sirl.training.cpu_layers import RMSNorm, Rotary, SwiGLU, use_cpu_layers
from tiny_models import FAMILIES, tiny_model

IDS = torch.randint(3, 250, (3, 200), generator=torch.Generator().manual_seed(0))  # more tokens than go at a time


def forward_and_backward(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of all weights, in the dtype that they come in."""
    logits = model(input_ids=IDS).logits
    logits.to(max(torch.float32, logits.dtype, key=lambda d: d.itemsize)).log_softmax(-1)[..., 5].mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


def lean_model(family: str, **settings: Any) -> Any:
    model = tiny_model(family, **settings)
    norms = 4 if family == "qwen3" else 2
    assert use_cpu_layers(model) == model.config.num_hidden_layers * (norms + 2) + 1  # an attention, an MLP
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_same(family: str) -> None:
    expected, expected_grads = forward_and_backward(tiny_model(family))
    got, grads = forward_and_backward(lean_model(family))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    for name, gradient in expected_grads.items():
        assert gradient.abs().max() > 0
        assert (grads[name] - gradient).norm() / gradient.norm() < 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_no_further_from_the_truth(family: str) -> None:
    """Logits, position by position, and the gradient of each weight in units of its own size."""
    logits: list[list[torch.Tensor]] = [[], []]
    gradients: list[list[torch.Tensor]] = [[], []]
    for seed in range(2):
        exact, exact_grads = forward_and_backward(tiny_model(family, seed=seed).bfloat16().double())
        for path, make in enumerate((lean_model, tiny_model)):
            got, grads = forward_and_backward(make(family, seed=seed, dtype=torch.bfloat16))
            logits[path] += list((got - exact).flatten(0, 1))
            gradients[path] += [(grads[n] - g).flatten() / g.square().mean().sqrt() for n, g in exact_grads.items()]
    check_no_worse(*logits)
    check_no_worse(*gradients)


def test_gradients_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(*shape, generator=generator).double().requires_grad_() for shape in ((3, 5, 8), (8,)))

    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()

    for function, reference in (
        (lambda x, w: RMSNorm.apply(x, w, 1e-5), plain),
        (lambda x, w: SwiGLU.apply(x, x * w), lambda x, w: torch.nn.functional.silu(x) * (x * w)),
    ):
        outs = [f(x, weight) for f in (function, reference)]
        torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)
        grads = [torch.autograd.grad(out.pow(2).sum(), (x, weight)) for out in outs]
        for got, want in zip(*grads, strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_rotary_embeddings_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 7, 3, 8, generator=generator).double().requires_grad_()
    angles = torch.rand(2, 7, 4, generator=generator).double() * 6
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    turned, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)
    outs = [turned.transpose(1, 2), Rotary.apply(x, cos[:, :, None], sin[:, :, None])]
    torch.testing.assert_close(outs[1], outs[0])
    weights = torch.randn(x.shape, generator=generator).double()
    grads = [torch.autograd.grad((out * weights).sum(), x)[0] for out in outs]
    torch.testing.assert_close(grads[1], grads[0])


def test_other_models_are_left_alone() -> None:
    assert use_cpu_layers(tiny_model("gpt2")) == 0
    model = tiny_model("llama", hidden_act="gelu")
    assert use_cpu_layers(model) == 3 * model.config.num_hidden_layers + 1, "norms and attention alone"
