"""Options of an engine, written behind its name: `vllm?tensor_parallel_size=4&max_model_len=8192`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from sirl.errors import UserError


@dataclass(frozen=True)
class Option:
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


OPTIONS: dict[str, dict[str, Option]] = {
    "local": {"max_cache_gb": Option()},
    "vllm": {
        "tensor_parallel_size": Option(whole=True),
        "gpu_memory_utilization": Option(high=1.0),
        "max_model_len": Option(whole=True),
    },
}
"""By engine."""


def split_engine(engine: str) -> tuple[str, dict[str, int | float]]:
    """The name of an engine and its options. An address of a server is taken as it is, and has none.

    Raises:
        UserError: an engine has no such option, or the value is none that it takes.
    """
    kind, mark, query = engine.partition("?")
    if not mark or kind not in OPTIONS:
        return engine, {}
    known, found = OPTIONS[kind], {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise UserError(f"--engine {engine}: {kind} has no option {name!r}; it has {', '.join(known)}")
        value = known[name].read(text)
        if value is None:
            raise UserError(f"--engine {engine}: {name} is {known[name]}, not {text!r}")
        found[name] = value
    return kind, found
