"""Hold the policy to the base model where that model was helpful.

Entropy alone rewards refusing everything. On benign, unlabeled prompts the base model answers once, greedily,
before training; at every update the policy pays for moving away from it on those answers:

    L = sum_t w_t KL(p_ref(. | x, y_<t) || p_policy(. | x, y_<t)) / sum_t w_t

Whether a response refuses is decided in its first few tokens, so those weigh more (a plain mean over tokens hardly sees
the decision). The reference keeps its K most likely tokens at each place and one bucket for the rest, which is a lower
bound of the KL over the full vocabulary and exact where the rest has no mass: no second model, no reference pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sirl.chat.encoding import EncodingError
from sirl.disk import write_tensors
from sirl.divergence import TOP_K, answer_logits, bucketed_kl, top_tokens
from sirl.entropy import score_tokens
from sirl.errors import UserError
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.records import Prompt
from sirl.training.packed import pack

log = logging.getLogger(__name__)

FIRST_TOKENS = 4


@dataclass(frozen=True)
class ReferenceAnswer:
    """A prompt, the base model's answer, and its distributions: ids and log-probabilities `(T, K)`."""

    prompt_ids: list[int]
    answer_ids: list[int]
    top_ids: Tensor
    top_logprobs: Tensor


def save_answers(answers: Sequence[ReferenceAnswer], path: Path) -> None:
    """Write answers to a safetensors file, whole or not at all."""
    ids = {"prompt": [a.prompt_ids for a in answers], "answer": [a.answer_ids for a in answers]}
    tensors = {f"{name}_ids": torch.tensor([i for row in rows for i in row]) for name, rows in ids.items()}
    tensors |= {f"{name}_lengths": torch.tensor([len(row) for row in rows]) for name, rows in ids.items()}
    tensors["top_ids"] = torch.cat([a.top_ids for a in answers])
    tensors["top_logprobs"] = torch.cat([a.top_logprobs for a in answers])
    write_tensors(path, tensors)


def load_answers(path: Path) -> list[ReferenceAnswer]:
    """Read what `save_answers` wrote.

    Raises:
        UserError: there is no such file, or it is another.
    """
    try:
        found = load_file(path)
        lengths = {name: found[f"{name}_lengths"].tolist() for name in ("prompt", "answer")}
        prompts = found["prompt_ids"].split(lengths["prompt"])
        answers = found["answer_ids"].split(lengths["answer"])
        tops = zip(
            found["top_ids"].split(lengths["answer"]), found["top_logprobs"].split(lengths["answer"]), strict=True
        )
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"--output_dir: {path} cannot be read ({error}); start again with --overwrite") from error
    return [
        ReferenceAnswer(prompt.tolist(), answer.tolist(), *top)
        for prompt, answer, top in zip(prompts, answers, tops, strict=True)
    ]


def reference_answers(engine: LocalEngine, prompts: Sequence[Prompt], tokens: int) -> list[ReferenceAnswer]:
    """The base model's greedy answers and distributions on the retention prompts that it can be asked."""
    encoded = engine.encode([p.conversation for p in prompts])
    chats = [ids for ids in encoded if not isinstance(ids, EncodingError)]
    if len(chats) < len(prompts):
        log.warning(
            "%d of %d retention prompts cannot be encoded and are left out", len(prompts) - len(chats), len(prompts)
        )
    return answers_to(engine, chats, tokens)


@torch.no_grad()
def answers_to(engine: LocalEngine, chats: Sequence[list[int]], tokens: int) -> list[ReferenceAnswer]:
    """Greedy answers of at most `tokens` tokens to conversations as token ids, with the distributions behind them."""
    params = SamplingParams(max_new_tokens=tokens, top_logprobs=TOP_K)
    rollouts = [group[0] for group in engine.rollout(chats, params)]
    tops = [r.top for r in rollouts if r.top is not None]
    if len(tops) == len(chats):  # cloned, since autograd takes no tensor that was made in inference mode
        kept = [(ids.clone(), logprobs.clone()) for ids, logprobs in tops]
        return [ReferenceAnswer(c, r.token_ids, *top) for c, r, top in zip(chats, rollouts, kept, strict=True)]
    # `transformers.generate` drew them, for an architecture that our decode loop does not know
    found = engine.answer_logprobs([(ids, r.token_ids) for ids, r in zip(chats, rollouts, strict=True)])
    out = {i: ReferenceAnswer(chats[i], rollouts[i].token_ids, *top_tokens(logprobs)) for i, logprobs in found}
    return [out[i] for i in range(len(chats))]


