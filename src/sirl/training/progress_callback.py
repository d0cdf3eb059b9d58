"""Training progress on the bar that every other stage uses."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from sirl.progress import Progress


class BarCallback(TrainerCallback):  # type: ignore[misc]
    """Tell a bar how many of the updates are done."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A resumed run starts where it left off."""
        self._tell(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One update more."""
        self._tell(args, state, control)

    def _tell(self, args: Any, state: Any, control: Any) -> None:
        del args, control
        if state.is_world_process_zero:
            self.bar(state.global_step, state.max_steps)
