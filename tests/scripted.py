"""A scripted model behind the real interface, for the tests of whatever asks one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sirl.generation.base import SamplingParams
from sirl.records import Completion, Conversation


class FakeEngine:
    """Refuses what holds one of `refuses`, answers the rest; can be interrupted at its n-th call."""

    name = "fake"

    def __init__(self, refuses: Sequence[str] = (), break_at: int | None = None) -> None:
        self.refuses = refuses
        self.break_at = break_at
        self.calls = 0

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        if self.calls == self.break_at:
            raise KeyboardInterrupt
        self.calls += 1
        out = []
        for conversation in conversations:
            text = conversation[-1]["content"]
            refused = any(word in text for word in self.refuses)
            answer = "I'm sorry, but I can't help with that." if refused else "Sure. First, take two cups of flour."
            entropies = (0.2, 0.1) if refused else (1.5, 1.1)
            out.append([Completion(answer, (1, 2), ("a", "b"), entropies)] * params.n)
            if progress is not None:
                progress(params.n)
        return out