def retention_loss(
    model: Any,
    answers: Sequence[ReferenceAnswer],
    pad_id: int,
    first_weight: float,
    total: float | None = None,
    packs: bool = False,
    reverse: bool = False,
) -> Tensor:
    """Weighted mean over answer tokens of the bucketed KL(reference || policy), in nats; a scalar.

    `total` is what the weighted sum is divided by; by default the weight of these answers. `packs` says that the model
    takes packed batches (`sirl.training.packed`). `reverse` takes KL(policy || reference).
    """
    device = next(model.parameters()).device
    top_ids = torch.cat([a.top_ids for a in answers]).to(device)  # (N, K)
    reference = torch.cat([a.top_logprobs for a in answers]).to(device)
    weights = torch.cat([_weights(len(a.answer_ids), first_weight) for a in answers]).to(device)
    policy = (_packed_logprobs if packs else _padded_logprobs)(model, answers, top_ids, pad_id)  # (N, K)
    kl = bucketed_kl(policy, reference) if reverse else bucketed_kl(reference, policy)
    return (kl * weights).sum() / (weights.sum() if total is None else total)


def _packed_logprobs(model: Any, answers: Sequence[ReferenceAnswer], top_ids: Tensor, _: int) -> Tensor:
    packed = pack([a.prompt_ids for a in answers], [a.answer_ids for a in answers], next(model.parameters()).dtype)
    assert packed is not None  # an answer has at least its end-of-turn token
    logprobs: Tensor = model(
        packed=packed.to(top_ids.device),
        read=lambda hidden, head: score_tokens(hidden, head, top_ids, entropy=False)[0],
    )
    return logprobs


def _padded_logprobs(model: Any, answers: Sequence[ReferenceAnswer], top_ids: Tensor, pad_id: int) -> Tensor:
    logits, lengths = answer_logits(model, [(a.prompt_ids, a.answer_ids) for a in answers], pad_id)
    policy = torch.cat([row[:n] for row, n in zip(logits, lengths, strict=True)])  # (N, V)
    return policy.float().log_softmax(-1).gather(-1, top_ids)


def token_weight(answer: ReferenceAnswer, first_weight: float) -> float:
    """What an answer's tokens weigh together in the retention loss."""
    return float(_weights(len(answer.answer_ids), first_weight).sum())


def _weights(length: int, first_weight: float) -> Tensor:
    weights = torch.ones(length)
    weights[:FIRST_TOKENS] = first_weight
    return weights


Row = TypeVar("Row")


@dataclass(frozen=True)
class Deck(Generic[Row]):
    """Rows that are dealt to updates, each once before any comes again; the same cards in a resumed run."""

    rows: Sequence[Row]
    per_process: int
    seed: int
    first: int = 0
    """The update that is dealt the first rows."""

    def update_rows(self, update: int, processes: int) -> list[Row]:
        """The rows of an update, those of the first process first."""
        per_update, update = self.per_process * processes, update - self.first
        places = range(update * per_update, (update + 1) * per_update)
        return [self.rows[i] for i in dealt_places(len(self.rows), places, self.seed)]

    def share(
        self, dealt: Sequence[ReferenceAnswer], process: int, micro_step: int, micro_batches: int, least: int
    ) -> Sequence[ReferenceAnswer]:
        """This process's rows in a micro-batch. They go with the first ones, `least` or more at a time: a pass over a
        few rows costs nearly what a pass over many does."""
        size = max(least, -(-self.per_process // micro_batches))
        start = process * self.per_process + micro_step * size
        return dealt[start : min(start + size, (process + 1) * self.per_process)]


def to_be_dealt(prompts: Sequence[Prompt], rows: int, seed: int) -> list[Prompt]:
    """As many of the prompts as a training of `rows` rows will see (0 or less: all), drawn under `seed`.

    What is never dealt need not be asked: a few updates see a small part of a large set.
    """
    if not 0 < rows < len(prompts):
        return list(prompts)
    return [prompts[i] for i in dealt_places(len(prompts), range(rows), seed)]


def dealt_places(size: int, turns: range, seed: int) -> list[int]:
    """Which of `size` rows are dealt in these turns, counted from the first update on: a shuffle for each epoch."""
    orders: dict[int, list[int]] = {}
    dealt = []
    for epoch, place in (divmod(turn, size) for turn in turns):
        if epoch not in orders:
            generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
            orders[epoch] = torch.randperm(size, generator=generator).tolist()
        dealt.append(orders[epoch][place])
    return dealt
