"""`VLLMEngine`: vLLM in this process, for attacks and evaluation on GPUs.

vLLM returns log-probabilities of a few tokens, no whole distribution, so completions carry no entropies. Needs the
extra `vllm`. Written against vLLM's documented `LLM.chat`; tested against a scripted stand-in, not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.generation.base import SamplingParams, request_seeds, served_completion
from sirl.models import is_adapter
from sirl.records import Completion, Conversation, ends_in_prefill, user_turn


class VLLMEngine:
    """A folder or hub id in transformers format, on all GPUs of this machine by tensor parallelism."""

    def __init__(self, model: str, *, revision: str | None = None, **options: Any) -> None:
        if demo_scale(model) is not None or is_adapter(model):
            raise UserError(
                f"--engine vllm: {model} is no full model in transformers format; give the folder of a merged one "
                "(RUN/model or RUN/base)"
            )
        try:
            from vllm import LLM
        except ImportError:
            raise UserError("--engine vllm: needs the extra `vllm` (pip install 'sirl[vllm]')") from None
        self.name = model
        settings = {
            "dtype": "auto",
            "tensor_parallel_size": max(torch.cuda.device_count(), 1),
            "enable_prefix_caching": True,  # attacks share their templates
            "trust_remote_code": False,
            **options,
        }
        self._llm = LLM(model=model, revision=revision, **settings)

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        settings = _settings(params, request_seeds(conversations, params))
        out: list[list[Completion]] = [[] for _ in conversations]
        for prefill in (False, True):  # how a chat ends is said once for a whole call
            rows = [i for i, c in enumerate(conversations) if ends_in_prefill(c) is prefill]
            if not rows:
                continue
            answers = self._llm.chat(
                [[dict(message) for message in conversations[i]] for i in rows],
                [settings[i] for i in rows],
                add_generation_prompt=not prefill,
                continue_final_message=prefill,
                use_tqdm=False,
            )
            for i, answer in zip(rows, answers, strict=True):
                out[i] = [served_completion(o.text, o.finish_reason, "vLLM") for o in answer.outputs]
            if progress is not None:
                progress(len(rows) * params.n)
        return out

    def complete(
        self,
        texts: Sequence[str],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """See `TextEngine.complete`."""
        seeds = request_seeds([user_turn(text) for text in texts], params)
        answers = self._llm.generate(list(texts), _settings(replace(params, n=1), seeds), use_tqdm=False)
        if progress is not None:
            progress(len(texts))
        return [served_completion(a.outputs[0].text, a.outputs[0].finish_reason, "vLLM") for a in answers]


def _settings(params: SamplingParams, seeds: Sequence[int]) -> list[Any]:
    from vllm import SamplingParams as Settings

    return [
        Settings(n=params.n, temperature=params.temperature, max_tokens=params.max_new_tokens, seed=seed)
        for seed in seeds
    ]
