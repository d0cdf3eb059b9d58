"""TRL's trainers for answers and pairs, watched as SIRL's is and, on a CPU, with their losses over packed rows.

The losses are TRL's: the mean negative log-likelihood of the answers' tokens, and the sigmoid loss of DPO. Padded rows
through TRL's forward pass take several times as long on a CPU as the same rows packed (`sirl.training.packed`).
`OnPolicyTrainer` has a loss of its own on what the policy draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from trl import DPOTrainer, SFTTrainer

from sirl.divergence import logprobs_of, top_tokens
from sirl.generation.base import SamplingParams
from sirl.generation.cache import supports_decode_cache
from sirl.training.cpu_layers import enable_packing
from sirl.training.lora import prepare_lora
from sirl.training.packed import pack, packed_scores
from sirl.training.policy_mixin import PolicyMixin
from sirl.training.retention import ReferenceAnswer, retention_loss


class _Packing(PolicyMixin):
    """What both have in common; `packs` says whether packed rows take the place of padded ones."""

    packs = False

    def prepare(self: Any) -> None:
        """Use what is faster on a CPU, where the model allows it."""
        prepare_lora(self)
        on_cpu = self.accelerator.device.type == "cpu" and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        self.packs = on_cpu and supports_decode_cache(self.model.config) and not self.args.gradient_checkpointing
        if self.packs:
            enable_packing(self.accelerator.unwrap_model(self.model), on_cpu=True)

    def scores(self: Any, model: Any, inputs: dict[str, Tensor], answers: Tensor) -> list[Tensor]:
        """Log-probabilities of every row's answer tokens, `(T,)` a row; `answers` `(B, S)` says which those are."""
        rows = list(zip(inputs["input_ids"], inputs["attention_mask"].bool(), answers.bool(), strict=True))
        prompts = [ids[seen & ~answer].tolist() for ids, seen, answer in rows]
        completions = [ids[answer].tolist() for ids, _, answer in rows]
        packed = pack(prompts, completions, self.model.dtype)
        if packed is None:
            raise ValueError("a batch without an answer token")
        logprobs, _ = packed_scores(model, packed, 1.0, entropy=False)
        return list(logprobs.split([len(ids) for ids in completions]))


class AnswerTrainer(_Packing, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT on rows of `input_ids` and `labels`."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's `nll` loss: the mean over the answer tokens of an update."""
        if not self.packs or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logprobs = torch.cat(self.scores(model, inputs, inputs["labels"] != -100))
        total = len(logprobs) if num_items_in_batch is None else num_items_in_batch
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return -logprobs.sum() / total * (1 if num_items_in_batch is None else ranks)


class PairTrainer(_Packing, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO on pairs that are token ids already: through text and a chat template they might become others."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's `sigmoid` loss, Rafailov et al., arXiv 2305.18290, eq. 7, with the model without its adapter as
        reference."""
        if not (self.packs and is_peft_model(self.accelerator.unwrap_model(self.model))) or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ours = self._sums(model, inputs)
        with torch.no_grad(), self.accelerator.unwrap_model(self.model).disable_adapter():
            reference = self._sums(model, inputs)
        chosen, rejected = (ours - reference).chunk(2)
        return -functional.logsigmoid(self.beta * (chosen - rejected)).mean()

    def _sums(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Log-probabilities of whole answers `(2 B,)`, the chosen ones first."""
        return torch.stack([row.sum() for row in self.scores(model, inputs, inputs["completion_mask"])])


class OnPolicyTrainer(_Packing, SFTTrainer):  # type: ignore[misc]
    """On-policy consistency (arXiv 2605.21834): draw an answer to the wrapped request, and move it towards what the
    base model, who reads the bare one, thinks of each of its tokens.

    Rows are token ids, `wrapped` and `bare`. With y drawn from the policy, which no gradient goes through,

        L = mean_t KL(p_policy(. | wrapped, y_<t) || p_start(. | bare, y_<t))

    in nats, on the base model's `sirl.divergence.TOP_K` likeliest tokens and one bucket for the rest.
    """

    def __init__(self, *args: Any, drawing: SamplingParams, **kwargs: Any) -> None:
        super().__init__(*args, data_collator=_columns, **kwargs)
        self.drawing = drawing

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["wrapped", "bare"]

    def before_training(self) -> None:
        """Keep the starting weights, where they are not below an adapter."""
        model = self.accelerator.unwrap_model(self.model)
        self.start = None if is_peft_model(model) else deepcopy(model).requires_grad_(False).eval()

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss above, over the tokens of these rows."""
        wrapped, bare = inputs["wrapped"], inputs["bare"]
        seed = (self.args.seed * 1_000_003 + self.state.global_step) * 1_009
        with self.policy() as engine:
            answers = [group[0].token_ids for group in engine.rollout(wrapped, replace(self.drawing, seed=seed))]
        held = self._judged_by_the_start(wrapped, bare, answers)
        loss = retention_loss(model, held, self._tokenizer.pad_token_id, 1.0, packs=self.packs, reverse=True)
        return (loss, None) if return_outputs else loss

    def _judged_by_the_start(
        self, wrapped: Sequence[list[int]], bare: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> list[ReferenceAnswer]:
        pairs, pad_id = list(zip(bare, answers, strict=True)), self._tokenizer.pad_token_id
        model = self.accelerator.unwrap_model(self.model) if self.start is None else self.start
        with model.disable_adapter() if self.start is None else nullcontext():
            rows = list(map(top_tokens, logprobs_of(model, pairs, pad_id)))
        return [
            ReferenceAnswer(prompt, answer, *top) for prompt, answer, top in zip(wrapped, answers, rows, strict=True)
        ]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
