"""`SIRLConfig`: TRL's `GRPOConfig` with the paper's defaults and SIRL's own settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from trl import GRPOConfig

from sirl.chat.template import FLAG, check_arguments, parse_arguments
from sirl.errors import UserError
from sirl.records import MAX_SEED
from sirl.redaction import is_secret

REWARDS: dict[str, str] = {
    "entropy": "minus the mean token entropy of the completion (SIRL, arXiv 2510.01088)",
    "first_k": "minus the mean entropy of the first tokens alone (--reward_tokens)",
    "neg_entropy": "plus the mean token entropy: the reverse control, which should weaken refusals",
    "neg_perplexity": "minus the perplexity of the completion under the policy that wrote it",
    "random": "uniform noise: the control that nothing but the reward's content matters",
}
"""Rewards to choose from. None of them reads a label, a judge or a reward model."""

PAIR_REFERENCES = ("start", "policy")
PAIR_TARGETS = {
    "clean": "the answer to the bare request is held on its wrapped forms",
    "gated": "that where the bare request is refused; else the base model's own answer to the wrapped form",
}
"""What wrapped requests are held to."""

FLOORED = ("entropy", "first_k")
"""Rewards that `entropy_floor` can be put under."""


@dataclass
class SIRLConfig(GRPOConfig):  # type: ignore[misc]
    """Settings of a SIRL run; everything else is as in `trl.GRPOConfig`.

    Defaults follow the paper where it states them: groups of 4, temperature 1, KL beta 0.001, clip 0.2, learning rate
    1e-6, prompts up to 1,024 and completions up to 3,072 tokens.
    """

    beta: float = field(default=0.001, metadata={"help": "Weight of the KL to the base model (default of TRL: 0)."})
    num_generations: int | None = field(default=4, metadata={"help": "Responses to learn from per prompt (G)."})
    num_rollouts: int | None = field(
        default=None,
        metadata={
            "help": "Responses to sample per prompt, a multiple of num_generations; training keeps the num_generations "
            "whose rewards differ most (PODS, arXiv 2504.13818). Default: num_generations."
        },
    )
    max_completion_length: int | None = field(default=3072, metadata={"help": "Token limit of a response."})
    max_prompt_tokens: int = field(
        default=1024, metadata={"help": "Leave out prompts with more tokens than this, chat template included."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Sampling temperature. The entropy is that of the sampling distribution."}
    )
    loss_type: str = field(
        default="grpo",
        metadata={"help": "Loss formulation: `grpo` averages over sequences, as the reward does, `dapo` over tokens."},
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Must stay true: dropout makes the reward noisy."})
    logging_steps: float = field(default=1, metadata={"help": "Log every N updates."})
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Trade time for memory. Default: true on accelerators, false on a CPU."}
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Chat template arguments, as JSON or comma-separated KEY=VALUE, such as enable_thinking=false."
        },
    )
    reward: str = field(default="entropy", metadata={"help": "Reward: " + ", ".join(REWARDS) + "."})
    reward_tokens: int = field(default=8, metadata={"help": "Number of first tokens that --reward first_k counts."})
    entropy_floor: float = field(
        default=0.0,
        metadata={
            "help": "Reward entropies below this (nats) alike, with --reward entropy or first_k. This keeps refusals "
            "from collapsing to the most certain sentence. 0: as in the paper."
        },
    )
    sameness_weight: float = field(
        default=0.0,
        metadata={
            "help": "Penalty (nats) for a response that shares a sentence, in any wording, with the responses to all "
            "other prompts of the update; less if with fewer. Keeps the model from saying one thing to everything."
        },
    )
    min_reward_spread: float = field(
        default=0.01,
        metadata={
            "help": "Ignore groups whose rewards differ by less than this (largest minus smallest, nats): their tiny "
            "standard deviation would turn rounding into advantages."
        },
    )
    min_certain_share: float = field(
        default=0.0,
        metadata={
            "help": "Ignore groups in which less than this share of the responses is nearer to the most certain one "
            "than to the least certain one. At 0.5, rare responses, such as refusals of benign prompts, are not made "
            "more likely. 0: keep all groups, as in the paper."
        },
    )
    retention_weight: float = field(default=1.0, metadata={"help": "Weight of the retention loss."})
    retention_batch_size: int = field(default=16, metadata={"help": "Retention prompts per update and process."})
    retention_tokens: int = field(
        default=32, metadata={"help": "Number of tokens of the base model's answer to match."}
    )
    retention_first_weight: float = field(
        default=8.0,
        metadata={"help": "Weight of the first 4 tokens of an answer, in which the model decides whether to refuse."},
    )

    pair_weight: float = field(
        default=4.0,
        metadata={"help": "Weight of the paired loss, which teaches to answer a wrapped request as the bare one."},
    )
    pair_batch_size: int = field(default=24, metadata={"help": "Wrapped requests per update and process."})
    pair_tokens: int = field(
        default=8, metadata={"help": "Number of tokens of the answer to the bare request to match."}
    )
    pair_sharpness: float = field(
        default=1.0,
        metadata={
            "help": "Raise the probabilities of the answer to the bare request to this power: above 1, its decision is "
            "kept more firmly than the model was sure of it."
        },
    )
    pair_reference: str = field(
        default="start",
        metadata={
            "help": "Model whose answer to the bare request is the target: start (as it is when pairs begin) or policy "
            "(as it is at each update)."
        },
    )
    pair_start: int = field(
        default=0,
        metadata={
            "help": "Start pairs after this many updates, so that what the reward has decided about bare requests "
            "carries over to wrapped ones. 0: pairs from the first update, with the base model's answers."
        },
    )
    pair_target: str = field(default="clean", metadata={"help": "Paired loss: " + ", ".join(PAIR_TARGETS) + "."})

    max_cache_gb: float | None = field(
        default=None,
        metadata={
            "help": "Limit the keys and values of a batch of rollouts to this many GiB. Default: half of an "
            "accelerator's free memory, 2 on a CPU."
        },
    )
    packed_scoring: bool | None = field(
        default=None,
        metadata={
            "help": "Score the completions of a batch as one sequence without padding. Default: true on a CPU for "
            "models with plain full attention and without gradient checkpointing."
        },
    )

    def __post_init__(self) -> None:
        on_cpu = self.use_cpu or not torch.accelerator.is_available()
        newer_name = getattr(self, "activation_checkpointing", None)  # not in the transformers that vLLM 0.32 asks for
        if self.gradient_checkpointing is None and newer_name is None:
            self.gradient_checkpointing = not on_cpu
        if on_cpu:
            self.dataloader_pin_memory = False  # there is no device to pin for, and torch would say so at every start
        if getattr(self, "bf16", None) is None and on_cpu:
            # On a CPU autocast over float32 weights costs twice what bfloat16 weights do: the model's own type decides
            self.bf16 = False
        self._reject_what_breaks_the_method()
        given = self.chat_template_kwargs
        if given is not None:
            found = parse_arguments(given) if isinstance(given, str) else check_arguments(given, FLAG)
            self.chat_template_kwargs = found or None
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from error

    def _reject_what_breaks_the_method(self) -> None:
        if self.reward not in REWARDS:
            raise UserError(f"--reward {self.reward}: unknown; choose from {', '.join(REWARDS)}")
        if self.num_generations is not None and self.num_generations < 2:
            raise UserError(
                f"--num_generations {self.num_generations}: an advantage compares responses to one prompt; "
                "give 2 or more"
            )
        drawn, kept = self.num_rollouts, self.num_generations
        if drawn is not None and (kept is None or drawn < kept or drawn % kept):
            raise UserError(f"--num_rollouts {drawn}: give a multiple of --num_generations ({kept})")
        if drawn is not None and drawn != kept and self.use_vllm:
            raise UserError("--num_rollouts: not with vLLM, which TRL asks for --num_generations responses")
        if self.entropy_coef != 0.0 or self.use_adaptive_entropy:
            raise UserError(
                "--entropy_coef/--use_adaptive_entropy: TRL's entropy bonus pulls against SIRL's reward; leave it off"
            )
        if not self.disable_dropout:
            raise UserError("--disable_dropout false: dropout makes the entropy reward noisy; leave it on")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"--seed {self.seed}: give a number from 0 to {MAX_SEED}")
        if self.temperature <= 0:
            raise UserError(f"--temperature {self.temperature}: rollouts are sampled; give a value above 0")
        narrowed = {
            "top_p": self.top_p not in (None, 1.0),
            "top_k": self.top_k not in (None, 0, -1),
            "min_p": self.min_p not in (None, 0.0),
            "repetition_penalty": self.repetition_penalty not in (None, 1.0),
            "generation_kwargs": bool(self.generation_kwargs),
        }
        for name, given in narrowed.items():
            if given:
                raise UserError(
                    f"--{name} {getattr(self, name)}: responses would come from another distribution than the one "
                    "whose entropy is rewarded; leave it at its default"
                )
        self._check_own()

    def _check_own(self) -> None:
        """Settings that TRL does not know are in their ranges."""
        at_least_0 = ("retention_weight", "min_reward_spread", "entropy_floor", "sameness_weight", "pair_weight")
        for name in (*at_least_0, "pair_start"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: give 0 or more")
        if not 0 <= self.min_certain_share <= 1:
            raise UserError(f"--min_certain_share {self.min_certain_share:g}: give a share, 0 to 1")
        if self.entropy_floor and self.reward not in FLOORED:
            raise UserError(
                f"--entropy_floor {self.entropy_floor}: only with --reward {' or '.join(FLOORED)}, not {self.reward}"
            )
        if self.max_cache_gb is not None and not 0 < self.max_cache_gb < math.inf:
            raise UserError(f"--max_cache_gb {self.max_cache_gb:g}: give a number of GiB above 0")
        for name in ("retention_first_weight", "pair_sharpness"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name} {getattr(self, name)}: give more than 0")
        if self.pair_target not in PAIR_TARGETS:
            raise UserError(f"--pair_target {self.pair_target}: unknown; choose from {', '.join(PAIR_TARGETS)}")
        if self.pair_reference not in PAIR_REFERENCES:
            raise UserError(
                f"--pair_reference {self.pair_reference}: unknown; choose from {', '.join(PAIR_REFERENCES)}"
            )
        if 0 < self.max_steps <= self.pair_start:
            raise UserError(
                f"--pair_start {self.pair_start}: pairs never begin; give less than --max_steps ({self.max_steps})"
            )
        whole = ("retention_batch_size", "retention_tokens", "pair_batch_size", "pair_tokens")
        for name in (*whole, "max_prompt_tokens", "reward_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give 1 or more")

    def __getstate__(self) -> dict[str, Any]:
        """Without the hub's token: the trainer saves a pickle of this (`training_args.bin`) in every checkpoint."""
        return {key: None if is_secret(key) else value for key, value in vars(self).items()}

    @property
    def template_arguments(self) -> dict[str, Any] | None:
        """`chat_template_kwargs`, which are a mapping once they are checked."""
        return self.chat_template_kwargs if isinstance(self.chat_template_kwargs, dict) else None

    def check_save_steps(self) -> None:
        """Checkpoints must fall where a generation batch ends, or a resumed run would not repeat the same updates."""
        accumulated = self.gradient_accumulation_steps
        period = math.lcm(self.steps_per_generation * self.num_iterations, accumulated) // accumulated
        if self.save_strategy == "steps" and self.save_steps >= 1 and self.save_steps % period:
            raise UserError(
                f"--save_steps {self.save_steps:g}: must be a multiple of {period} (updates per generation batch), so "
                "that a resumed run repeats the same updates"
            )


def own_fields() -> dict[str, Any]:
    """Names and defaults of the settings that `SIRLConfig` adds to TRL's."""
    inherited = {f.name for f in fields(GRPOConfig)}
    return {f.name: f.default for f in fields(SIRLConfig) if f.name not in inherited}
