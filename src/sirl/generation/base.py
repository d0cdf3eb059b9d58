"""The one interface through which every stage makes the target model speak.

Gap, attacks and evaluations are written against `Engine`; which engine stands behind it (a model in this process, a
server) is the caller's choice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, runtime_checkable

from sirl.records import Completion, Conversation, FinishReason

UNSCORABLE = -1e30
"""The log-probability of an answer to what cannot be sent to the model: below any other, and finite, so that sums and
differences stay numbers."""


@dataclass(frozen=True)
class SamplingParams:
    """How to decode.

    Args:
        max_new_tokens: limit of a response, its end-of-turn token included.
        temperature: 0 is greedy decoding; entropies are then taken at temperature 1. Else both the draw and the entropy
            use the logits divided by it.
        n: responses to each conversation.
        seed: decides what is drawn.
        top_logprobs: keep so many of the likeliest tokens at each place, at temperature 1; our decode loop alone can.

    Raises:
        ValueError: a number below its least.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    n: int = 1
    seed: int = 0
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.n < 1 or self.temperature < 0:
            raise ValueError(f"invalid sampling parameters: {self}")


class Engine(Protocol):
    """Anything that answers conversations in batches."""

    name: str

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Answer each conversation `params.n` times, in the order given.

        `progress` is called with the number of responses finished since its last call. A conversation that cannot be
        answered yields completions with `finish_reason == "error"`, never an exception for the whole batch.
        """
        ...


class TextEngine(Engine, Protocol):
    """An engine that also goes on from plain text, for models that want a prompt of their own and no chat template."""

    def complete(
        self,
        texts: Sequence[str],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """One continuation a text, in order; else as `generate`.

        The text holds the model's control tokens except the one that begins a sequence, which the tokenizer adds.
        """
        ...


@runtime_checkable
class ScoringEngine(Engine, Protocol):
    """An engine that also says how probable an answer would be, for attacks that search by it.

    Apart from `Engine`, since servers show too little of the distribution.
    """

    @property
    def parameters(self) -> int:
        """How many the model has, for estimates of the arithmetic done."""
        ...

    def target_logprobs(
        self, conversations: Sequence[Conversation], targets: Sequence[str], mean: bool = False
    ) -> list[float]:
        """Log-probability (nats, at temperature 1) that each conversation is answered with its target first.

        The sum over the target's tokens, or their `mean`. An assistant turn at the end is gone on from. A conversation
        that cannot be encoded, or is too long with its target, has `UNSCORABLE`.
        """
        ...

    def count_tokens(self, conversations: Sequence[Conversation]) -> list[int]:
        """Tokens of each conversation as the model reads it; 0 where it cannot be encoded."""
        ...

    def text_pieces(self) -> list[str]:
        """Printable ASCII texts that are one token each, in the order of the vocabulary: what suffixes are made of."""
        ...


@runtime_checkable
class GradientEngine(ScoringEngine, Protocol):
    """An engine that works on token ids and gives gradients: a model in this process."""

    tokenizer: Any

    def token_logprobs(self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats) of each token of each target behind its prompt; `[UNSCORABLE]` where both together
        are longer than the model takes."""
        ...

    def one_hot_gradients(
        self, prompts: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], targets: Sequence[Sequence[int]]
    ) -> list[Any]:
        """Gradients `(stop - start, V)` of the targets' mean negative log-probability, by the one-hot vectors of the
        prompts' tokens from `start` to `stop`."""
        ...


_STOP = "stop eos eos_token stop_sequence stop_token stop_str end_turn end_of_turn endoftext complete completed done"
_LENGTH = (
    "length max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens token_limit model_length "
    "model_context_window_exceeded"
)
_NEITHER = (
    "content_filter content_filtered filtered safety recitation blocklist prohibited_content spii guardrail_intervened "
    "refusal error abort aborted cancelled canceled timeout tool_calls tool_call tool_use function_call "
    "malformed_function_call pause_turn"
)
ENDED: dict[str, FinishReason] = {
    **dict.fromkeys(_STOP.split(), "stop"),
    **dict.fromkeys(_LENGTH.split(), "length"),
    **dict.fromkeys(_NEITHER.split(), "error"),
}
"""How servers say that an answer ended: by the model, at the token limit, or by something else. The words are those of
OpenAI, TGI, Gemini, Anthropic and Mistral, and of the gateways that pass them on, in lower case."""


def served_completion(text: str, finish_reason: str | None, who: str) -> Completion:
    """The answer of an engine that shows no logits; `who` ended it.

    What ended for another reason than the model's or the token limit's, such as `content_filter`, is an error: what the
    model would have said is not known, so it is no refusal of the model's. A reason that is missing or unknown is an
    error only where there is no text.
    """
    word = (finish_reason or "").strip().lower().rpartition(".")[2].removeprefix("finish_reason_").replace("-", "_")
    reason = ENDED.get(word, "stop" if text.strip() else "error")
    if reason == "error":
        return Completion.failed(f"{who} ended the answer with {finish_reason or 'no text and no reason'}")
    return Completion(text=text, finish_reason=reason)


def request_seeds(conversations: Sequence[Conversation], params: SamplingParams) -> list[int]:
    """A seed of 31 bits for each conversation, for engines that draw by themselves.

    It hangs on the conversation and how often that came before, not on its place in the batch, so that an interrupted
    run asks for what it would have asked for.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for conversation in conversations:
        text = json.dumps([dict(message) for message in conversation], sort_keys=True)
        digest = blake2b(f"{params.seed}/{seen[text]}/{text}".encode(), digest_size=4).digest()
        seeds.append(int.from_bytes(digest, "little") >> 1)
        seen[text] += 1
    return seeds
