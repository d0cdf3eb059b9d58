"""What flows through the gap check: its settings, one judged response, and what the comparison found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sirl.errors import UserError
from sirl.records import FinishReason, Label

PromptClass = Literal["harmful", "benign", "unlabeled"]
Status = Literal["present", "absent", "reversed", "too few"]
Basis = Literal["within", "between"]
"""Which difference a status rests on: that within prompts, or that between them."""


@dataclass(frozen=True)
class GapSampling:
    """How responses are drawn: `k` to a prompt, of at most `max_new_tokens`. In a run's file, keys of section `gap`."""

    k: int = 4
    max_new_tokens: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("k", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"gap.{name}: must be 1 or more, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise UserError(f"gap.temperature: must be above 0, because responses are sampled, got {self.temperature}")

    def config(self, seed: int) -> GapConfig:
        """The settings of a measurement that draws like this."""
        return GapConfig(self.k, self.max_new_tokens, self.temperature, seed)


@dataclass(frozen=True)
class GapConfig(GapSampling):
    """How to measure the gap: how responses are drawn, and how they are compared."""

    seed: int = 0
    min_per_class: int = 10
    prefix_tokens: int = 16
    n_bootstrap: int = 2000
    level: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_per_class", "prefix_tokens", "n_bootstrap"):
            if getattr(self, name) < 1:
                raise UserError(f"gap.{name}: must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.level < 1:
            raise UserError(f"gap.level: must be between 0 and 1, such as 0.95, got {self.level}")


@dataclass(frozen=True)
class GapSample:
    """One response with its verdict. `refused` is None where it does not count: an error, no verdict, no text, no
    entropies."""

    prompt_id: str
    prompt: str
    kind: PromptClass
    category: str | None
    response: str
    label: Label
    refused: bool | None
    entropies: tuple[float, ...]
    finish_reason: FinishReason = "stop"
    error: str | None = None

    @property
    def mean_entropy(self) -> float | None:
        """Mean token entropy (nats); None without tokens."""
        return sum(self.entropies) / len(self.entropies) if self.entropies else None

    def to_row(self) -> dict[str, Any]:
        """The sample as a JSON-ready row, with its mean entropy and its length in tokens."""
        return asdict(self) | {"mean_entropy": self.mean_entropy, "length": len(self.entropies)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> GapSample:
        """The sample that `to_row` wrote; unknown keys are ignored."""
        kept = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        return cls(**{**kept, "entropies": tuple(kept["entropies"])})


@dataclass(frozen=True)
class Comparison:
    """Answered against refused responses; `difference` is answered minus refused. None where there is no figure."""

    n_refused: int
    n_answered: int
    mean_refused: float | None = None
    mean_answered: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    u: float | None = None
    p: float | None = None
    cohens_d: float | None = None
    auroc: float | None = None


@dataclass(frozen=True)
class LengthCheck:
    """Is the gap one of length? Lengths in tokens; `adjusted_*` is the difference at equal length, by regression."""

    mean_refused: float | None
    mean_answered: float | None
    truncated_refused: float | None
    truncated_answered: float | None
    spearman: float | None
    adjusted_difference: float | None
    adjusted_low: float | None
    adjusted_high: float | None


@dataclass(frozen=True)
class WithinPrompt:
    """The difference within prompts that got both kinds of response: all that a group-relative advantage can see."""

    prompts: int
    mixed: int
    difference: float | None
    low: float | None
    high: float | None
    positive: float | None


@dataclass(frozen=True)
class ToldApart:
    """Do the model's own refusals tell harmful prompts from benign ones?

    `auroc` is the probability that a larger share of the responses to a harmful prompt refuses than of those to a
    benign one, ties half, with its interval over prompts. `*_refused` are shares of responses.
    """

    harmful: int
    benign: int
    harmful_refused: float
    benign_refused: float
    auroc: float
    low: float
    high: float


@dataclass(frozen=True)
class GapResult:
    """What was measured on the prompts of kind `compared`, and by kind and category.

    `basis` is which difference the verdict rests on: `within_prompt`, or `overall` ("between"). `told_apart` is None
    unless there were harmful and benign prompts.
    """

    verdict: Status
    explanation: str
    rule: str
    compared: PromptClass
    config: GapConfig
    counts: dict[str, int]
    overall: Comparison
    prefix: Comparison
    length: LengthCheck
    within_prompt: WithinPrompt
    by_position: dict[str, dict[str, list[float | int]]]
    by_kind: dict[str, Comparison]
    by_category: dict[str, Comparison]
    histogram: dict[str, list[float]]
    basis: Basis = "between"
    told_apart: ToldApart | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: no NaN and no infinity, None in their place."""
        cleaned = _clean(asdict(self))
        assert isinstance(cleaned, dict)
        return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
