"""Options of an engine, written behind its name: `vllm?tensor_parallel_size=4&max_model_len=8192`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from sirl.errors import UserError


@dataclass(frozen=True)
class Number:
    """A number that is asked for: whether a whole one, and the range that it is in (above `low`, up to `high`)."""

    whole: bool = False
    low: float = 0.0
    high: float = float("inf")

    def read(self, text: str) -> int | float | None:
        """The number that a text stands for; None where it is none, or not in the range."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            return None
        return value if self.low < value <= self.high and value != float("inf") else None

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} above {self.low:g}" + ("" if self.high == float("inf") else f", up to {self.high:g}")


@dataclass(frozen=True)
class Word:
    """One of a few words, which stand for values."""

    values: tuple[tuple[str, str | bool], ...]

    def read(self, text: str) -> str | bool | None:
        """The value that a word stands for; None where it is none of these."""
        return dict(self.values).get(text)

    def __str__(self) -> str:
        return " or ".join(word for word, _ in self.values)


SWITCH = Word((("true", True), ("false", False)))
DTYPE = Word(tuple((name, name) for name in ("auto", "bfloat16", "float16", "float32")))

OPTIONS: dict[str, dict[str, Number | Word]] = {
    "local": {"max_cache_gb": Number()},
    "vllm": {
        "tensor_parallel_size": Number(whole=True),
        "gpu_memory_utilization": Number(high=1.0),
        "max_model_len": Number(whole=True),
        "dtype": DTYPE,
        "enforce_eager": SWITCH,
    },
}
"""By engine."""


def split_engine(engine: str) -> tuple[str, dict[str, Any]]:
    """The name of an engine and its options. An address of a server is taken as it is, and has none.

    Raises:
        UserError: an engine has no such option, or the value is none that it takes.
    """
    kind, mark, query = engine.partition("?")
    if not mark or kind not in OPTIONS:
        return engine, {}
    known = OPTIONS[kind]
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise UserError(f"--engine {engine}: {kind} has no option {name!r}; it has {', '.join(known)}")
        value = known[name].read(text)
        if value is None:
            raise UserError(f"--engine {engine}: {name} is {known[name]}, not {text!r}")
        found[name] = value
    return kind, found
