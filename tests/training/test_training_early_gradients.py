"""Gradients that are taken at once are those of the whole loss, and leave no activations behind."""

from __future__ import annotations

import weakref

import torch

from sirl.training.early_gradients import with_early_gradients


def test_gradients_are_those_of_the_sum() -> None:
    torch.manual_seed(0)
    a, b, unused = (torch.randn(4, 4, requires_grad=True) for _ in range(3))
    x = torch.randn(3, 4)

    def held() -> torch.Tensor:
        return (x @ a @ b).tanh().square().mean()

    def own() -> torch.Tensor:
        return (x @ b).exp().mean()

    (own() + 2.5 * held() + 2.5 * held()).backward()
    expected = [a.grad, b.grad]
    a.grad = b.grad = None
    early = [with_early_gradients(held, [a, b, unused]) for _ in range(2)]
    torch.testing.assert_close(early[0], held().detach())
    (own() + 2.5 * early[0] + 2.5 * early[1]).backward()
    torch.testing.assert_close([a.grad, b.grad], expected)
    assert unused.grad is None


def test_activations_are_gone_before_the_backward_pass() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    made = []

    def held() -> torch.Tensor:
        hidden = (torch.ones(2, 4) @ weight).exp()
        made.append(weakref.ref(hidden))
        return hidden.square().sum()

    loss = with_early_gradients(held, [weight])
    assert made[0]() is None
    loss.backward()
    assert weight.grad is not None
