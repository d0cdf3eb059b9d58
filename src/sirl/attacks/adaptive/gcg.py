"""Greedy Coordinate Gradient: a suffix found with gradients.

Zou, Wang, Carlini, Nasr, Kolter & Fredrikson 2023, "Universal and Transferable Adversarial Attacks on Aligned Language
Models", arXiv 2307.15043. At each step the gradient of the target's loss by the one-hot vectors of the suffix names,
for each place, the tokens that would lower it most; a batch of suffixes with one token exchanged is scored, and the
best taken.

Differences: candidates that a tokeniser would read as other tokens are dropped (the text is what is sent); a candidate
is taken only where it lowers the loss, since batches here are small; one prompt at a time, no universal suffix.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sirl.attacks.adaptive.base import AdaptiveAttack
from sirl.attacks.adaptive.search import AFFIRMATIVE, GoalSearch, Models, SearchConfig, SearchError, Steps
from sirl.generation.base import UNSCORABLE, Engine, GradientEngine
from sirl.records import Conversation, user_turn

START = " !"
"""The text that the first suffix repeats."""

DRAWS = 4
"""So many times more candidates are drawn than scored: most that are dropped are read as other tokens."""


@dataclass(frozen=True)
class GCGConfig(SearchConfig):
    """`width` suffixes are scored a step, out of the `top_k` best tokens a place by the gradient.

    The best prompt is answered every `check_every` steps. The paper's own budget is 500 steps of 512 candidates.
    """

    max_queries: int = 400
    suffix_tokens: int = 12
    width: int = 14
    top_k: int = 64
    check_every: int = 2
    target: str = AFFIRMATIVE


@dataclass(frozen=True)
class Suffix:
    """A suffix in its place: the prompt's tokens before it, its own, those behind, and its text behind the goal."""

    before: tuple[int, ...]
    ids: tuple[int, ...]
    after: tuple[int, ...]
    text: str

    @property
    def prompt(self) -> tuple[int, ...]:
        """The whole prompt's tokens."""
        return (*self.before, *self.ids, *self.after)

    @property
    def span(self) -> tuple[int, int]:
        """Where in the prompt the suffix stands."""
        return len(self.before), len(self.before) + len(self.ids)


class GCG(AdaptiveAttack):
    """Exchanges tokens of a suffix along the gradient of an affirmative answer's loss.

    Source: Zou et al. 2023, arXiv 2307.15043.
    """

    name = "gcg"
    source = "Zou et al. 2023, arXiv 2307.15043 (GCG)"
    description = "a suffix whose tokens are exchanged along the gradient of an affirmative answer"
    needs = GradientEngine
    ends_unanswered = True
    config: GCGConfig

    def __init__(self, config: GCGConfig | None = None, attacker: Engine | None = None) -> None:
        super().__init__(config or GCGConfig(), attacker)
        self.allowed: Any = None

    def prepare(self, models: Models) -> None:
        """Ids of the tokens that a suffix may hold, as a tensor."""
        import torch

        from sirl.generation.scoring import printable_pieces

        assert isinstance(models.target, GradientEngine)  # checked before
        self.allowed = torch.tensor(list(printable_pieces(models.target.tokenizer)))

    def search(self, state: GoalSearch) -> Steps[None]:
        """See the module."""
        config = self.config
        tokenizer = state.models.target.tokenizer  # type: ignore[attr-defined]  # a GradientEngine, checked before
        target: list[int] = tokenizer(config.target, add_special_tokens=False)["input_ids"]
        suffix = place_suffix(tokenizer, state.text, START * config.suffix_tokens)
        yield from state.start(conversation(state.text, suffix.text))
        (score,) = yield from state.score_tokens([suffix.prompt], target)
        state.start_score = state.best_score = score
        if score <= UNSCORABLE:  # no gradient of what the model cannot take; its answer says why
            return
        while True:
            state.step()
            gradient = yield from state.gradient(suffix.prompt, suffix.span, target)
            choices = best_tokens(gradient, self.allowed, config.top_k)
            drawn = draw_candidates(suffix.ids, choices, DRAWS * config.width, state.rng)
            candidates = readable(tokenizer, state.text, suffix, drawn, config.width)
            if candidates:
                scores = yield from state.score_tokens([c.prompt for c in candidates], target)
                top = max(range(len(scores)), key=scores.__getitem__)
                if scores[top] > score:
                    suffix, score = candidates[top], scores[top]
                    state.settle(conversation(state.text, suffix.text), score)
            if state.steps % config.check_every == 0 and state.is_new():
                yield from state.try_all([conversation(state.text, suffix.text)], [score])


def conversation(goal: str, suffix: str) -> Conversation:
    """The goal with a suffix, which brings its own space."""
    return user_turn(goal + suffix)


def place_suffix(tokenizer: Any, goal: str, text: str) -> Suffix:
    """A suffix of a given text, as the tokeniser reads it behind the goal.

    Raises:
        SearchError: the tokeniser joins it with what is around it.
    """
    from sirl.chat.encoding import encode_chat

    bare, whole = (encode_chat(tokenizer, conversation(goal, t)) for t in ("", text))
    start = _alike(bare, whole)
    behind = _alike(bare[start:][::-1], whole[start:][::-1])
    end = len(whole) - behind
    placed = Suffix(tuple(whole[:start]), tuple(whole[start:end]), tuple(whole[end:]), text)
    if not placed.ids or _text_of(tokenizer, placed, placed.ids) != text:
        raise SearchError("the tokeniser joins the suffix with the text around it")
    return placed


def _text_of(tokenizer: Any, suffix: Suffix, ids: Sequence[int]) -> str:
    """Text of ids in the suffix's place; some tokenisers leave out a space where text begins."""
    anchor = list(suffix.before[-1:])
    decoded: str = tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)
    head: str = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    return decoded[len(head) :]


def best_tokens(gradient: Any, allowed: Any, k: int) -> list[list[int]]:
    """For each place the `k` allowed tokens that lower the loss most by its gradient `(places, V)`."""
    scores = -gradient[:, allowed.to(gradient.device)]
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices.cpu()
    out: list[list[int]] = allowed[top].tolist()
    return out


def draw_candidates(
    ids: Sequence[int], choices: Sequence[Sequence[int]], count: int, rng: random.Random
) -> list[tuple[int, ...]]:
    """Up to `count` different sequences that differ from `ids` in one place, by one of that place's choices."""
    found: dict[tuple[int, ...], None] = {}
    for _ in range(count):
        place = rng.randrange(len(ids))
        new = (*ids[:place], rng.choice(choices[place]), *ids[place + 1 :])
        if new != tuple(ids):
            found[new] = None
    return list(found)


def readable(tokenizer: Any, goal: str, old: Suffix, candidates: Sequence[Sequence[int]], count: int) -> list[Suffix]:
    """The first `count` candidates whose text, put behind the goal, is read as the very tokens that were scored."""
    from sirl.chat.encoding import encode_chat

    kept: list[Suffix] = []
    for ids in candidates:
        text = _text_of(tokenizer, old, ids)
        new = Suffix(old.before, tuple(ids), old.after, text)
        if text.strip() and encode_chat(tokenizer, conversation(goal, text)) == list(new.prompt):
            kept.append(new)
            if len(kept) == count:
                break
    return kept


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    from sirl.generation.decode import common_prefix

    return common_prefix(a, b)
