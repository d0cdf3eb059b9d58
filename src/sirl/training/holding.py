"""What `SIRLTrainer` adds to the loss: retention (`sirl.training.retention`) and pairs (`sirl.training.pairs`).

Rows are dealt to updates from a deck. What they are held to is asked of the base model before training. With
`pair_start` pairs begin later, and are held to what the policy says to the bare requests by then: the reward decides
about bare requests, and the pairs carry that decision into the wrappings. These answers are kept next to the
checkpoints, as no later policy would give them again. With `pair_reference` "policy" each update asks the policy anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from sirl.generation.local import LocalEngine
from sirl.records import Prompt
from sirl.run_folder import PAIR_ANSWERS
from sirl.training.early_gradients import with_early_gradients
from sirl.training.pairs import paired_answers
from sirl.training.retention import (
    Deck,
    ReferenceAnswer,
    load_answers,
    reference_answers,
    retention_loss,
    save_answers,
    to_be_dealt,
    token_weight,
)


class Holding:
    """A mixin, named before the trainer."""

    def _hold(self: Any, retention: Sequence[Prompt | str], pairs: Sequence[Prompt]) -> None:
        """What the policy is held to; the answers are taken when training begins (`before_training`)."""
        self._retention_prompts = [p if isinstance(p, Prompt) else Prompt(str(i), p) for i, p in enumerate(retention)]
        self._pair_prompts = list(pairs)
        self._held, self._pairs = None, None
        sums: dict[str, Tensor] = {}
        answered: tuple[int, list[ReferenceAnswer]] = (-1, [])
        self._held_sums, self._paired_now = sums, answered

    def _held_loss(self: Any, model: Any, name: str, deck: Deck[Any] | None, weight: float) -> list[Tensor]:
        """The weighted losses of this micro-batch's rows of a deck; their mean is logged as `NAME_kl`."""
        if deck is None or not deck.rows or not weight:
            return []
        micro_step, micro_batches = self._micro_step(), max(self.args.gradient_accumulation_steps, 1)
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        dealt = self._answered(deck.update_rows(self.state.global_step, processes))
        most = self.args.per_device_train_batch_size
        rows = deck.share(dealt, process, micro_step, micro_batches, most)
        first_weight = self.args.retention_first_weight
        # Normalised over the update: it must not matter how its rows are dealt to micro-batches and processes,
        # whose gradients are summed and averaged.
        total = sum(token_weight(row, first_weight) for row in dealt) / processes
        pad_id, packs = self._tokenizer.pad_token_id, self._packs
        losses = []
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            loss = partial(retention_loss, model, some, pad_id, first_weight, total, packs)
            losses.append(with_early_gradients(loss, self._adapters) if self._adapters else loss())
        for held in losses:
            self._held_sums[name] = self._held_sums.get(name, torch.zeros_like(held)) + held.detach()
        if micro_step == micro_batches - 1:  # once an update, as all wait for each other
            own = self._held_sums.pop(name, torch.zeros((), device=self.accelerator.device))
            self._metrics["train"][f"{name}_kl"].append(self.accelerator.gather(own.float()).mean().item())
        return [weight * held for held in losses]

    def before_training(self: Any) -> None:
        """Answers that are held are taken first, from the model before any update."""
        args, processes = self.args, self.accelerator.num_processes
        if self._retention_prompts and args.retention_weight and self._held is None:
            most = args.max_steps * args.retention_batch_size * processes
            prompts = to_be_dealt(self._retention_prompts, most, args.seed)
            held = self._of_the_start(lambda engine: reference_answers(engine, prompts, args.retention_tokens))
            self._held = Deck(held, args.retention_batch_size, args.seed)
        if not args.pair_start:
            self._pair_deck()

    def _pair_deck(self: Any) -> Deck[Any] | None:
        """The rows of pairs, once they have begun."""
        args = self.args
        wanted = self._pair_prompts and args.pair_weight and self.state.global_step >= args.pair_start
        if not wanted or self._pairs is not None:
            return self._pairs
        rows: Any = self._pair_prompts
        if args.pair_reference == "start":
            updates = args.max_steps - args.pair_start
            forms = to_be_dealt(rows, updates * args.pair_batch_size * self.accelerator.num_processes, args.seed + 1)
            rows = self._answers_by_now(forms) if args.pair_start else self._of_the_start(partial(self._paired, forms))
        self._pairs = Deck(rows, args.pair_batch_size, args.seed + 1, args.pair_start)
        return self._pairs

    def _answers_by_now(self: Any, forms: Sequence[Prompt]) -> list[ReferenceAnswer]:
        """What the policy says at `pair_start`; a run that is resumed later finds it next to the checkpoints."""
        kept = Path(self.args.output_dir) / PAIR_ANSWERS
        if self.state.global_step > self.args.pair_start:
            return load_answers(kept)
        with self.policy() as engine:
            answers = self._paired(forms, engine)
        if self.accelerator.is_main_process:
            save_answers(answers, kept)
        return answers

    def _paired(self: Any, forms: Sequence[Prompt], engine: LocalEngine) -> list[ReferenceAnswer]:
        args = self.args
        return paired_answers(engine, forms, args.pair_tokens, args.pair_target, args.pair_sharpness)

    def _answered(self: Any, dealt: list[Any]) -> list[ReferenceAnswer]:
        """Rows of an update with what they are held to: wrapped forms are asked about now, once an update."""
        if not isinstance(dealt[0], Prompt):
            return dealt
        if self._paired_now[0] != self.state.global_step:
            with self.policy() as engine:
                self._paired_now = (self.state.global_step, self._paired(dealt, engine))
        answers: list[ReferenceAnswer] = self._paired_now[1]
        return answers

    def _of_the_start(self: Any, take: Callable[[LocalEngine], list[ReferenceAnswer]]) -> list[ReferenceAnswer]:
        """What the model says before it is trained, the same on all processes.

        FSDP makes its shares of the first process's weights when training begins, and others may hold none before. So
        that process asks the whole model, on its device for so long, and tells the others.
        """
        if not self.is_fsdp_enabled:
            with self.policy() as engine:
                return take(engine)
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            placed = next(self.model.parameters()).device
            self.model.to(self.accelerator.device)
            with self.policy() as engine:
                found = [take(engine)]
            self.model.to(placed)
        broadcast_object_list(found)
        answers: list[ReferenceAnswer] = found[0]
        return answers
