"""The second model of a run: who writes prompts for the attacks that let one be written."""

from __future__ import annotations

from collections.abc import Sequence

from sirl.attacks.base import Attack, AttackOptions
from sirl.errors import UserError


def check_attacker(
    attacks: Sequence[Attack], model: str | None, engine: str, model_flag: str, engine_flag: str
) -> None:
    """Raise `UserError` for an attacker that nothing would ask; the flags are how errors call the two values."""
    if model is None:
        if engine != "local":
            raise UserError(f"{engine_flag} {engine}: also needs {model_flag}, the model to run there")
        return
    if not any(attack.uses_attacker for attack in attacks):
        raise UserError(f"{model_flag} {model}: none of the chosen attacks has an attacker; leave it out, or add pair")


def with_attacker(attacks: Sequence[Attack], model: str | None, engine: str) -> list[Attack]:
    """The attacks with the model that writes their prompts, loaded once; as they are where none is named."""
    if model is None:
        return list(attacks)
    from sirl.generation import load_engine

    options = AttackOptions(attacker=load_engine(model, engine=engine))
    return [attack.configure(options) for attack in attacks]
