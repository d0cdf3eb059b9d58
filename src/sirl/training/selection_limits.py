"""The limits by which a checkpoint is selected (`checkpoint_selection.py`), without torch and TRL, which are slow."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sirl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SelectionLimits:
    """Which policies may be deployed, and when to stop looking for a better one: keys of `development` in a run's file.

    None may be deployed whose over-refusal rose by more than `allowance` over the base model's. A policy has collapsed
    whose repetition is above `max_repetition`, or whose over-refusal above `max_over_refusal`, and above twice the base
    model's (None: not looked at). Nor is a policy deployed that refuses more benign requests in the attacks' wrappings
    than the base model by over `wrapped_allowance`, or of whose answers more could not be scored by over `max_unscored`
    (None: not looked at). All of these are shares. Training stops at a collapse, and after `patience` checks without a
    better policy (None: never).
    """

    allowance: float = 0.05
    patience: int | None = None
    max_repetition: float | None = 0.5
    max_over_refusal: float | None = 0.5
    max_unscored: float | None = 0.1
    wrapped_allowance: float | None = None

    def __post_init__(self) -> None:
        for field in fields(SelectionLimits):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name == "patience" and value < 1:
                raise UserError(f"development.patience: must be 1 or more, got {value}")
            if field.name != "patience" and not 0 <= value <= 1:
                raise UserError(f"development.{field.name}: a share from 0 to 1, got {value}")
