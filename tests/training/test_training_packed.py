"""Packed scoring gives what a padded batch gives: log-probabilities, entropies and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import sirl.entropy
import sirl.generation.decode
from sirl.entropy import entropy_from_logits, score_tokens
from sirl.generation.scoring import pad_pairs
from sirl.training.packed import add_packed_forward, pack, pack_rows, packed_scores
from tiny_models import FAMILIES, tiny_model

PROMPTS = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10], [11, 12, 13], [40], [40], [11, 12, 13], [60, 61]]
COMPLETIONS = [[20, 21, 22], [23], [24, 25, 26, 27, 28], [29, 30], [31, 32, 33], [34], []]


BEGINNING = [70, 71, 72]
"""What all prompts may begin with, as with a system prompt."""

Prompts = list[list[int]]


def padded_scores(model: Any, prompts: Prompts, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of all completion tokens, row after row, by a plain padded pass."""
    ids, mask, width = pad_pairs(prompts, COMPLETIONS, pad_id=0)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    logits = out.logits[:, -width - 1 : -1] / temperature
    logps = logits.log_softmax(-1).gather(-1, ids[:, -width:, None]).squeeze(-1)
    kept = mask[:, -width:].bool()
    return logps[kept], entropy_from_logits(logits)[kept]


@pytest.mark.parametrize("beginning", [[], BEGINNING])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_equals_padded(
    family: str, temperature: float, apart: bool, beginning: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*beginning, *p] for p in PROMPTS]
    if apart:  # long prompts are attended to by themselves
        monkeypatch.setattr(sirl.generation.decode, "WORTH_PADDING", 1)
    model = tiny_model(family)
    expected_logps, expected_entropies = padded_scores(model, prompts, temperature)
    weights = torch.linspace(-1, 1, len(expected_logps))
    (expected_logps * weights).sum().backward()
    expected_grads = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    add_packed_forward(model)
    packed = pack(prompts, COMPLETIONS, torch.float32)
    assert packed is not None
    if apart:
        assert len(packed.parts) > 1
    else:
        assert len(packed.parts) == 1
    logps, entropies = packed_scores(model, packed, temperature, True)
    assert entropies is not None
    torch.testing.assert_close(logps, expected_logps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropies, expected_entropies, atol=1e-4, rtol=1e-4)
    assert not entropies.requires_grad
    (logps * weights).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(parameter.grad, expected_grads[name], atol=1e-5, rtol=1e-3)
    assert model.config._attn_implementation == "sdpa", "put back for whoever calls next"


def test_as_many_branches_on_every_stem() -> None:
    """Then a stem's keys are repeated without a gather."""
    prompts = [[*BEGINNING, 5, 6], [*BEGINNING, 5, 6], [*BEGINNING, 7, 8, 9], [*BEGINNING, 7, 8, 9]]
    completions = [[20, 21, 22], [23], [24, 25], [26, 27]]
    model = tiny_model("llama")
    add_packed_forward(model)
    packed = pack(prompts, completions, torch.float32)
    assert packed is not None
    assert [part.each for part in packed.parts] == [2]
    gathered = replace(packed, parts=tuple(replace(part, each=None) for part in packed.parts))
    results = []
    for one in (packed, gathered):
        model.zero_grad()
        logps, _ = packed_scores(model, one, 1.0, False)
        logps.square().sum().backward()
        results.append([logps.detach(), *(p.grad for p in model.parameters())])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("beginning", [[], BEGINNING])
def test_nothing_is_computed_twice(beginning: list[int]) -> None:
    packed = pack([[*beginning, *p] for p in PROMPTS], COMPLETIONS, torch.float32)
    assert packed is not None
    prompts = {tuple(p) for p, c in zip(PROMPTS, COMPLETIONS, strict=True) if c}
    tokens = len(beginning) + sum(len(p) - 1 for p in prompts) + sum(map(len, COMPLETIONS))
    assert packed.input_ids.shape == (1, tokens)
    assert len(packed.scored) == sum(map(len, COMPLETIONS))


def test_branches_do_not_see_each_other() -> None:
    model = tiny_model("llama")
    add_packed_forward(model)
    both = pack([[5, 6, 7], [5, 6, 7]], [[20, 21], [30, 31, 32]], torch.float32)
    one = pack([[5, 6, 7]], [[30, 31, 32]], torch.float32)
    assert both is not None
    assert one is not None
    with torch.no_grad():
        together, _ = packed_scores(model, both, 1.0, False)
        alone, _ = packed_scores(model, one, 1.0, False)
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=1e-5)


def test_pack_rows_reads_what_the_mask_shows() -> None:
    ids, mask, width = pad_pairs(PROMPTS, COMPLETIONS, pad_id=99)
    left, right = torch.full((len(ids), 3), 99), torch.full((len(ids), 2), 99)
    wide = pack_rows(
        torch.cat([left, ids, right], 1),
        torch.cat([left * 0, mask, right * 0], 1),
        width + 2,
        torch.float32,
    )
    plain = pack(PROMPTS, COMPLETIONS, torch.float32)
    assert wide is not None
    assert plain is not None
    for name in ("input_ids", "position_ids", "targets", "scored", "slots", "order", "copies"):
        assert torch.equal(getattr(wide, name), getattr(plain, name)), name
    assert pack([[1, 2]], [[]], torch.float32) is None


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("targets_a_place", [1, 3])
def test_score_tokens_against_full_logits(
    temperature: float, targets_a_place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More places than a slice and than a product hold, a vocabulary that is no multiple of a block."""
    monkeypatch.setattr(sirl.entropy, "BYTES_PER_PRODUCT", 301 * 4 * 251)  # 251 places, no multiple of a slice
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1100, 8, generator=generator, dtype=torch.float64)
    head = torch.randn(301, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 301, (1100, targets_a_place), generator=generator)
    weights = torch.randn(1100, targets_a_place, generator=generator)
    inputs = [hidden.float().requires_grad_(), head.float().requires_grad_()]
    shape = (1100,) if targets_a_place == 1 else (1100, targets_a_place)
    logps, entropies = score_tokens(inputs[0], inputs[1], targets.view(shape), temperature)
    assert logps.shape == shape
    assert entropies is not None
    (logps * weights.view(shape)).sum().backward()
    exact = [hidden.requires_grad_(), head.requires_grad_()]
    logits = exact[0] @ exact[1].t() / temperature
    expected = logits.log_softmax(-1).gather(-1, targets)
    (expected * weights).sum().backward()
    torch.testing.assert_close(logps.double(), expected.view(shape), atol=1e-4, rtol=0)
    plain = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(entropies.double(), plain, atol=1e-4, rtol=0)
    for got, want in zip(inputs, exact, strict=True):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=1e-3, rtol=1e-3)
    without = score_tokens(inputs[0], inputs[1], targets.view(shape), temperature, entropy=False)
    torch.testing.assert_close(without[0], logps, atol=1e-5, rtol=0)
    assert without[1] is None
