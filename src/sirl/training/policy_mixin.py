"""What `CheckpointSelectionCallback` needs of a trainer, for TRL's trainers of any kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from trl.models import unwrap_model_for_generation

from sirl.disk import sync_folder, sync_tree, writing
from sirl.generation.local import LocalEngine
from sirl.generation.memory import free_bytes
from sirl.models import give_back_memory, resident_bytes
from sirl.training.lora import formed_for_rollouts, forms_for_rollouts
from sirl.training.sharding import in_step


class PolicyMixin:
    """A mixin, named before the trainer: its policy can be asked, and a finished training be taken up again."""

    @contextmanager
    def policy(self: Any) -> Iterator[LocalEngine]:
        """The policy as it is now behind the `Engine` interface: unwrapped, adapters merged, no gradients."""
        shards = getattr(self, "_dist", None)  # TRL's trainers that draw rollouts can gather what FSDP holds
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=getattr(self.args, "ds3_gather_for_generation", True),
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            shards.summon_full_params(self.model_wrapped, recurse=False) if shards else nullcontext(),
        ):
            was_training = model.training
            model.eval()
            device = self.accelerator.device
            merged = formed_for_rollouts(model, free_bytes(device)) if forms_for_rollouts(self) else nullcontext()
            most_gb = getattr(self.args, "max_cache_gb", None)
            try:
                with merged, in_step(model):
                    yield LocalEngine(model, self.processing_class, max_cache_gb=most_gb)
            finally:
                model.train(was_training)

    def _save_checkpoint(self: Any, *args: Any, **kwargs: Any) -> None:
        """A checkpoint is on the disk when this returns: a power cut in the next update must not cost it."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with writing(folder):
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]
            if self.args.should_save:
                sync_tree(folder)
                sync_folder(folder.parent)

    def before_training(self) -> None:
        """What a trainer does with its starting weights; not called where the training was over."""

    def train(self: Any, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """See `transformers.Trainer.train`, which makes one update more where the checkpoint is of the last one."""
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            if 0 < self.args.max_steps <= state.global_step:
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        self.before_training()
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]


class GivesBackMemory(TrainerCallback):  # type: ignore[misc]
    """Gives freed memory back (`sirl.models.give_back_memory`) with every checkpoint, and where it grows.

    Loading and the first answers leave the widest gaps, so the first update is followed by it. After that an update may
    leave `GROWTH` times what the one after the last giving back left: faulting all of it in again costs time.
    """

    GROWTH = 1.25

    def __init__(self) -> None:
        self.usual: int | None = 0  # bytes; None: to be seen at the next update

    def on_step_end(self, *_: Any, **__: Any) -> None:
        held = resident_bytes()
        if self.usual is None:
            self.usual = held
        elif held > self.GROWTH * self.usual:
            self._give_back()

    def on_save(self, *_: Any, **__: Any) -> None:
        self._give_back()

    def _give_back(self) -> None:
        give_back_memory()
        self.usual = None
