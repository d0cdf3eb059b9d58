"""Over-refusal: benign prompts put to the model as they are, with the machinery of the attacks.

Following XSTest (Röttger et al. 2024, arXiv 2308.01263) and OR-Bench (Cui et al. 2024, arXiv 2405.20947), a refusal of
a benign request counts as a failure; prompts that only sound harmful are told from plain ones by their category.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sirl.attacks.base import PLACEHOLDER, TemplateAttack
from sirl.attacks.run import BATCH, run_attacks
from sirl.errors import UserError
from sirl.generation.base import Engine
from sirl.progress import Progress
from sirl.prompts import drawn_prompts, load_prompts, parts_of
from sirl.prompts.columns import label as cell
from sirl.prompts.hub_data import HUB_SETS, hub_rows
from sirl.records import Attempt, Decoding, Phase, Prompt


def load_benign(source: str, limit: int | None, seed: int, flag: str) -> list[Prompt]:
    """Benign prompts with their categories: names of `HUB_SETS` and what `load_prompts` takes, with commas.

    Raises:
        UserError: there is no such set, or the hub cannot be reached.
    """
    parts = parts_of(source)
    known = [name for name in HUB_SETS if name in parts]
    if not known:
        return load_prompts(source, limit=limit, seed=seed, flag=flag, with_category=True)
    prompts = [prompt for name in known for prompt in _published(name, flag)]
    others = [part for part in parts if part not in HUB_SETS]
    if others:
        prompts += load_prompts(",".join(others), flag=flag, with_category=True)
    return drawn_prompts(prompts, limit, seed)


def _published(name: str, flag: str) -> list[Prompt]:
    known = HUB_SETS[name]
    try:
        rows = list(hub_rows(known.source, known.split, flag, lambda _: known.columns)[1])
    except UserError as error:
        raise UserError(
            f"{flag}: {name} stands for {known.source} on the hub, which cannot be reached; download it and "
            f"give the file ({known.wanted}) ({error.__cause__})"
        ) from error
    prompts = [
        Prompt(f"{name}-{n}", text, cell(row[known.category]), known.source)
        for n, row in enumerate(rows, 1)
        if (known.safe is None or row[known.safe[0]] == known.safe[1]) and (text := cell(row[known.prompt]))
    ]
    if not prompts:
        raise UserError(f"{flag}: {name} ({known.source}) holds no benign prompts; has it changed?")
    return prompts


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
