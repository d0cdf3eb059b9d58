"""`SIRLConfig`: the paper's defaults, and one clear line for every setting that would break the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig

from sirl.errors import UserError
from sirl.training import SIRLConfig
from sirl.training.config import REWARDS, own_fields


def config(tmp_path: Path, **settings: Any) -> SIRLConfig:
    options = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "per_device_train_batch_size": 8}
    return SIRLConfig(**{**options, **settings})


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert made.num_generations == 4
    assert made.temperature == 1.0
    assert made.beta == 0.001
    assert made.epsilon == 0.2
    assert made.epsilon_high is None
    assert made.learning_rate == 1e-6
    assert made.optim.startswith("adamw")
    assert made.max_completion_length == 3072
    assert made.max_prompt_tokens == 1024
    assert made.reward == "entropy"
    assert made.scale_rewards == "group"
    assert made.num_iterations == 1
    assert made.loss_type == "grpo"
    assert made.disable_dropout
    assert not made.gradient_checkpointing, "on a CPU it only costs time"
    assert not made.bf16, "the model's own type decides"


def test_own_fields() -> None:
    assert own_fields()["reward"] == "entropy"
    assert "beta" not in own_fields()
    assert {"min_reward_spread", "retention_weight", "retention_tokens", "max_prompt_tokens"} <= set(own_fields())


@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_to_choose(reward: str, tmp_path: Path) -> None:
    assert config(tmp_path, reward=reward).reward == reward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"reward": "refusals"},
            "--reward refusals: unknown; choose from entropy, first_k, neg_entropy,",
        ),
        ({"num_rollouts": 6, "num_generations": 4}, "--num_rollouts 6: give a multiple of --num_generations (4)"),
        ({"num_rollouts": 8, "use_vllm": True}, "--num_rollouts: not with vLLM"),
        ({"num_generations": 1}, "--num_generations 1: an advantage compares responses to one prompt; give 2 or more"),
        ({"entropy_coef": 0.1}, "--entropy_coef/--use_adaptive_entropy: TRL's entropy bonus"),
        ({"use_adaptive_entropy": True}, "--entropy_coef/--use_adaptive_entropy: TRL's entropy bonus"),
        ({"disable_dropout": False}, "--disable_dropout false: dropout makes the entropy reward noisy"),
        ({"temperature": 0.0}, "--temperature 0.0: rollouts are sampled"),
        ({"seed": 2**32}, "--seed 4294967296: give a number from 0"),
        ({"seed": -1}, "--seed -1: give a number from 0"),
        ({"temperature": -1.0}, "--temperature -1.0: rollouts are sampled"),
        ({"top_p": 0.9}, "--top_p 0.9: responses would come from another distribution"),
        ({"top_k": 50}, "--top_k 50: responses would come from another distribution"),
        ({"min_p": 0.05}, "--min_p 0.05: responses would come from another distribution"),
        ({"repetition_penalty": 1.1}, "--repetition_penalty 1.1: responses would come from another distribution"),
        ({"generation_kwargs": {"top_p": 0.9}}, "--generation_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "--chat_template_kwargs: tokenize is decided by sirl"),
        ({"chat_template_kwargs": "enable_thinking"}, "--chat_template_kwargs enable_thinking: expected JSON or KEY=V"),
        ({"retention_weight": -1.0}, "--retention_weight -1.0: give 0 or more"),
        ({"min_reward_spread": -0.1}, "--min_reward_spread -0.1: give 0 or more"),
        ({"sameness_weight": -1.0}, "--sameness_weight -1.0: give 0 or more"),
        ({"entropy_floor": -1.0}, "--entropy_floor -1.0: give 0 or more"),
        ({"entropy_floor": 0.5, "reward": "random"}, "--entropy_floor 0.5: only with --reward entropy or first_k"),
        ({"retention_first_weight": 0.0}, "--retention_first_weight 0.0: give more than 0"),
        ({"max_cache_gb": 0.0}, "--max_cache_gb 0: give a number of GiB above 0"),
        ({"max_cache_gb": float("nan")}, "--max_cache_gb nan: give a number of GiB above 0"),
        ({"retention_batch_size": 0}, "--retention_batch_size 0: give 1 or more"),
        ({"retention_tokens": 0}, "--retention_tokens 0: give 1 or more"),
        ({"max_prompt_tokens": 0}, "--max_prompt_tokens 0: give 1 or more"),
        ({"reward_tokens": 0}, "--reward_tokens 0: give 1 or more"),
        ({"per_device_train_batch_size": 6}, "generation_batch_size"),
        ({"generation_batch_size": 12}, "generation_batch_size"),
    ],
)
def test_rejected(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config(tmp_path, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 1.0}, {"top_p": None}, {"top_k": 0}, {"top_k": None}, {"top_k": -1}, {"min_p": 0.0}, {"min_p": None}],
)
def test_what_changes_nothing_is_accepted(settings: dict[str, Any], tmp_path: Path) -> None:
    config(tmp_path, **settings)


# updates per generation batch: lcm(steps_per_generation * num_iterations, gradient_accumulation_steps) / the latter
@pytest.mark.parametrize(
    ("spg", "iterations", "accumulation", "period"),
    [(1, 1, 1, 1), (4, 1, 1, 4), (4, 1, 2, 2), (2, 1, 4, 1), (2, 3, 2, 3), (2, 2, 4, 1), (3, 1, 2, 3)],
)
def test_checkpoints_fall_where_a_generation_batch_ends(
    spg: int, iterations: int, accumulation: int, period: int, tmp_path: Path
) -> None:
    settings = {
        "steps_per_generation": spg,
        "num_iterations": iterations,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "steps",
    }
    config(tmp_path, **settings, save_steps=2 * period).check_save_steps()
    if period > 1:
        with pytest.raises(UserError, match=rf"--save_steps {period + 1}: must be a multiple of {period}"):
            config(tmp_path, **settings, save_steps=period + 1).check_save_steps()
        config(tmp_path, **{**settings, "save_strategy": "no"}, save_steps=period + 1).check_save_steps()
        config(tmp_path, **{**settings, "save_strategy": "epoch"}, save_steps=period + 1).check_save_steps()


def test_transformers_that_has_one_name_of_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 0.32 asks for transformers before 5.20: no training could be started beside it."""

    class Older(SIRLConfig):
        def __getattribute__(self, name: str) -> Any:
            if name == "activation_checkpointing":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(GRPOConfig, "__post_init__", lambda _: None)
    assert Older(str(tmp_path), use_cpu=True).gradient_checkpointing is False
    assert Older(str(tmp_path), use_cpu=True, gradient_checkpointing=True).gradient_checkpointing is True
