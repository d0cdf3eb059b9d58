"""Training: the reward, TRL's trainer with SIRL's additions, and what is kept of the run.

`SIRLConfig` and `SIRLTrainer` import TRL, which takes seconds, so they are loaded when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sirl.training.config import SIRLConfig
    from sirl.training.trainer import SIRLTrainer

__all__ = ["SIRLConfig", "SIRLTrainer"]


def __getattr__(name: str) -> Any:
    if name == "SIRLConfig":
        from sirl.training.config import SIRLConfig

        return SIRLConfig
    if name == "SIRLTrainer":
        from sirl.training.trainer import SIRLTrainer

        return SIRLTrainer
    raise AttributeError(name)
