"""One way to make a model speak: `load_engine` gives an `Engine`, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams, TextEngine
from sirl.generation.options import split_engine

if TYPE_CHECKING:
    from sirl.generation.local import LocalEngine

__all__ = ["ENGINES", "Engine", "SamplingParams", "TextEngine", "load_engine", "load_local"]

ENGINES: dict[str, str] = {
    "local": "a transformers model in this process, with exact entropies",
    "vllm": "vLLM in this process (extra `vllm`), without entropies",
    "http://... or https://...": "an OpenAI-compatible server (extra `server`), without entropies",
}


def load_engine(
    model_name_or_path: str,
    *,
    engine: str = "local",
    adapter: str | None = None,
    revision: str | None = None,
    chat: bool = True,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_cache_gb: float | None = None,
) -> TextEngine:
    """An engine that answers with the model of that name.

    Args:
        model_name_or_path: folder, hub id, GGUF file or known name (`demo` is the bundled model); with a server, its
            name for the model.
        engine: a key of `ENGINES`, maybe with options (`sirl.generation.options`), or the address of a server.
        adapter: folder or hub id of a PEFT adapter that is merged.
        revision: commit, branch or tag of a hub id.
        chat: False for a model that is asked in plain text alone (`TextEngine.complete`): it needs no chat template.
        chat_template_kwargs: arguments of its chat template, at every call.
        max_cache_gb: GiB that keys and values of a batch may take, with the engine `local`; its own options win.

    Returns:
        An engine. `generate` takes conversations and gives a list of completions for each.

    Raises:
        UserError: there is no such engine or model, or it cannot be used; the server cannot be reached.
    """
    if engine.startswith(("http://", "https://")):
        from sirl.generation.server import ServerEngine

        return ServerEngine(engine, model_name_or_path, chat_template_kwargs=chat_template_kwargs)
    kind, options = split_engine(engine)
    if kind == "vllm":
        from sirl.generation.vllm import VLLMEngine

        return VLLMEngine(model_name_or_path, revision=revision, chat_template_kwargs=chat_template_kwargs, **options)
    if kind != "local":
        raise UserError(f"--engine {engine}: unknown; choose from {', '.join(ENGINES)}")
    return load_local(
        model_name_or_path,
        adapter=adapter,
        revision=revision,
        chat=chat,
        chat_template_kwargs=chat_template_kwargs,
        max_cache_gb=options.get("max_cache_gb", max_cache_gb),
    )


def load_local(
    model_name_or_path: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    chat: bool = True,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_cache_gb: float | None = None,
) -> LocalEngine:
    """As `load_engine` with the engine `local`, for what needs more of it than answers."""
    from sirl.chat.encoding import with_template_arguments
    from sirl.chat.template import warn_of_thoughts
    from sirl.generation.local import LocalEngine
    from sirl.models import load_model, load_tokenizer

    # the cheap checks come before the weights
    tokenizer = load_tokenizer(model_name_or_path, revision=revision, chat=chat)
    with_template_arguments(tokenizer, chat_template_kwargs)
    if chat:
        warn_of_thoughts(tokenizer)
    model = load_model(model_name_or_path, adapter=adapter, revision=revision)
    return LocalEngine(model, tokenizer, name=model_name_or_path, max_cache_gb=max_cache_gb)
