"""How far hardening moved the model where it was helpful: divergence and perplexity on the base model's answers.

The texts are what the base model said, greedily, to benign prompts. On each token of them

- the divergence is KL(base || hardened) of the next-token distributions, in nats: the base model's `TOP_K` most
  likely tokens and one bucket for the rest, a lower bound of the KL over the whole vocabulary;
- the perplexity is that of the text itself under either model, exp of the mean negative log-probability of a token.

A model that now refuses a benign prompt diverges at the first tokens of the answer; one that has become worse at
answering diverges everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sirl.chat.encoding import EncodingError
from sirl.divergence import bucketed_kl, top_tokens
from sirl.generation.local import LocalEngine
from sirl.records import Attempt, Conversation
from sirl.stats import bootstrap_ratio


@dataclass(frozen=True)
class Text:
    """An answer to a conversation as token ids, with the base model's view of it: log-probabilities of its tokens
    `(T,)`, and the most likely tokens at each place with theirs, `(T, K)`."""

    prompt_ids: list[int]
    answer_ids: list[int]
    logprobs: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


def starting_answers(attempts: Sequence[Attempt]) -> list[tuple[Conversation, str]]:
    """Benign prompts and what the base model answered greedily; answers that failed or are empty are left out."""
    return [
        (attempt.messages, attempt.response)
        for attempt in attempts
        if (attempt.phase, attempt.decoding) == ("before", "greedy")
        and attempt.error is None
        and attempt.response.strip()
    ]


def read_texts(engine: LocalEngine, answers: Sequence[tuple[Conversation, str]]) -> list[Text]:
    """The base model's view of its answers; those that it cannot be given, or that have no tokens, are left out."""
    found = zip(engine.encode([messages for messages, _ in answers]), answers, strict=True)
    pairs = [
        (ids, engine.tokenizer(answer, add_special_tokens=False)["input_ids"])
        for ids, (_, answer) in found
        if not isinstance(ids, EncodingError)
    ]
    most = math.inf if engine.context is None else engine.context
    pairs = [pair for pair in pairs if pair[1] and len(pair[0]) + len(pair[1]) <= most]
    out = {}
    for i, logprobs in engine.answer_logprobs(pairs):
        prompt, answer = pairs[i]
        out[i] = Text(prompt, answer, _of(answer, logprobs), *top_tokens(logprobs))
    return [out[i] for i in range(len(pairs))]


def measure_drift(engine: LocalEngine, texts: Sequence[Text]) -> dict[str, Any] | None:
    """Divergence and perplexities with 95% intervals (bootstrap over answers); None without texts.

    Keys: `answers`, `tokens`, `kl` (nats per token), `perplexity_before`, `perplexity_after`, `perplexity_rise`, the
    share by which it rose; `kl` and `perplexity_rise` are tables of `value`, `low` and `high`.
    """
    if not texts:
        return None
    divergences, after = [0.0] * len(texts), [0.0] * len(texts)
    for i, logprobs in engine.answer_logprobs([(text.prompt_ids, text.answer_ids) for text in texts]):
        policy = logprobs.gather(-1, texts[i].top_ids.to(logprobs.device)).cpu()
        divergences[i] = float(bucketed_kl(texts[i].top_logprobs, policy).sum())
        after[i] = -float(_of(texts[i].answer_ids, logprobs).sum())
    before = [-float(text.logprobs.sum()) for text in texts]
    lengths = [float(len(text.answer_ids)) for text in texts]
    kl = bootstrap_ratio(divergences, lengths)
    rise = bootstrap_ratio([b - a for a, b in zip(before, after, strict=True)], lengths)
    return {
        "answers": len(texts),
        "tokens": int(sum(lengths)),
        "kl": {"value": kl.value, "low": kl.low, "high": kl.high},
        "perplexity_before": math.exp(sum(before) / sum(lengths)),
        "perplexity_after": math.exp(sum(after) / sum(lengths)),
        "perplexity_rise": {name: math.expm1(getattr(rise, name)) for name in ("value", "low", "high")},
    }


def _of(answer: Sequence[int], logprobs: Tensor) -> Tensor:
    wanted = torch.tensor(answer, device=logprobs.device)
    return logprobs.gather(-1, wanted[:, None]).squeeze(-1).cpu()
