"""Measure the policy every so many updates while it is trained, and choose the weights to deploy by what was found."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from transformers import TrainerCallback

from sirl.disk import write_tensors
from sirl.errors import UserError
from sirl.generation.base import Engine
from sirl.records import append_jsonl, iter_json_lines, write_json, write_jsonl
from sirl.run_folder import CHOSEN
from sirl.training.selection_limits import SelectionLimits
from sirl.training.sharding import holds_shares

log = logging.getLogger(__name__)

Measure = Callable[[Engine], dict[str, float]]
Row = dict[str, Any]

RATES = {"dsr", "over_refusal"}
"""Figures that a rule cannot do without."""

COLLAPSES = {"max_repetition": "repetition", "max_over_refusal": "over_refusal"}
"""By limit, the figure that is not to rise above it."""

ANEW = "--overwrite trains again"
NOT_SHARDED = "development.choose: not with weights in shares (FSDP, DeepSpeed ZeRO-3); set it to false"


@dataclass(frozen=True, kw_only=True)
class SelectionRule(SelectionLimits):
    """Which of the measured policies is deployed: the highest `score` within the limits; of equals the earliest.

    The base model itself takes part: where training only costs, it stays. A policy of whose answers more could not be
    scored may have learnt to give none that count; where rows do not say of how many answers (`asked`, which older
    files lack), any more are too many.
    """

    @classmethod
    def of(cls, limits: SelectionLimits) -> SelectionRule:
        """The rule with these limits."""
        return cls(**{field.name: getattr(limits, field.name) for field in fields(SelectionLimits)})

    def allows(self, row: Row, start: Row) -> bool:
        """Whether this policy may be deployed: never where one of its rates could not be scored."""
        if row["step"] == start["step"]:
            return True
        if any(figures.get(key) is None for figures in (row, start) for key in RATES):
            return False
        if (row.get("wrapped") is None) != (start.get("wrapped") is None):  # not knowing is no rate of 0
            return False
        limits = {"over_refusal": self.allowance, "wrapped": self.wrapped_allowance}
        for key, limit in limits.items():
            if limit is not None and row.get(key) is not None and row[key] > start[key] + limit + 1e-9:
                return False
        return self.collapsed(row, start) is None and self._scored(row, start)

    def _scored(self, row: Row, start: Row) -> bool:
        """Whether nearly as many of the answers could be scored as of the base model's."""
        if self.max_unscored is None:
            return True
        now, before = (figures.get("unscored") or 0 for figures in (row, start))
        if not (row.get("asked") and start.get("asked")):
            return bool(now <= before)
        return bool(now / row["asked"] <= before / start["asked"] + self.max_unscored + 1e-9)

    def collapsed(self, row: Row, start: Row) -> str | None:
        """The limit by which the policy has collapsed, if it has."""
        for name, figure in COLLAPSES.items():
            limit, now, before = getattr(self, name), row.get(figure) or 0.0, start.get(figure) or 0.0
            if limit is not None and now > max(limit, 2 * before):
                return name
        return None

    def choose(self, rows: Sequence[Row]) -> Row:
        """The row to deploy; the first row is the base model."""
        return max((row for row in rows if self.allows(row, rows[0])), key=score)

    def ended_by(self, rows: Sequence[Row]) -> str | None:
        """The limit that ends training after the last of these rows; None where there is none."""
        if limit := self.collapsed(rows[-1], rows[0]):
            return limit
        if self.patience is not None and len(rows) - 1 - rows.index(self.choose(rows)) >= self.patience:
            return "patience"
        return None

    def __str__(self) -> str:
        words = "highest DSR (minus the benign requests refused in the attacks' wrappings, if any were asked) among "
        words += f"the checks whose over-refusal rose by at most {100 * self.allowance:g} points over "
        words += "that of the base model"
        if self.wrapped_allowance is not None:
            words += f", that refuse {100 * self.wrapped_allowance:g} points more than it of those in wrappings at most"
        if self.max_repetition is not None:
            words += f" and whose repetition is at most {100 * self.max_repetition:g}% or twice the base model's"
        if self.max_unscored is not None:
            words += f"; unscored answers at most {100 * self.max_unscored:g} points more than the base model"
        return words + "; of equals the earliest"


def score(row: Row) -> float:
    """DSR less the share of benign requests refused in the same wrappings, where they were asked.

    Refusing a wrapping whatever is asked in it is worth nothing (Youden's J, over requests in wrappings).
    """
    return float((row.get("dsr") or 0.0) - (row.get("wrapped") or 0.0))


