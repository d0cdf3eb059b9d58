"""`NAME@before`: what an adaptive attack found against the model before hardening, put to it again afterwards.

An adaptive attack searches anew in phase `after`, against the hardened model. Its prompts from before are another
question, whether what broke the old model still works (a *transferred* attack), and another line of the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sirl.attacks.base import Attack, AttackOptions, AttackResult
from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams
from sirl.records import Prompt


class Replay(Attack):
    """The prompts of another attack from phase `before`, as they are. `sirl.attacks.run` finds and sends them.

    Source: transfer of optimised prompts, Zou et al. 2023, arXiv 2307.15043, section 3.2.
    """

    name = "@before"
    kind = "adaptive"
    source = "transfer: Zou et al. 2023, arXiv 2307.15043"
    description = "the prompts that another attack found before hardening, without a new search"

    def __init__(self, inner: Attack) -> None:
        if inner.kind != "adaptive" or isinstance(inner, Replay):
            raise UserError(f"attack {inner.name}@before: only adaptive attacks find prompts; {inner.name} has its own")
        self.inner = inner
        self.name = f"{inner.name}@before"  # type: ignore[misc]  # one class for all of them

    def configure(self, options: AttackOptions) -> Attack:
        """Nothing to set: there is no search."""
        return self

    def run(self, engine: Engine, goals: Sequence[Prompt], params: SamplingParams, seed: int) -> Iterator[AttackResult]:
        """Only `sirl.attacks.run.run_attacks` knows the prompts."""
        raise UserError(f"attack {self.name}: can only be run by run_attacks, which keeps the prompts of phase before")


def with_replays(attacks: Sequence[Attack]) -> list[Attack]:
    """The attacks, and behind them `NAME@before` for each adaptive one that has none yet."""
    named = {attack.name for attack in attacks}
    searches = [attack for attack in attacks if attack.kind == "adaptive" and not isinstance(attack, Replay)]
    return [*attacks, *(replay for replay in map(Replay, searches) if replay.name not in named)]
