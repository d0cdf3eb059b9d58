"""`SIRLTrainer`: TRL's GRPO with the policy's own certainty as the only reward.

What is TRL's stays TRL's: gathering, group advantages, clipped loss, KL, PEFT, FSDP, DeepSpeed, vLLM, trackers,
checkpoints. Added here:

- rollouts by our engine through TRL's `rollout_func`, which brings entropies and log-probabilities along for free; with
  vLLM, which cannot return exact entropies, a forward pass of the training model gives them: the one that TRL makes for
  its importance weights, where it makes one (`_score_rollouts`);
- entropies that are known from the rollouts are not computed again in the update;
- of `num_rollouts` responses to a prompt, TRL learns from the `num_generations` whose rewards differ most;
- what the responses to other prompts say too is worth less, where that is wanted (`sameness_weight`);
- groups whose rewards hardly differ get advantage 0 (`min_reward_spread`), and those in which the certain responses are
  the rare ones, where that is wanted (`min_certain_share`);
- retention and pairs, added to the loss (`sirl.training.holding`);
- completions are scored as one sequence without padding, each prompt once (`sirl.training.packed`);
- a sampler that knows its epoch, so that a resumed run repeats what an uninterrupted one does.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer

from sirl.chat.encoding import EncodingError, context_length, encode_chat, with_template_arguments
from sirl.diversity import sameness
from sirl.entropy import mean_token_entropy
from sirl.errors import UserError
from sirl.generation.base import SamplingParams
from sirl.generation.decode import Rollout
from sirl.models import check_tokenizer, load_model, load_tokenizer
from sirl.records import Prompt
from sirl.stats import mean_of
from sirl.training.batching import (
    EpochSampler,
    as_chats,
    eval_chats,
    group_runs,
    level_flat_groups,
    level_rare_groups,
    upper_share,
    widest_spread,
)
from sirl.training.config import SIRLConfig
from sirl.training.holding import Holding
from sirl.training.lora import adapters_alone, prepare_lora
from sirl.training.metrics import Watch, rollout_metrics
from sirl.training.policy_mixin import GivesBackMemory, PolicyMixin
from sirl.training.rewards import RewardFunction, reward_function
from sirl.training.scoring import Scoring
from sirl.training.sharding import check_rollouts, sharded
from sirl.visible import says_nothing
from sirl.weights.export import settle_generation_config
from sirl.weights.model_files import choose_padding

MEASURED = ("mean_entropy", "first_entropy", "mean_logprob", "reward_seed")
"""Columns that rewards are made of: None where a completion earns none."""

HOOKS: dict[str, tuple[str, ...]] = {
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_get_per_token_logps_and_entropies": ("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
    "_compute_loss": ("self", "model", "inputs"),
    "_get_train_sampler": ("self", "dataset"),
    "_generate_and_score_completions": ("self", "inputs"),
}
"""Methods of TRL's trainer that are overridden, with the arguments counted on. One that went missing would silently do
nothing, so construction fails instead."""


def check_hooks() -> None:
    """Fail where TRL's trainer no longer has what we override, with the arguments that we count on."""
    for name, expected in HOOKS.items():
        method = getattr(GRPOTrainer, name, None)
        found = tuple(inspect.signature(method).parameters)[: len(expected)] if method else ()
        if found != expected:
            raise RuntimeError(f"this TRL has no GRPOTrainer.{name}{expected}; sirl needs trl>=1.16,<1.17")