class CheckpointSelectionCallback(TrainerCallback):  # type: ignore[misc]
    """Appends `measure(policy)` to a file before the first update, after every `every` updates and after the last.

    A row has `step` (updates made), `prompts` (training prompts seen) and `seconds` (what measuring took). On resume,
    rows after the checkpoint are cut off and made again. Every process measures, as weights may be sharded; the main
    one's figures count. `begin` is given the starting policy before training, in a resumed run as well.

    With a rule, trained weights are kept among the checkpoints: those of the best policy so far, and of the best one up
    to the last checkpoint, which is what a resumed run has as its best so far.
    """

    def __init__(
        self,
        measure: Measure,
        every: int,
        path: str | os.PathLike[str],
        rule: SelectionRule | None = None,
        begin: Callable[[Engine], None] | None = None,
    ) -> None:
        self.measure, self.every, self.path, self.rule, self.begin = measure, every, Path(path), rule, begin
        self.rows: list[Row] = []
        self.saved = 0
        """The update of the last checkpoint."""
        self.trainer: Any = None
        """The trainer, a `PolicyMixin` one; `prepare` is given it."""

    # -- while training goes on -------------------------------------------------------------------------------------

    def prepare(self, trainer: Any, checkpoint: str | None) -> None:
        """Before training, or before going on from a checkpoint: the trainer still has the starting weights."""
        self.trainer = trainer
        if self.begin is not None:
            with trainer.policy() as engine:
                self.begin(engine)
        if self.rule is not None and checkpoint is not None:
            step = int(checkpoint.rpartition("-")[2])
            self._load(step)
            if self.rows[-1]["step"] == step and self.rule.ended_by(self.rows):
                trainer.args.max_steps = step  # it was over: `SIRLTrainer.train` loads the checkpoint and returns

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.rule is not None and holds_shares(self.trainer):
            raise UserError(NOT_SHARDED)
        self.saved = state.global_step
        self._load(state.global_step)
        if state.is_world_process_zero and self.path.exists():
            write_jsonl(self.path, self.rows)
        if self._due(state) and not any(row["step"] == state.global_step for row in self.rows):
            self._check(args, state)
        self._keep(state)
        if self.rule is not None and state.is_world_process_zero:
            best = self.rule.choose(self.rows)["step"]
            if not self.weights(best).is_file():
                log.warning("%s is gone: update %d, the best so far, cannot be deployed", self.weights(best), best)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._due(state):
            self._check(args, state)
            self._keep(state)
            if self.rule is not None and (limit := self.rule.ended_by(self.rows)):
                log.info("training stops at update %d by %s", state.global_step, limit)
                control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = state.global_step
        self._keep(state)

    def _due(self, state: Any) -> bool:
        return bool(state.global_step % self.every == 0 or state.global_step == state.max_steps)

    def _load(self, step: int) -> None:
        """Rows up to an update, from the file."""
        rows = list(iter_json_lines(self.path)) if self.path.exists() else []
        (self.rows,) = broadcast_object_list([[row for row in rows if row["step"] <= step]])
        if self.rule is not None and step > 0 and not (self.rows and self.rows[0]["step"] == 0):
            raise UserError(f"{self.path}: without the figures of the base model no checkpoint can be selected; {ANEW}")

    def _check(self, args: Any, state: Any) -> None:
        started = time.monotonic()
        with self.trainer.policy() as engine:
            figures = self.measure(engine)
        row = {"step": state.global_step, "prompts": state.global_step * prompts_per_update(args), **figures}
        (row,) = broadcast_object_list([{**row, "seconds": round(time.monotonic() - started, 1)}])
        if self.rule is not None and not self.rows and not row.keys() >= RATES:
            raise UserError(
                "development: no answer to an attack, or none to a benign prompt, could be scored, so no checkpoint "
                "can be selected; check attack.judge, or set development.choose to false"
            )
        self.rows.append(row)
        if state.is_world_process_zero:
            append_jsonl(self.path, [row])

    # -- weights ----------------------------------------------------------------------------------------------------

    def weights(self, step: int) -> Path:
        """Where the trained weights of an update are kept."""
        return Path(self.trainer.args.output_dir) / f"chosen-{step}.safetensors"

    def _keep(self, state: Any) -> None:
        """Write the weights where they are the best so far; delete what no resumed run can want any more."""
        if self.rule is None or not state.is_world_process_zero:
            return
        best = self.rule.choose(self.rows)["step"]
        resumed = self.rule.choose([row for row in self.rows if row["step"] <= self.saved])["step"]
        target = self.weights(best)
        if best == state.global_step and not target.is_file():
            write_tensors(target, dict(self._trained()), {"step": str(best)})
        self._delete_all_but(target, self.weights(resumed))

    def _delete_all_but(self, *wanted: Path) -> None:
        for pattern in ("chosen-*.safetensors", ".chosen-*.partial"):
            for path in Path(self.trainer.args.output_dir).glob(pattern):
                if path not in wanted:
                    path.unlink()

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    # -- after training ---------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Put the chosen weights back, and say in `chosen.json` which they are and why.

        Raises:
            UserError: the chosen weights are gone, and the rule forbids the last ones.
        """
        if self.rule is None:
            return
        state = self.trainer.state
        self._load(state.global_step)  # this process may have had nothing left to train
        chosen, last = self.rule.choose(self.rows), self.rows[-1]
        if chosen["step"] != state.global_step and not self._restore(chosen["step"]):
            gone = f"{self.weights(chosen['step'])} is gone, the best policy by the rule"
            if last["step"] != state.global_step or not self.rule.allows(last, self.rows[0]):
                raise UserError(f"{gone}, and the last one breaks the rule; {ANEW}")
            log.warning("%s; the last one, which keeps to it, stays", gone)
            chosen = last
        if self.trainer.accelerator.is_main_process:
            ended_by = self.rule.ended_by(self.rows) if state.global_step < state.max_steps else None
            facts: Row = {"rule": str(self.rule), "ended_by": ended_by}
            facts |= {"chosen": chosen, "start": self.rows[0], "last": last}
            write_json(self.path.with_name(CHOSEN), facts)

    def clean(self) -> None:
        """Delete the weights that were kept, once the chosen ones are exported."""
        if self.rule is not None and self.trainer.accelerator.is_main_process:
            self._delete_all_but()

    def _restore(self, step: int) -> bool:
        path = self.weights(step)
        if not path.is_file():
            return False
        with safe_open(path, framework="pt") as file, torch.no_grad():
            if (file.metadata() or {}).get("step") != str(step):
                return False
            for name, parameter in self._trained():
                parameter.copy_(file.get_tensor(name))
        return True


def prompts_per_update(args: Any) -> int:
    """Training prompts that an update adds to those seen; rows, where a training knows no groups."""
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return int(rows // getattr(args, "num_generations", 1) // getattr(args, "num_iterations", 1))
