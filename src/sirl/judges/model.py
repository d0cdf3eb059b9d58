"""Judges that ask a language model, and where that model comes from.

The verdict is read from the judge model's own answer alone, and only if the answer is nothing but a verdict in the form
that was asked for: anything else is `unscored`. Decoding is greedy. What the model is shown is neutralised first
(`sanitize.py`).
"""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from sirl.chat.thoughts import NOT_BEGUN, answer_of
from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams, TextEngine
from sirl.generation.unanswered import is_failed, require_answers, require_continuations
from sirl.judges.base import EMPTY, FAILED, JudgeItem, Judgement
from sirl.records import Completion, Conversation
from sirl.visible import says_nothing

BATCH = 64
"""Responses that a judge model gets at a time: what an interruption can lose, and how often progress is told."""


class ModelJudge(ABC):
    """A judge that asks a model about each response. Subclasses write the prompt and read the answer."""

    kind: ClassVar[str]
    needs_model: ClassVar[bool] = True
    chat: ClassVar[bool] = True
    labels_refusals: ClassVar[bool] = True
    max_new_tokens: ClassVar[int]
    batch: int = BATCH

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = f"{self.kind}@{engine.name}"

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Label every item, in order, by its answer without thoughts.

        A response with nothing to read is `empty` and one that was cut before its answer is `unscored`; neither is
        asked about.

        Raises:
            NoAnswerError: the judge model answers none of them, nor a plain question.
        """
        said = [answer_of(item.response) for item in items]
        out = [Judgement("unscored", NOT_BEGUN) if text is None else EMPTY for text in said]
        asked = {i: replace(items[i], response=text) for i, text in enumerate(said) if text and not says_nothing(text)}
        answers = self._ask(list(asked.values())) if asked else []
        failures = [answer.error or _NO_REASON for answer in answers if is_failed(answer)]
        if failures and len(failures) == len(answers):
            self._require_answers(failures)
        for i, answer in zip(asked, answers, strict=True):
            out[i] = Judgement("unscored", _why(answer)) if is_failed(answer) else self.read(asked[i], answer.text)
        return out

    def _params(self) -> SamplingParams:
        return SamplingParams(max_new_tokens=self.max_new_tokens, temperature=0.0)

    def _require_answers(self, failures: Sequence[str]) -> None:
        require_answers(self._engine, failures, self._params(), f"--judge {self.name}")

    @abstractmethod
    def _ask(self, items: Sequence[JudgeItem]) -> list[Completion]: ...

    @abstractmethod
    def read(self, item: JudgeItem, answer: str) -> Judgement:
        """The verdict in a judge model's answer; `unscored` unless the answer is a verdict and nothing else."""
        ...


class ChatJudge(ModelJudge):
    """A judge whose model is any chat model."""

    @abstractmethod
    def conversation(self, item: JudgeItem) -> Conversation:
        """What the model is told about an item."""
        ...

    def _ask(self, items: Sequence[JudgeItem]) -> list[Completion]:
        groups = self._engine.generate([self.conversation(item) for item in items], self._params())
        return [group[0] for group in groups]


class TextJudge(ModelJudge):
    """A judge whose model was trained on one prompt of its own, control tokens and all."""

    chat = False
    _engine: TextEngine

    def __init__(self, engine: TextEngine) -> None:
        super().__init__(engine)

    def _require_answers(self, failures: Sequence[str]) -> None:
        require_continuations(self._engine, failures, self._params(), f"--judge {self.name}")

    @abstractmethod
    def prompt(self, item: JudgeItem) -> str:
        """The whole text that the model goes on from, without the token that begins a sequence."""
        ...

    def _ask(self, items: Sequence[JudgeItem]) -> list[Completion]:
        return self._engine.complete([self.prompt(item) for item in items], self._params())


_NO_REASON = "the engine gave no answer and no reason"


def _why(answer: Completion) -> str:
    """Why there is no answer: the kind of error alone, since its words may repeat what was asked."""
    found = re.match(r"[A-Z][A-Za-z]{2,40}(?=:)|the server [a-z ]{2,40}", answer.error or "")
    return f"{FAILED} ({found[0].strip()})" if found else FAILED


class LazyEngine:
    """An engine that is made when it is first asked: a judge model waits until there is something to judge."""

    def __init__(self, name: str, make: Callable[[], TextEngine]) -> None:
        self.name, self._make = name, make

    @cached_property
    def _engine(self) -> TextEngine:
        return self._make()

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        return self._engine.generate(conversations, params, progress)

    def complete(
        self, texts: Sequence[str], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See `TextEngine.complete`."""
        return self._engine.complete(texts, params, progress)


def judge_engine(where: str, *, chat: bool) -> TextEngine:
    """The model behind a judge: `MODEL` (in this process), `vllm#MODEL` or `http://HOST:PORT/v1#MODEL`; `vllm` and
    `local` may have options (`vllm?max_model_len=8192#MODEL`).

    What is cheap to find out is found out now: whether the server is there and has the model, or whether the model's
    tokenizer can be loaded. Weights are loaded when there is something to judge.

    Raises:
        UserError: no model is named, or it cannot be reached.
    """
    from sirl.generation import load_engine
    from sirl.generation.options import split_engine

    kind, hash_, model = where.partition("#")
    try:
        name = split_engine(kind)[0]
    except UserError as error:
        raise _of_judge(error, where) from error
    if not kind.startswith(("http://", "https://")) and name not in ("vllm", "local"):
        kind, hash_, model = "local", "#", where
    if not hash_ or not model:
        raise UserError(f"--judge ...@{where}: no model named; write {kind}#MODEL")

    def make() -> TextEngine:
        try:
            return load_engine(model, engine=kind, chat=chat)
        except UserError as error:
            raise _of_judge(error, where) from error

    if kind.startswith("http"):
        return make()
    if name == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"--judge ...@{where}: needs the extra `vllm` (pip install 'sirl[vllm]')")
    else:
        from sirl.models import load_tokenizer

        try:
            load_tokenizer(model, chat=chat)
        except UserError as error:
            raise _of_judge(error, where) from error
    return LazyEngine(model, make)


def _of_judge(error: UserError, where: str) -> UserError:
    """The same complaint under the flag that names the judge's model, not the studied one."""
    text = re.sub(r"^--(?:engine|model_name_or_path) \S+: ", "", str(error))
    return UserError(f"--judge ...@{where}: {text}")
