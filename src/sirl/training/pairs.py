"""Hold the policy, on a wrapped request, to what the base model says to the bare one.

A jailbreak wraps a request, and wrappings raise entropy by themselves, so that entropy alone teaches a model to refuse
the wrapping. The base model's own answer to the bare request tells, without a label, what its answer to the wrapped
one should be, for harmful and benign requests alike (consistency training; BCT: arXiv 2510.27062). The loss is
that of `sirl.training.retention` with one thing exchanged: the policy sees the wrapped request,

    L = sum_t w_t KL(p_start(. | bare, y_<t) || p_policy(. | wrapped, y_<t)) / sum_t w_t
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from sirl.chat.encoding import EncodingError
from sirl.generation.local import LocalEngine
from sirl.records import Prompt
from sirl.training.retention import ReferenceAnswer, answers_to

OPENING_TOKENS = 3
"""An answer's first tokens, by which `shared_openings` knows a refusal."""

MIN_SHARE = 0.02
"""An opening that this share of the answers have is a refusal's."""


def paired_answers(
    engine: LocalEngine, forms: Sequence[Prompt], tokens: int, target: str, sharpness: float = 1.0
) -> list[ReferenceAnswer]:
    """What the wrapped `forms` (with `Prompt.clean`) are held to; those that the model cannot be asked are left out.

    With `target` "clean" that is the answer to the bare request. With "gated" it is that where the start refuses the
    bare request; where it answers, it is the start's own answer to the wrapped form, so that a poem stays a poem,
    unless the start refuses that one. What is a refusal is read off the answers (`shared_openings`). With `sharpness`
    above 1 the decision about the bare request is held more firmly than the start was sure of it (`sharpened`).
    """
    encoded = zip(engine.encode([p.clean for p in forms]), engine.encode([p.conversation for p in forms]), strict=True)
    chats = [(b, w) for b, w in encoded if not isinstance(b, EncodingError) and not isinstance(w, EncodingError)]
    bare = list(dict.fromkeys(tuple(ids) for ids, _ in chats))
    answers = dict(zip(bare, answers_to(engine, [list(ids) for ids in bare], tokens), strict=True))
    clean = [replace(sharpened(answers[tuple(ids)], sharpness), prompt_ids=wrapped) for ids, wrapped in chats]
    if target == "clean":
        return clean
    own = answers_to(engine, [wrapped for _, wrapped in chats], tokens)
    return gated(clean, own, shared_openings(list(answers.values())))


def sharpened(answer: ReferenceAnswer, power: float) -> ReferenceAnswer:
    """The answer with its distributions raised to a power; the tokens that are not known stay one bucket."""
    logprobs = answer.top_logprobs * power  # (T, K)
    rest = torch.log1p(-answer.top_logprobs.exp().sum(-1, keepdim=True).clamp_max(1 - 1e-6)) * power
    total = torch.logsumexp(torch.cat([logprobs, rest], -1), -1, keepdim=True)
    return replace(answer, top_logprobs=logprobs - total)


def gated(
    clean: Sequence[ReferenceAnswer], own: Sequence[ReferenceAnswer], refusals: Collection[tuple[int, ...]]
) -> list[ReferenceAnswer]:
    """`clean` where it or the answer to the wrapped form (`own`) begins as refusals do, else `own`."""
    return [c if {opening(c), opening(o)} & set(refusals) else o for c, o in zip(clean, own, strict=True)]


def opening(answer: ReferenceAnswer) -> tuple[int, ...]:
    """The first tokens of an answer."""
    return tuple(answer.answer_ids[:OPENING_TOKENS])


def shared_openings(answers: Sequence[ReferenceAnswer], share: float = MIN_SHARE) -> set[tuple[int, ...]]:
    """Openings that at least `share` of the answers have: answers differ with what was asked, refusals begin alike."""
    counts = Counter(opening(a) for a in answers)
    return {key for key, n in counts.items() if n >= max(2, share * len(answers))}
