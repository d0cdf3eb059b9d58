"""Over-refusal: benign prompts put to the model as they are, with the machinery of the attacks.

Following XSTest (Röttger et al. 2024, arXiv 2308.01263) and OR-Bench (Cui et al. 2024, arXiv 2405.20947), a refusal of
a harmless request counts as a failure; prompts that only sound harmful are told from plain ones by their category.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sirl.attacks.base import PLACEHOLDER, TemplateAttack
from sirl.attacks.run import BATCH, Progress, run_attacks
from sirl.generation.base import Engine
from sirl.records import Attempt, Decoding, Phase, Prompt


class Benign(TemplateAttack):
    """A benign prompt, word for word. Not in `ATTACKS`: it is no attack, only the same machinery."""

    name = "benign"
    source = "Röttger et al. 2024 (XSTest), arXiv 2308.01263"
    description = "a benign prompt as it is, for the over-refusal check"
    template = PLACEHOLDER


def run_overrefusal(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    phase: Phase,
    decodings: Sequence[Decoding] = ("greedy",),
    max_new_tokens: int = 64,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    batch: int = BATCH,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> list[Attempt]:
    """Ask benign prompts; attempts have `attack == "benign"` and the prompt's category. Else as `run_attacks`."""
    return run_attacks(
        engine,
        [Benign()],
        prompts,
        phase=phase,
        decodings=decodings,
        max_new_tokens=max_new_tokens,
        seed=seed,
        path=path,
        batch=batch,
        retry_errors=retry_errors,
        progress=progress,
    )
