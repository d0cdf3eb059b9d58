"""What exact entropies cost: in rollouts, where they ride along, and in the training-side pass, in time and memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.workers import SIRL_ENV, Contender, Turns, forget_peak, peak_bytes, resident_bytes
from benchmarks.workload import Size, prompt_ids

BATCH, LENGTH, VOCAB, HIDDEN = 8, 512, 131_072, 576
"""The training-side case: completions, their tokens, a large vocabulary, and the bundled model's width."""


def rollouts(turns: Turns, folder: Path, size: Size, with_entropy: bool) -> None:
    """Our rollouts as they are, or drawing tokens alone."""
    import sirl.generation.decode as decode
    from sirl.generation.base import SamplingParams
    from sirl.generation.local import LocalEngine
    from sirl.models import load_model, load_tokenizer

    if not with_entropy:
        decode.sample_with_entropy = _sample_alone  # type: ignore[assignment]
    engine = LocalEngine(load_model(str(folder)), load_tokenizer(str(folder)))
    prompts = prompt_ids(folder, size.prompts)
    while turns.next():  # the same seed each time: the same tokens, with and without
        params = SamplingParams(max_new_tokens=size.tokens, temperature=1.0, n=size.group, seed=1)
        groups = engine.rollout(prompts, params)
        turns.done(tokens=sum(len(r.token_ids) for group in groups for r in group))


def _sample_alone(logits: Tensor, uniforms: Tensor, _: float) -> tuple[Tensor, Tensor, Tensor]:
    """`sample_with_entropy` without entropies and log-probabilities."""
    from sirl.entropy import ROWS_PER_SLICE, _inverse_cdf

    drawn = []
    for rows, u in zip(logits.split(ROWS_PER_SLICE), uniforms.split(ROWS_PER_SLICE), strict=True):
        x = rows.to(torch.float32, copy=True)
        x.sub_(x.amax(-1)[:, None])
        drawn.append(_inverse_cdf(x.exp_(), u))
    nothing = torch.zeros(len(logits))
    return torch.cat(drawn), nothing, nothing


def training_side(turns: Turns, how: str) -> None:
    """Log-probabilities, entropies and gradients of 8 x 512 tokens, vocabulary 128k: ours, or with all logits there."""
    from sirl.entropy import score_tokens

    hidden = torch.randn(BATCH * LENGTH, HIDDEN).bfloat16().requires_grad_()
    head = torch.randn(VOCAB, HIDDEN).mul_(0.05).bfloat16()
    targets = torch.randint(0, VOCAB, (BATCH * LENGTH,))
    (torch.randn(256, HIDDEN).bfloat16() @ head[:256].t()).sum()  # threads and libraries are there
    while turns.next():
        hidden.grad = None
        before = resident_bytes()
        forget_peak()
        started = time.perf_counter()
        if how == "sirl":
            logps, entropies = score_tokens(hidden, head, targets)
            assert entropies is not None
        else:
            logp = (hidden @ head.t()).float().log_softmax(-1)
            logps = logp.gather(-1, targets[:, None]).squeeze(-1)
            with torch.no_grad():
                entropies = -(logp.exp() * logp).sum(-1)
        total = entropies.mean().item()
        logps.mean().backward()
        seconds = time.perf_counter() - started
        turns.done(seconds=seconds, extra_bytes=peak_bytes() - before, entropy=total)


def contenders(folder: Path, size: Size) -> dict[str, list[Contender]]:
    """Two comparisons: rollouts with and without, training side ours and plain."""
    given: dict[str, Any] = {"folder": folder, "size": size}
    return {
        "rollouts": [
            Contender("with entropy", rollouts, {**given, "with_entropy": True}, SIRL_ENV),
            Contender("without", rollouts, {**given, "with_entropy": False}, SIRL_ENV),
        ],
        # without the malloc settings of `sirl`: memory that is freed must go back to be counted
        "training": [
            Contender("sirl, 8 x 512 x 128k", training_side, {"how": "sirl"}),
            Contender("all logits, 8 x 512 x 128k", training_side, {"how": "all logits"}),
        ],
    }
