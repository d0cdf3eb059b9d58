"""Rounding is held against rounding: what a fast path may lose, whatever the processor.

How a product in bfloat16 is rounded depends on the processor, so that a fixed bound on its error holds on one and fails
on another. What a test can ask anywhere: measure both the path under test and the plain one against float64, over many
samples, and let the first be no worse than the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Z = 4.0
"""Standard errors of a finding: about 3 in 100,000 for each comparison of two equally good paths."""


def check_no_worse(ours: Sequence[Tensor], plain: Sequence[Tensor], *, margin: float = 1.1) -> None:
    """Errors against float64 of one path and of the plain one: no larger, no more biased, no stray value.

    Arguments:
        ours: a tensor of errors for each sample (say, one for each token of a completion); samples are what the
            standard errors count, so there should be dozens.
        plain: the errors of the plain path at the same places.
        margin: the factor by which the root mean square may be larger.
    """
    assert len(ours) == len(plain) >= 30
    squares = torch.stack([o.double().square().mean() for o in ours])
    theirs = torch.stack([p.double().square().mean() for p in plain])
    worse = squares - margin**2 * theirs
    size = (squares.mean().sqrt().item(), theirs.mean().sqrt().item())
    assert worse.mean() <= Z * _standard_error(worse), f"root mean square {size[0]:.4g}, plain {size[1]:.4g}"
    shift = torch.stack([(o.double() - p.double()).mean() for o, p in zip(ours, plain, strict=True)])
    allowed = Z * float(_standard_error(shift)) + 0.05 * size[1]
    assert abs(shift.mean()) <= allowed, f"shifted by {shift.mean():.4g}, where {allowed:.4g} is chance"
    tops = [max(float(e.abs().max()) for e in errors) for errors in (ours, plain)]
    assert tops[0] <= 3 * tops[1], f"largest error {tops[0]:.4g}, plain {tops[1]:.4g}"


def _standard_error(values: Tensor) -> Tensor:
    return values.std() / len(values) ** 0.5
