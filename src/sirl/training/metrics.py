"""What is logged beside the reward, so that confident nonsense is seen, and the file it goes to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sirl.diversity import distinct_rate, repetition_rate
from sirl.errors import CannotWriteError
from sirl.records import append_jsonl, iter_json_lines, write_jsonl
from sirl.visible import says_nothing

log = logging.getLogger(__name__)


Watch = Callable[[Sequence[str]], Mapping[str, float]]
"""Figures of a batch of completions by name, from outside: training logs them, and rewards nothing for them."""


def rollout_metrics(texts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> dict[str, float]:
    """Figures of one batch of completions that need nobody's judgement."""
    return {
        "empty_rate": sum(map(says_nothing, texts)) / max(len(texts), 1),
        "repetition_rate": sum(map(repetition_rate, token_ids)) / max(len(token_ids), 1),
        "distinct_response_rate": distinct_rate(texts),
    }


RENAMED = {
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncated_rate",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_spread_rate",
}
DROPPED = ("rewards/", "completions/", "clip_ratio/", "profiling/")


def tidy(logs: dict[str, Any]) -> dict[str, Any]:
    """TRL's log line with plain names, and without what says the same thing again."""
    out: dict[str, Any] = {}
    for key, value in logs.items():
        if key in RENAMED:
            out[RENAMED[key]] = value
        elif not key.startswith(DROPPED):
            out[key] = value
    return out


class MetricsFile(TrainerCallback):  # type: ignore[misc]
    """Append one line per logged update to `metrics.jsonl`; on resume, lines after the checkpoint are cut off.

    It only watches: where a line cannot be written, a warning says so once, and training continues.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.warned = False
        self.started = time.monotonic()
        self.tokens = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.tokens = time.monotonic(), float(state.num_input_tokens_seen or 0)
        if state.is_world_process_zero and self.path.exists():
            kept = [row for row in iter_json_lines(self.path) if row["step"] <= state.global_step]
            write_jsonl(self.path, kept)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        # transformers' summary at the end has no loss; updates that reuse a generation batch have no reward
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        now, tokens = time.monotonic(), float(logs.get("num_tokens", self.tokens))
        row = {"step": state.global_step, **tidy(logs)}
        if "num_tokens" in logs:
            row["tokens_per_second"] = round((tokens - self.tokens) / max(now - self.started, 1e-9), 1)
        self.started, self.tokens = now, tokens
        try:
            append_jsonl(self.path, [row])
        except CannotWriteError as error:
            if not self.warned:
                log.warning("%s; training continues without a line for update %d", error, state.global_step)
            self.warned = True
