"""What an attack is: something that turns goals into conversations with the target model, and what came back.

A *static* attack rewrites the goal without looking at the model (`StaticAttack.render`), so the same prompts can be put
to a model before and after hardening. An *adaptive* attack asks the model while it searches and overrides `Attack.run`.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from sirl.chat.encoding import EncodingError
from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams
from sirl.records import Completion, Conversation, Prompt, SearchFacts, user_turn

if TYPE_CHECKING:
    from sirl.judges.base import Judge

PLACEHOLDER = "[PROMPT]"
"""Where the goal goes in a template."""


@dataclass(frozen=True)
class AttackResult:
    """The outcome of one attack on one goal: the conversation it settled on and the model's answer to it.

    `error` says why there is no answer; `messages` is then whatever was built (possibly nothing). A search also says
    how many model calls it took (`queries`: answers, the attacker's included, and scored candidates) and a few figures.
    """

    goal_id: str
    messages: Conversation
    completion: Completion
    error: str | None = None
    queries: int | None = None
    search: SearchFacts | None = None


@dataclass(frozen=True)
class AttackOptions:
    """What a user may set for all attacks of a run; each takes what it understands.

    `attacker` writes prompts for the attacks that have a second model (None: the target itself); `budget` is how many
    model calls a search may spend on one goal, `seconds` how much wall time (None: each attack's own default). `judges`
    are those of the run: a search ends where they see the model broken (none: the rules of `refusal`).
    """

    attacker: Engine | None = None
    budget: int | None = None
    seconds: float | None = None
    judges: Sequence[Judge] = ()

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise UserError(f"--attack_budget: must be 1 or more queries per goal, got {self.budget}")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UserError(f"--attack_seconds: must be above 0, got {self.seconds}")


class Attack(ABC):
    """One way of getting a model to answer what it should refuse.

    Subclasses set the class attributes. `source` cites the paper or the place it comes from. `goal_encoding` is empty
    where the goal stands word for word in the conversation; else it says how to get the goal back.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["static", "adaptive"]]
    source: ClassVar[str]
    description: ClassVar[str]
    goal_encoding: ClassVar[str] = ""
    readable: ClassVar[bool] = True
    """Whether the request can be read in the prompt: not where letters are exchanged, cut apart or to be computed."""
    uses_attacker: ClassVar[bool] = False
    """Whether a second model writes prompts for it."""

    def configure(self, options: AttackOptions) -> Attack:
        """This attack with a user's options: itself, where it takes none."""
        return self

    def check(self, engine: Engine) -> None:
        """Raise `UserError` where this attack cannot work with that engine, before anything is asked."""
        return

    @abstractmethod
    def run(self, engine: Engine, goals: Sequence[Prompt], params: SamplingParams, seed: int) -> Iterator[AttackResult]:
        """Attack each goal; yield one result per goal, in any order, as soon as it is known.

        Results are stored as they come, so an interrupted search loses only the goals it had not finished. A goal that
        fails yields a result with `error`; an exception stops the run. `params` decodes the answer that counts.
        """
        ...


class StaticAttack(Attack):
    """An attack whose prompt depends on the goal (and a seed) alone."""

    kind = "static"

    @abstractmethod
    def render(self, goal: str, rng: random.Random) -> Conversation:
        """The conversation for a goal, which is not empty and has no white space around it."""
        ...

    def build(self, goal: Prompt, rng: random.Random) -> Conversation:
        """The conversation to send for `goal`; the same `rng` state gives the same conversation.

        Raises:
            UserError: the goal has no text.
        """
        return self.render(require_goal(goal), rng)

    def run(self, engine: Engine, goals: Sequence[Prompt], params: SamplingParams, seed: int) -> Iterator[AttackResult]:
        """Build every conversation, answer all in one batch. `sirl.attacks.run` pools several attacks instead."""
        conversations = [self.build(goal, goal_rng(seed, self.name, goal.id)) for goal in goals]
        answers = engine.generate(conversations, replace(params, n=1))
        for goal, messages, completions in zip(goals, conversations, answers, strict=True):
            yield AttackResult(goal.id, messages, completions[0], completions[0].error)


class TemplateAttack(StaticAttack):
    """A static attack that is one user turn with the goal put in at `PLACEHOLDER`."""

    template: ClassVar[str]

    def render(self, goal: str, rng: random.Random) -> Conversation:
        return user_turn(self.template.replace(PLACEHOLDER, goal))


def require_goal(goal: Prompt) -> str:
    """The goal's text without white space around it.

    Raises:
        UserError: there is nothing else in it.
        EncodingError: it holds half of a surrogate pair, which is no text in UTF-8.
    """
    text = goal.text.strip()
    if not text:
        raise UserError(f"goal {goal.id!r} is empty: a goal needs text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"goal {goal.id!r} is not valid Unicode at character {error.start}: repair its text"
        raise EncodingError(reason) from error
    return text


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that is the same in every process (`hash()` of a string is not)."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def goal_rng(seed: int, attack: str, goal_id: str) -> random.Random:
    """The source of randomness for one attack on one goal: does not depend on other goals or on their order."""
    return random.Random(stable_seed(seed, attack, goal_id))
