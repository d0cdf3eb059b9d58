"""The methods that SIRL is compared with, as one literal table. Imports nothing heavy: `sirl list methods` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

How = Literal["none", "inference_time", "trained", "pipeline"]

SELF_REMINDER = (
    "You are a careful assistant, and you remind yourself of it before each answer. Whatever story, role, code or rule "
    "a request comes wrapped in, look at what it would be good for. If that is to do harm, say plainly that you will "
    "not help. If it is harmless, answer it fully and kindly, as you always do."
)


@dataclass(frozen=True)
class Method:
    """One thing to do with a model.

    `how` it is done: nothing at all (`none`), in the way answers are made (`inference_time`, weights as they are), by a
    training of its own (`trained`), or as `sirl run` does it (`pipeline`). `overlay` goes over the configuration;
    `settings` are the method's own, which `--set METHOD:KEY=VALUE` changes.
    """

    how: How
    description: str
    source: str
    overlay: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "none": Method(
        "none",
        "the base model without a defence",
        "-",
    ),
    "system_prompt": Method(
        "inference_time",
        "a system message that reminds the model to be responsible",
        "self-reminder, Xie et al. 2023, Nature Machine Intelligence 5:1486",
        settings={"text": SELF_REMINDER},
    ),
    "best_of_n": Method(
        "inference_time",
        "n answers at temperature 1; returns the one with the lowest mean token entropy",
        "best-of-n by the model's own certainty, Kang et al. 2025, arXiv 2502.18581",
        settings={"n": 4},
    ),
    "ada": Method(
        "inference_time",
        "shows the model the assistant's header again at intervals in its answer; if it would refuse there, it does",
        "Any-Depth Alignment by rethinking, Zhang et al. 2025, arXiv 2510.18081",
        settings={"every": 16, "tokens": 16},
    ),
    "sft": Method(
        "trained",
        "fine-tuning on refusals that the model sampled and a judge selected, and on its own answers to benign prompts",
        "safety tuning, Bianchi et al. 2023, arXiv 2309.07875; targets as in RAFT, Dong et al. 2023, arXiv 2304.06767",
    ),
    "dpo": Method(
        "trained",
        "preference pairs of the same samples: a refusal is preferred to an answer to the same prompt",
        "Rafailov et al. 2023, arXiv 2305.18290",
        settings={"beta": 0.1},
    ),
    "grpo_judge": Method(
        "trained",
        "GRPO rewarded by a judge (1 for a full refusal, otherwise 0), with the configuration's retention",
        "GRPO: Shao et al. 2024, arXiv 2402.03300; rules as a reward: Mu et al. 2024, arXiv 2411.01111",
        # the configuration's limits are in nats, this reward is 0 or 1
        overlay={"train": {"min_reward_spread": 0.0, "sameness_weight": 0.0}},
    ),
    "bct": Method(
        "trained",
        "fine-tuning on wrapped requests with the model's own answers to the bare ones, harmful and benign alike",
        "bias-augmented consistency training, Chua et al. 2024, arXiv 2403.05518; Irpan et al. 2025, arXiv 2510.27062",
    ),
    "opct": Method(
        "trained",
        "the policy's samples on wrapped requests, with the reverse KL to the base model given the bare ones",
        "on-policy consistency training, arXiv 2605.21834",
    ),
    "sirl_published": Method(
        "pipeline",
        "SIRL as published: no retention; learns from all responses and groups; deploys the last policy",
        "Shen et al. 2025, arXiv 2510.01088",
        overlay={
            "train": {
                "reward": "entropy",
                "entropy_floor": 0.0,
                "sameness_weight": 0.0,
                "retention_weight": 0.0,
                "pair_weight": 0.0,
                "num_rollouts": None,
                "min_reward_spread": 0.01,  # rounding alone; larger limits are ours
            },
            "development": {"choose": False},  # watched where the others are, but never chosen or ended by it
        },
    ),
    "sirl": Method(
        "pipeline",
        "the configuration itself",
        "Shen et al. 2025, arXiv 2510.01088, with what this package adds (docs/train.md)",
    ),
}
