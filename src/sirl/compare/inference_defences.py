"""Defences that leave the weights alone: engines around another engine, which change what is asked or what is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

from sirl.chat.encoding import EncodingError, template_arguments
from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams
from sirl.generation.local import LocalEngine
from sirl.judges.refusal import judge_response
from sirl.records import Completion, Conversation, Message, ends_in_prefill, user_turn

ABILITIES = (
    "tokenizer",
    "parameters",
    "text_pieces",
    "count_tokens",
    "target_logprobs",
    "token_logprobs",
    "one_hot_gradients",
)
"""What a `GradientEngine` can do beside answering."""


class Defended:
    """An engine around another one, which can do whatever that one can; a defence overrides what it changes."""

    def __init__(self, inner: Engine) -> None:
        self.inner, self.name = inner, inner.name
        for ability in ABILITIES:
            if hasattr(inner, ability):
                setattr(self, ability, getattr(inner, ability))


class SystemPrompt(Defended):
    """Puts a system message before every conversation; one that is there already follows it in the same message."""

    def __init__(self, inner: Engine, text: str) -> None:
        super().__init__(inner)
        self.text = text
        for ability in ("count_tokens", "target_logprobs"):
            if hasattr(inner, ability):
                setattr(self, ability, partial(self._behind, getattr(inner, ability)))
        if hasattr(inner, "tokenizer"):  # for attacks that build prompts of token ids themselves
            self.tokenizer = copy(inner.tokenizer)
            self.tokenizer.apply_chat_template = partial(self._template, inner.tokenizer)

    def see(self, conversation: Conversation) -> Conversation:
        """The conversation as the model reads it."""
        first, rest = self.text, conversation
        if conversation and conversation[0]["role"] == "system":
            first, rest = f"{self.text}\n\n{conversation[0]['content']}", conversation[1:]
        return (Message(role="system", content=first), *rest)

    def _behind(
        self, method: Callable[..., Any], conversations: Sequence[Conversation], *more: Any, **named: Any
    ) -> Any:
        return method([self.see(c) for c in conversations], *more, **named)

    def _template(self, tokenizer: Any, messages: Sequence[Message], **options: Any) -> Any:
        return tokenizer.apply_chat_template([dict(m) for m in self.see(tuple(messages))], **options)

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        return self.inner.generate([self.see(c) for c in conversations], params, progress)


class BestOfN(Defended):
    """Draws `n` answers and gives the one of the lowest mean token entropy, in place of greedy decoding too.

    An answer without tokens or with an error is given only where there is no other.
    """

    def __init__(self, inner: Engine, n: int) -> None:
        super().__init__(inner)
        self.n = n

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Temperature 0 stands for 1: there is nothing to choose from among greedy answers."""
        wide = replace(params, temperature=params.temperature or 1.0, n=params.n * self.n)
        drawn = 0

        def count(fresh: int) -> None:  # in answers given, as the caller counts
            nonlocal drawn
            before, drawn = drawn // self.n, drawn + fresh
            if progress is not None:
                progress(drawn // self.n - before)

        groups = self.inner.generate(conversations, wide, count)
        return [[surest(group[i : i + self.n]) for i in range(0, len(group), self.n)] for group in groups]


def surest(answers: Sequence[Completion]) -> Completion:
    """The answer of the lowest mean token entropy (nats); of equals the first."""
    known = [(a.mean_entropy, i) for i, a in enumerate(answers) if a.error is None and a.mean_entropy is not None]
    if known:
        return answers[min(known)[1]]
    return next((a for a in answers if a.error is None), answers[0])


class AnyDepth(Defended):
    """Has the model look at its own answer at several depths, and gives its refusal where it wants to refuse.

    At every `every` tokens of an answer, and at its end, the turn is closed and the assistant's header put behind it,
    as if the answer began now, and the model says at most `tokens` tokens greedily. The first look that is a refusal by
    the rules takes the answer's place. Of a prefill it looks at once. Being looked at does not change an answer, so all
    looks are made when it is there.
    Source: Zhang et al. 2025 (Any-Depth Alignment, rethinking), arXiv 2510.18081.
    """

    def __init__(self, inner: LocalEngine, every: int, tokens: int) -> None:
        super().__init__(inner)
        self.model, self.every, self.tokens = inner, every, tokens
        self.header = assistant_header(inner.tokenizer)

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        groups = self.model.generate(conversations, params, progress)
        places: list[tuple[int, int]] = []
        shown: list[list[int]] = []
        for i, (ids, group) in enumerate(zip(self.model.encode(conversations), groups, strict=True)):
            for j, answer in enumerate(group):
                if isinstance(ids, EncodingError) or answer.error or _refuses(answer.text):
                    continue
                first = 0 if ends_in_prefill(conversations[i]) else self.every  # else it is where the answer began
                for depth in (*range(first, len(answer.token_ids), self.every), len(answer.token_ids)):
                    places.append((i, j))
                    shown.append([*ids, *self._spoken(answer.token_ids[:depth]), *self.header])
        looks = self._look(shown)
        for (i, j), look in reversed(list(zip(places, looks, strict=True))):
            if look is not None:  # the earliest one is written last
                groups[i] = [look if k == j else answer for k, answer in enumerate(groups[i])]
        return groups

    def _spoken(self, token_ids: Sequence[int]) -> list[int]:
        """An answer without the token that ends its turn."""
        return [token for token in token_ids if token not in self.model.eos_ids]

    def _look(self, shown: Sequence[list[int]]) -> list[Completion | None]:
        """What the model says behind the header, where that is a refusal; a look beyond the context sees none."""
        room = [place for place, ids in enumerate(shown) if self.model.context is None or len(ids) < self.model.context]
        looks = self.model.answer_ids([shown[i] for i in room], SamplingParams(max_new_tokens=self.tokens))
        found: list[Completion | None] = [None] * len(shown)
        for place, (answer,) in zip(room, looks, strict=True):
            found[place] = answer if _refuses(answer.text) else None
        return found


def assistant_header(tokenizer: Any) -> list[int]:
    """The tokens that a chat template writes between the end of a turn's words and the words of the assistant."""
    mark = "user said this"
    turns = [dict(turn) for turn in user_turn(mark)]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **template_arguments(tokenizer)
    )
    return list(tokenizer(str(text).rpartition(mark)[2], add_special_tokens=False)["input_ids"])


def _refuses(text: str) -> bool:
    return judge_response(text).label == "full_refusal"


def defend(method: str, engine: Engine, settings: Mapping[str, Any]) -> Engine:
    """The engine behind the defence of that name."""
    if method == "system_prompt":
        defended = SystemPrompt(engine, settings["text"])
        _check_encodable(defended)
        return defended
    if method == "best_of_n":
        return BestOfN(engine, settings["n"])
    if method == "ada":
        if not isinstance(engine, LocalEngine):
            raise UserError("method ada: needs the model in this process, as the header goes between tokens")
        return AnyDepth(engine, settings["every"], settings["tokens"])
    raise UserError(f"method {method}: no defence without training")


def _check_encodable(defended: SystemPrompt) -> None:
    """Raise `UserError` where not even a short question can be asked behind the system prompt."""
    if isinstance(defended.inner, LocalEngine):
        (found,) = defended.inner.encode([defended.see(user_turn("Hello"))])
        if isinstance(found, EncodingError):
            raise UserError(f"method system_prompt: the model cannot be given a system prompt ({found})")
