"""vLLM next to our engine on the same prompts: `python -m scale.beside_vllm MODEL PROMPTS`, in vLLM's environment.

Greedy answers are compared token by token. For each token vLLM gives the whole distribution here (`logprobs=-1`), which
nobody wants of a real vocabulary, so that log-probabilities and entropies can be compared too. Prints JSON.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from sirl.chat.encoding import encode_chat
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.models import load_model, load_tokenizer
from sirl.records import user_turn

TOKENS = 8


def main(model: str, prompts: str) -> dict[str, float]:
    """Answers that differ (a share), and the largest difference of a log-probability and of an entropy, in nats."""
    from vllm import LLM
    from vllm import SamplingParams as Settings

    tokenizer = load_tokenizer(model)
    texts = Path(prompts).read_text(encoding="utf-8").splitlines()
    chats = [encode_chat(tokenizer, user_turn(text)) for text in texts]
    ours = LocalEngine(load_model(model, dtype=torch.float32), tokenizer)
    drawn = ours.rollout(chats, SamplingParams(max_new_tokens=TOKENS, temperature=0))
    theirs = LLM(model=model, dtype="float32", enforce_eager=True, max_model_len=256, max_logprobs=-1)
    settings = Settings(temperature=0, max_tokens=TOKENS, logprobs=-1)
    found = theirs.generate([{"prompt_token_ids": chat} for chat in chats], settings, use_tqdm=False)
    pairs = [(group[0], answer.outputs[0]) for group, answer in zip(drawn, found, strict=True)]
    return agreement([(r.token_ids, r.logprobs, r.entropies) for r, _ in pairs], [_scores(o) for _, o in pairs])


Scores = tuple[list[int], list[float], list[float]]
"""Of an answer: token ids, their log-probabilities, and the entropies that they were drawn with."""


def agreement(ours: list[Scores], theirs: list[Scores]) -> dict[str, float]:
    """How far two engines are apart. Numbers are compared as far as the tokens are the same."""
    apart = {"answers": 0.0, "log-probabilities": 0.0, "entropies": 0.0}
    for a, b in zip(ours, theirs, strict=True):
        apart["answers"] += (a[0] != b[0]) / len(ours)
        same = next((i for i, (x, y) in enumerate(zip(a[0], b[0], strict=False)) if x != y), min(len(a[0]), len(b[0])))
        for name, part in (("log-probabilities", 1), ("entropies", 2)):
            differences = [abs(x - y) for x, y in zip(a[part][:same], b[part][:same], strict=True)]
            apart[name] = max([apart[name], *differences])
    return apart


def _scores(output: Any) -> Scores:
    rows = [[entry.logprob for entry in row.values()] for row in output.logprobs]
    entropies = [-sum(math.exp(p) * p for p in row if p > -math.inf) for row in rows]
    chosen = [row[token].logprob for row, token in zip(output.logprobs, output.token_ids, strict=True)]
    return list(output.token_ids), chosen, entropies


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
