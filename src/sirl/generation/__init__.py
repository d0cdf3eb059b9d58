"""One way to make a model speak: `load_engine` gives an `Engine`, whatever stands behind it."""

from __future__ import annotations

from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams

__all__ = ["ENGINES", "Engine", "SamplingParams", "load_engine"]

ENGINES: dict[str, str] = {"local": "a transformers model in this process, with exact entropies"}


def load_engine(
    model_name_or_path: str, *, engine: str = "local", adapter: str | None = None, revision: str | None = None
) -> Engine:
    """An engine that answers with the model of that name, folder or hub id (`demo` is the bundled one)."""
    if engine not in ENGINES:
        raise UserError(f"--engine {engine}: unknown; choose from {', '.join(ENGINES)}")
    from sirl.generation.local import LocalEngine
    from sirl.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(model_name_or_path, revision=revision)  # the cheap checks come before the weights
    model = load_model(model_name_or_path, adapter=adapter, revision=revision)
    return LocalEngine(model, tokenizer, name=model_name_or_path)
