"""How `SIRLTrainer` scores completions: packed where that pays, and nothing twice.

A mixin, named before TRL's trainer. TRL asks for log-probabilities and entropies in one method, which is overridden:

- completions are scored as one sequence without padding, each prompt once (`sirl.training.packed`);
- the pass that TRL makes of a batch that vLLM drew, for its importance weights, brings the rewards' entropies too;
- in the update, entropies of tokens that this very policy drew are known, and only logged: they are not computed again;
- responses with advantage 0 are not scored in the update, since without a KL term nothing is learnt from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sirl.errors import UserError
from sirl.generation.cache import supports_decode_cache
from sirl.generation.scoring import pad_pairs
from sirl.training.cpu_layers import enable_packing
from sirl.training.packed import pack_rows, packed_scores
from sirl.training.sharding import loads_shares

Scores = tuple[Tensor, Tensor | None, Tensor | None]
"""What TRL's scoring pass returns: log-probabilities and entropies `(B, T)`, and a loss of mixtures of experts."""

_FLAGS = {"batch_size", "compute_entropy", "compute_aux_loss"}


class Scoring:
    """The scoring passes of a trainer."""

    _packs = False
    _takes_entropies = False
    """The next scoring pass is the policy's, over a batch that another engine drew."""
    _scored: tuple[Tensor, Tensor, Tensor] | None = None
    """Log-probabilities, entropies and mask `(B, T)` of that pass."""
    _drawn: Sequence[list[float] | None] = ()
    """Entropies of each response's tokens, where our engine drew them."""
    _known: Tensor | None = None
    """Entropies `(B, T)` of the batch whose loss is computed, where the policy is still the one that drew it."""
    _learnt: Tensor | None = None
    """Which of that batch's rows `(B,)` something is learnt from; None: all are scored."""

    def _prepare_packing(self: Any) -> None:
        """Teach policy and reference to score packed batches, where that is wanted and their attention allows it."""
        obstacle = None
        if not supports_decode_cache(self.model.config):
            obstacle = f"the layers of {self.model.config.model_type} models are not all plain full attention"
        elif self.args.gradient_checkpointing:
            obstacle = "gradient checkpointing computes forward passes again with another attention"
        elif self.is_deepspeed_enabled and loads_shares():
            obstacle = "DeepSpeed ZeRO-3 gathers the head's weight for the head's own pass alone"
        wanted = self.args.packed_scoring
        if wanted and obstacle:
            raise UserError(f"--packed_scoring: not possible here ({obstacle}); leave it out")
        on_cpu = self.accelerator.device.type == "cpu"
        self._packs = obstacle is None and (on_cpu if wanted is None else wanted)
        if self._packs:
            for model in (self.model, self.ref_model):
                if model is not None:
                    enable_packing(self.accelerator.unwrap_model(model), on_cpu=on_cpu)

    @contextmanager
    def _scores_once(self: Any) -> Iterator[None]:
        """While a batch is drawn and scored: where TRL scores it by the policy itself, that pass is taken."""
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        # under mask_truncated_completions TRL's pass leaves responses out that we measure
        scores = (corrects or not self._is_aligned()) and not self.mask_truncated_completions
        self._takes_entropies = scores and self.rollout_func is None
        try:
            yield
        finally:
            self._takes_entropies, self._scored, self._drawn = False, None, ()

    def _is_aligned(self: Any) -> bool:
        """Whether a batch is learnt from in one update: then the policy that learns is the one that drew it."""
        return bool(self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) == 0)

    def _remember_entropies(self: Any, output: dict[str, Any]) -> None:
        """Give a batch the entropies `(B, T)` of its tokens, where they are known and are still right in its update."""
        if not self._is_aligned():
            return
        if self._scored is not None:
            output["token_entropies"] = self._scored[1]
        elif self._drawn and self._drawn[0] is not None:
            rows = torch.zeros(output["completion_mask"].shape)
            for row, own in zip(rows, self._drawn, strict=True):
                row[: len(own)] = torch.tensor(own)
            output["token_entropies"] = rows.to(self.accelerator.device)

    @contextmanager
    def _entropies_known(self, inputs: dict[str, Any]) -> Iterator[None]:
        """While the loss of a batch is computed."""
        self._known = inputs.get("token_entropies")
        self._learnt = self._rows_learnt_from(inputs)
        try:
            yield
        finally:
            self._known, self._learnt = None, None

    def _rows_learnt_from(self: Any, inputs: dict[str, Any]) -> Tensor | None:
        """Rows `(B,)` with an advantage, at least one, as all processes make a forward pass; None: all are needed.

        They are where TRL holds log-probabilities of its own against these: a ratio to a row that was left out could
        be infinite, and infinite times no advantage is NaN.
        """
        if self.beta or self.aux_loss_enabled or self._known is None or not self.model.training:
            return None
        if inputs.get("old_per_token_logps") is not None:
            return None
        rows: Tensor = inputs["advantages"] != 0
        rows[0] |= ~rows.any()
        return None if bool(rows.all()) else rows

    def _get_per_token_logps_and_entropies(
        self: Any, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Scores:
        """TRL's scoring pass, with entropies where they are to be had for nothing, and without where they are known."""
        given = (model, input_ids, attention_mask, logits_to_keep, *args)
        if self._takes_entropies:  # the first pass over a batch is the policy's; that of the reference comes after it
            self._takes_entropies = False
            logps, entropies, aux = self._score(*given, **{**kwargs, "compute_entropy": True})
            assert entropies is not None
            self._scored = (logps, entropies, attention_mask[:, -logits_to_keep:])
            return logps, None, aux
        if self._known is None:
            return self._score(*given, **kwargs)
        rows, without = self._learnt, {**kwargs, "compute_entropy": False}
        if rows is None:
            logps, _, aux = self._score(*given, **without)
            return logps, self._known, aux
        some, _, aux = self._score(model, input_ids[rows], attention_mask[rows], logits_to_keep, *args, **without)
        logps = some.new_zeros(self._known.shape).index_put((rows.nonzero().squeeze(-1),), some)
        return logps, self._known, aux

    def _score(
        self: Any, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Scores:
        """TRL's scoring pass as one packed sequence (see `sirl.training.packed`): `(B, T)` each.

        Where packing does not apply, TRL's own without the columns in which this batch holds nothing but padding.
        """
        if args or any(v is not None for k, v in kwargs.items() if k not in _FLAGS):
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        if self._packs and not kwargs.get("compute_aux_loss"):
            size = kwargs.get("batch_size") or len(input_ids)
            chunks = zip(input_ids.split(size), attention_mask.split(size), strict=True)
            found = [pack_rows(ids, mask, logits_to_keep, self.model.dtype) for ids, mask in chunks]
            packs = [p for p in found if p is not None]
            if len(packs) == len(found):
                mask = attention_mask[:, -logits_to_keep:].bool()
                wanted = bool(kwargs.get("compute_entropy"))
                scores = zip(*(packed_scores(model, p, self.temperature, wanted) for p in packs), strict=True)
                # entropies carry no gradient; TRL uses them for its entropy bonus alone, which SIRL forbids
                logps, entropies = (None if part[0] is None else _unpacked(torch.cat(part), mask) for part in scores)
                return logps, entropies, None
        used = attention_mask.any(0).nonzero().squeeze(-1)
        completion_start = input_ids.shape[1] - logits_to_keep
        first = min(int(used[0]), completion_start - 1) if len(used) else 0
        last = max(int(used[-1]) + 1, completion_start + 1) if len(used) else input_ids.shape[1]
        trimmed = (input_ids[:, first:last], attention_mask[:, first:last])
        logps, entropies, aux = super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
            model, *trimmed, last - completion_start, **kwargs
        )
        missing = input_ids.shape[1] - last
        if missing:
            logps = torch.nn.functional.pad(logps, (0, missing))
            entropies = None if entropies is None else torch.nn.functional.pad(entropies, (0, missing))
        return logps, entropies, aux

    @torch.no_grad()
    def _policy_scores(
        self: Any, chats: Sequence[list[int]], completion_ids: Sequence[list[int]], batch: int
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """By `batch` rows: the first one's index, log-probabilities, entropies and mask `(B, T)`."""
        for start in range(0, len(chats), batch):
            rows = slice(start, start + batch)
            ids, mask, width = pad_pairs(chats[rows], completion_ids[rows], self._tokenizer.pad_token_id)
            ids, mask = ids.to(self.accelerator.device), mask.to(self.accelerator.device)
            logps, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, width, compute_entropy=True
            )
            assert entropies is not None
            yield start, logps, entropies, mask[:, -width:]


def _unpacked(values: Tensor, mask: Tensor) -> Tensor:
    """`(M,)` values of a batch's completion tokens at their places `(B, T)`, 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