class SIRLTrainer(Holding, PolicyMixin, Scoring, GRPOTrainer):  # type: ignore[misc]
    """GRPO on unlabeled prompts with an entropy reward: r = -mean_t H_t over a response's T tokens, in nats.

    As `trl.GRPOTrainer`, but for these: the reward is `args.reward`, so there are no `reward_funcs`; a text is a chat
    of one user turn (plain text in TRL); no tools, environments, other rollout functions or quantisation settings.

    Args:
        model: a causal LM, or its name, which `load_model` reads, in float32 where all of it is trained.
        args: settings; by default those of the paper.
        train_dataset: its column `prompt` holds texts or conversations, which may end with the beginning of an answer.
            No other column is looked at.
        eval_dataset: the same, one or several by name.
        processing_class: the tokenizer; by default the model's.
        retention_prompts: benign prompts on which the policy is held to the model that it started from.
        pair_prompts: wrapped forms of bare requests (`sirl.wrapping`), to be answered as the bare ones are.
        peft_config: as in TRL; without dropout.
        callbacks: as in TRL.
        optimizers: as in TRL.
        reward: another reward than `args.reward`: a TRL reward function. It is given `prompts`, `completion_ids`,
            `mean_entropy`, `first_entropy` and `mean_logprob`, one of each a response.
        watch: is given the texts of each batch and returns figures to log; they reach no reward.

    Raises:
        UserError: no prompts, or settings that would make the reward mean something else.

    Source: Shen et al., arXiv 2510.01088; group-relative advantages: Shao et al., arXiv 2402.03300.
    """

    _tag_names = ("trl", "grpo", "sirl")
    _name = "SIRL"

    def __init__(
        self,
        model: Any,
        args: SIRLConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        *,
        processing_class: Any = None,
        retention_prompts: Sequence[Prompt | str] = (),
        pair_prompts: Sequence[Prompt] = (),
        peft_config: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        reward: RewardFunction | None = None,
        watch: Watch | None = None,
    ) -> None:
        check_hooks()
        if train_dataset is None:
            raise UserError("train_dataset: give the prompts to train on")
        if isinstance(model, str):
            processing_class = processing_class or load_tokenizer(model)
            dtype = None if peft_config else torch.float32
            model = load_model(model, dtype=dtype, place=args is None or not sharded(args))
        args = args or SIRLConfig(f"{Path(model.config._name_or_path or 'model').name}-SIRL")
        check_rollouts(args)
        self._reward, self._watch = reward or reward_function(args.reward, args.entropy_floor), watch
        if processing_class is not None:
            check_tokenizer(processing_class, getattr(processing_class, "name_or_path", "model"))
            choose_padding(processing_class, getattr(model.config.get_text_config(), "vocab_size", None))
        settle_generation_config(model)
        if getattr(peft_config, "lora_dropout", None):
            raise UserError("--lora_dropout: dropout makes the entropy reward noisy; leave it at 0")
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is tested with the TRL that we pin
        super().__init__(
            model=model,
            reward_funcs=[self._reward],
            args=args,
            train_dataset=as_chats(train_dataset),
            eval_dataset=eval_chats(eval_dataset),
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
            optimizers=optimizers,
            rollout_func=None if args.use_vllm else self._rollout,
        )
        args.check_save_steps()
        if args.template_arguments:
            with_template_arguments(self.processing_class, args.template_arguments)
        prepare_lora(self)
        self.add_callback(GivesBackMemory())
        self._prepare_packing()
        self._adapters = adapters_alone(self) if self._packs else []
        self._context = context_length(self.model.config)
        self._hold(retention_prompts, pair_prompts)
        self._update_seen, self._update_began = -1, 0

    # -- rollouts ---------------------------------------------------------------------------------------------------

    def _rollout(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: this process's rows of the batch, prompts repeated once per response."""
        chats = self._encoded(prompts)
        first_row = self.accelerator.process_index * len(prompts)
        group = self.num_generations if self.model.training else self.num_generations_eval
        more = (self.args.num_rollouts or group) // group if self.model.training else 1
        rows: list[dict[str, Any]] = [{}] * len(chats)
        with self.policy() as engine:
            for (n, first), starts in group_runs(chats, first_row, group).items():
                params = SamplingParams(
                    max_new_tokens=self.max_completion_length,
                    temperature=self.temperature,
                    n=n * more,
                    seed=self._rollout_seed(),
                )
                drawn = engine.rollout([chats[i] for i in starts], params, None, first * more)
                for start, responses in zip(starts, drawn, strict=True):
                    rows[start : start + n] = self._chosen(prompts[start], responses, n, (first_row + start) * more)
        return {"prompt_ids": chats, "logprobs": None} | {name: [row[name] for row in rows] for name in rows[0]}

    def _encoded(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Token ids of conversations; `sirl.training.run` has left out those that have none."""
        try:
            return [encode_chat(self.processing_class, tuple(p), self._context) for p in prompts]
        except EncodingError as error:
            raise UserError(f"a training prompt cannot be sent to the model ({error}): leave it out") from error

    def _chosen(self, prompt: Any, responses: Sequence[Rollout], n: int, first: int) -> list[dict[str, Any]]:
        """The `n` of a prompt's responses whose rewards differ most, as columns; `first` counts responses before."""
        seed = self._rollout_seed() * 1_000_003 + first
        entropies = [mean_of(r.entropies) for r in responses]
        known = [h for h in entropies if h is not None]
        columns: dict[str, list[Any]] = {
            "completion_ids": [r.token_ids for r in responses],
            "mean_entropy": entropies,
            "first_entropy": [mean_of(r.entropies[: self.args.reward_tokens]) for r in responses],
            "mean_logprob": [mean_of(r.logprobs) for r in responses],
            "reward_seed": [seed + i for i in range(len(responses))],
            "drawn_entropy": [mean_of(known)] * len(responses),
            "token_entropies": [r.entropies for r in responses],
        }
        for i, response in enumerate(responses):
            if self._says_nothing(response.token_ids):
                for name in MEASURED:
                    columns[name][i] = None
        chosen: Sequence[int] = range(n)
        if len(responses) > n or self.args.min_certain_share:
            rewards = self._reward(prompts=[prompt] * len(responses), **columns)
            columns["certain_share"] = [upper_share(rewards)] * len(responses)
            chosen = widest_spread(rewards, n)
        return [{name: values[i] for name, values in columns.items()} for i in chosen]

    def _rollout_seed(self) -> int:
        """Changes with every generation batch, and is the same again when a run is resumed at one."""
        return (self.args.seed * 1_000_003 + self.state.global_step) * 1_009 + self._micro_step()

    def _micro_step(self) -> int:
        """Which micro-batch of its update this is. TRL's own count starts anew in a resumed run."""
        if self._update_seen != self.state.global_step:
            self._update_seen, self._update_began = self.state.global_step, self._step
        return self._step - self._update_began

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._scores_once():
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            self._remember_entropies(output)
        empty = output["completion_mask"].sum(-1) == 0
        if bool(empty.any()):  # truncated rows under mask_truncated_completions: nothing of them may be learnt
            output["advantages"] = output["advantages"].masked_fill(empty, 0.0)
        spread = self.accelerator.gather(output["advantages"]).std(correction=0)
        self._metrics["train" if self.model.training else "eval"]["advantage_spread"].append(spread.item())
        return output

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        self._drawn = [row.pop("token_entropies", None) for row in inputs]  # no reward is made of them
        if "mean_entropy" not in inputs[0]:
            self._score_rollouts(inputs, prompts, completion_ids_list)
        if self.mask_truncated_completions:
            for row, ids in zip(inputs, completion_ids_list, strict=True):
                if ids and ids[-1] not in self.eos_token_ids:
                    # a masked response has no entropy, not entropy 0
                    row["mean_entropy"] = row["first_entropy"] = row["mean_logprob"] = None
        texts = [c[-1]["content"] if isinstance(c, list) else c for c in completions]
        watched = self._watch(texts) if self._watch else {}
        for name, value in {**rollout_metrics(texts, completion_ids_list), **watched}.items():
            self._log_metric(name, value)
        drawn = [row.get("drawn_entropy", row["mean_entropy"]) for row in inputs]  # of all, not of those chosen
        entropies = [h for h in drawn if h is not None]
        if entropies:
            self._log_metric("rollout_entropy", sum(entropies) / len(entropies))
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        group = self.num_generations if self.model.training else self.num_generations_eval
        if self.args.sameness_weight:
            together = gather_object(texts)  # of all processes, in the order of the rewards
            shares = sameness(together, [i // group for i in range(len(together))])
            self._log_metric("sameness", sum(shares) / len(shares))
            rewards = rewards - self.args.sameness_weight * rewards.new_tensor(shares).unsqueeze(-1)
        rewards = level_flat_groups(rewards, group, self.args.min_reward_spread)
        if not self.args.min_certain_share:
            return rewards
        if "certain_share" in inputs[0]:
            certain = gather_object([row["certain_share"] for row in inputs])
        else:  # another engine drew no more than are learnt from
            groups = [g[:, 0].tolist() for g in rewards.split(group)]
            certain = [upper_share([None if math.isnan(r) else r for r in g]) for g in groups for _ in g]
        self._log_metric("certain_share", sum(certain) / len(certain))
        return level_rare_groups(rewards, group, certain, self.args.min_certain_share)

    def _score_rollouts(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completion_ids: list[list[int]]
    ) -> None:
        """Entropies and log-probabilities of responses that another engine sampled, by one pass of the policy."""
        seed, first_row = self._rollout_seed(), self.accelerator.process_index * len(prompts)
        batch = max(self.args.per_device_train_batch_size, 1)
        found: Any = [(0, *self._scored)] if self._scored else None
        for start, logps, entropies, kept in found or self._policy_scores(
            self._encoded(prompts), completion_ids, batch
        ):
            first = kept * (torch.arange(kept.shape[1], device=kept.device) < self.args.reward_tokens)
            means = {
                "mean_entropy": mean_token_entropy(entropies, kept).tolist(),
                "first_entropy": mean_token_entropy(entropies, first).tolist(),
                "mean_logprob": mean_token_entropy(logps, kept).tolist(),
            }
            for i, ids in enumerate(completion_ids[start : start + len(kept)]):
                row = inputs[start + i]
                row |= {name: values[i] if ids else None for name, values in means.items()}
                row["reward_seed"] = seed * 1_000_003 + first_row + start + i
                row["drawn_entropy"] = row["mean_entropy"]
                if self._says_nothing(ids):
                    row |= dict.fromkeys(MEASURED)

    def _says_nothing(self, token_ids: Sequence[int]) -> bool:
        """Whether a completion is without text: rewarding its certainty would teach silence."""
        return says_nothing(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    # -- update -----------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        held: list[Tensor] = []
        if self.model.training:  # first, where their activations are freed before GRPO's are made
            held += self._held_loss(model, "retention", self._held, self.args.retention_weight)
            held += self._held_loss(model, "pair", self._pair_deck(), self.args.pair_weight)
        with self._entropies_known(inputs):
            loss: Tensor = super()._compute_loss(model, inputs)
        return sum(held, start=loss)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See `transformers.Trainer.evaluate`. Prompts are answered `num_generations_eval` times and rewarded."""
        found: dict[str, float] = super().evaluate(eval_chats(eval_dataset), *args, **kwargs)
        return found

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        return EpochSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )
