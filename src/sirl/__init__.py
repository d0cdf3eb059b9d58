"""Harden a chat model with its own confidence (SIRL), and measure what it costs.

    from sirl import SIRLConfig, SIRLTrainer, load_prompts

Names are imported when they are first used: `import sirl` alone loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sirl.attacks import ATTACKS, load_attack
    from sirl.errors import UserError
    from sirl.experiment.config import RunConfig, load_config
    from sirl.experiment.pipeline import run_pipeline
    from sirl.generation import load_engine
    from sirl.generation.base import Engine, SamplingParams
    from sirl.judges import JUDGES, load_judge
    from sirl.models import load_model, load_tokenizer
    from sirl.prompts import check_disjoint, load_prompts
    from sirl.records import Attempt, Completion, Prompt, Verdict
    from sirl.training import SIRLConfig, SIRLTrainer

__version__ = "0.1.0"

_PUBLIC = {
    "ATTACKS": "sirl.attacks",
    "Attempt": "sirl.records",
    "Completion": "sirl.records",
    "Engine": "sirl.generation.base",
    "JUDGES": "sirl.judges",
    "Prompt": "sirl.records",
    "RunConfig": "sirl.experiment.config",
    "SIRLConfig": "sirl.training",
    "SIRLTrainer": "sirl.training",
    "SamplingParams": "sirl.generation.base",
    "UserError": "sirl.errors",
    "Verdict": "sirl.records",
    "check_disjoint": "sirl.prompts",
    "load_attack": "sirl.attacks",
    "load_config": "sirl.experiment.config",
    "load_engine": "sirl.generation",
    "load_judge": "sirl.judges",
    "load_model": "sirl.models",
    "load_prompts": "sirl.prompts",
    "load_tokenizer": "sirl.models",
    "run_pipeline": "sirl.experiment.pipeline",
}

__all__ = [
    "ATTACKS",
    "JUDGES",
    "Attempt",
    "Completion",
    "Engine",
    "Prompt",
    "RunConfig",
    "SIRLConfig",
    "SIRLTrainer",
    "SamplingParams",
    "UserError",
    "Verdict",
    "check_disjoint",
    "load_attack",
    "load_config",
    "load_engine",
    "load_judge",
    "load_model",
    "load_prompts",
    "load_tokenizer",
    "run_pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sirl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
