"""Time and memory of rollouts and updates as the work grows: prompts, group size, completion length."""

from __future__ import annotations

from pathlib import Path

from benchmarks.update import sirl_update
from benchmarks.workers import SIRL_ENV, Contender, Turns
from benchmarks.workload import Size, prompt_ids

PROMPTS = (100, 500, 2000)
SIZES = (
    Size(12, 4, 40),
    Size(12, 8, 40),
    Size(12, 16, 40),
    Size(12, 8, 80),
    Size(24, 8, 40),
)


def answer_prompts(turns: Turns, folder: Path, n: int, tokens: int) -> None:
    """`n` prompts answered greedily, as in attack and evaluation: of the same lengths, however many they are."""
    from sirl.generation.base import SamplingParams
    from sirl.generation.local import LocalEngine
    from sirl.models import load_model, load_tokenizer

    engine = LocalEngine(load_model(str(folder)), load_tokenizer(str(folder)))
    by_length = sorted(prompt_ids(folder, max(PROMPTS)), key=len)
    prompts = by_length[:: len(by_length) // n]
    engine.rollout(prompts, SamplingParams(max_new_tokens=tokens))  # memory is there
    while turns.next():
        engine.rollout(prompts, SamplingParams(max_new_tokens=tokens))
        turns.done(prompts=n)


def prompt_contenders(folder: Path, tokens: int = 16) -> list[Contender]:
    """Answers to more and more prompts."""
    return [
        Contender(f"{n} prompts", answer_prompts, {"folder": folder, "n": n, "tokens": tokens}, SIRL_ENV)
        for n in PROMPTS
    ]


def update_contenders(folder: Path, sizes: tuple[Size, ...] = SIZES) -> list[Contender]:
    """Updates of more and more."""
    return [
        Contender(f"{s.prompts} x {s.group} x {s.tokens}", sirl_update, {"folder": folder, "size": s}, SIRL_ENV)
        for s in sizes
    ]
