"""Nothing is scored twice: neither what vLLM drew, nor entropies in the update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import HELD, tiny_trainer, trainable

from sirl.generation.local import LocalEngine
from sirl.training import scoring
from sirl.training.retention import Deck, reference_answers

Pass = tuple[bool, bool, int]
"""Of a scoring pass: whether it has gradients, whether it gives entropies, its completion tokens."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    """Scoring passes in order."""
    seen: list[Pass] = []
    plain = scoring.packed_scores

    def watched(model: Any, packed: Any, temperature: float, entropy: bool) -> Any:
        seen.append((torch.is_grad_enabled(), entropy, len(packed.targets)))
        return plain(model, packed, temperature, entropy)

    monkeypatch.setattr(scoring, "packed_scores", watched)
    return seen


@pytest.mark.parametrize("masked", [False, True])
def test_what_another_engine_drew_is_scored_once(
    masked: bool, passes: list[Pass], tmp_path: Path, model_folder: Any
) -> None:
    """TRL scores it for its importance weights; only where it leaves responses out do we score it ourselves."""
    trainer = tiny_trainer(
        tmp_path,
        model_folder("llama"),
        per_device_train_batch_size=4,
        steps_per_generation=3,
        beta=0.0,
        mask_truncated_completions=masked,
        max_steps=1,
    )
    trainer.rollout_func = None  # as with vLLM
    trainer.train()
    [step] = trainer.record.steps
    whole = sum(map(len, step.completion_ids))
    scored = [tokens for grad, _, tokens in passes if not grad]
    if masked:
        assert whole < sum(scored) <= 2 * whole
        return
    assert sum(scored) == whole
    said = [i for i, h in enumerate(step.mean_entropy) if h is not None]
    assert [step.mean_entropy[i] for i in said] == pytest.approx([step.reference_entropy[i] for i in said], abs=1e-4)
    assert [step.mean_logprob[i] for i in said] == pytest.approx([step.reference_logprob[i] for i in said], abs=1e-4)


def test_a_reference_is_not_taken_for_the_policy(passes: list[Pass], tmp_path: Path, model_folder: Any) -> None:
    """It is scored behind the policy, with adapters off, and gives no entropies."""
    trainer = tiny_trainer(
        tmp_path, model_folder("llama"), per_device_train_batch_size=4, steps_per_generation=2, beta=0.1, max_steps=4
    )
    trainer.rollout_func = None
    trainer.train()
    for step in trainer.record.steps:
        for got, expected in zip(step.mean_entropy, step.reference_entropy, strict=True):
            assert got is None or got == pytest.approx(expected, abs=1e-4)
    assert [wanted for grad, wanted, _ in passes if not grad][:4] == [True, True, False, False]


def test_entropies_are_not_computed_again_in_the_update(passes: list[Pass], tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(
        tmp_path, model_folder("qwen2"), per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    trainer.train()
    assert [wanted for grad, wanted, _ in passes if grad] == [False] * 4


@pytest.mark.parametrize("level", ["one group", "all"])
def test_rows_that_nothing_is_learnt_from_are_not_scored(
    level: str, passes: list[Pass], tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update is the same as when they are."""
    settings: dict[str, Any] = {"beta": 0.0, "max_steps": 1, "retention": HELD}
    plain = tiny_trainer(tmp_path / "plain", model_folder("llama"), **settings)
    plain.train()
    groups = plain.record.steps[0].rewards.view(2, 4)  # NaN: a response without text
    spreads = [float(g[~g.isnan()].max() - g[~g.isnan()].min()) for g in groups]
    settings["min_reward_spread"] = sum(spreads) / 2 if level == "one group" else 1e6
    weights, scored = [], []
    for all_rows in (False, True):
        with monkeypatch.context() as patch:
            if all_rows:
                patch.setattr(scoring.Scoring, "_rows_learnt_from", lambda *_: None)
            trainer = tiny_trainer(tmp_path / str(all_rows), model_folder("llama"), **settings)
            passes.clear()
            trainer.train()
        weights.append(trainable(trainer))
        scored.append([tokens for grad, entropy, tokens in passes if grad])
    [step] = trainer.record.steps
    lengths = [len(ids) for ids in step.completion_ids]
    learnt = [n for n, advantage in zip(lengths, step.advantages.tolist(), strict=True) if advantage]
    assert bool(learnt) == (level == "one group")
    assert len(learnt) <= 4
    assert scored[1] == [sum(lengths)]
    assert scored[0] == [sum(learnt)] if learnt else scored[0][0] in lengths  # one row, for the forward pass
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("old", [False, True])
def test_all_rows_are_scored_where_others_are_held_against_them(beta: float, old: bool) -> None:
    """With vLLM TRL has log-probabilities of the batch: without a row's new ones their ratio could be infinite."""
    trainer: Any = type("Trainer", (scoring.Scoring,), {"beta": beta, "aux_loss_enabled": False})()
    trainer.model, trainer._known = torch.nn.Linear(1, 1).train(), torch.zeros(3, 2)
    inputs = {"advantages": torch.tensor([0.0, 1.0, -1.0]), "old_per_token_logps": torch.zeros(3, 2) if old else None}
    rows = trainer._rows_learnt_from(inputs)
    assert (None if rows is None else rows.tolist()) == (None if beta or old else [False, True, True])


def test_the_entropy_that_is_logged(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), max_steps=1)
    trainer.train()
    [step] = trainer.record.steps
    lengths = [len(ids) for ids in step.completion_ids]
    expected = sum(h * n for h, n in zip(step.reference_entropy, lengths, strict=True)) / sum(lengths)
    assert trainer.state.log_history[0]["entropy"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("settings", [{"steps_per_generation": 2}, {"num_iterations": 2}])
def test_a_policy_that_has_moved_is_scored_again(
    settings: dict[str, Any], passes: list[Pass], tmp_path: Path, model_folder: Any
) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), per_device_train_batch_size=4, max_steps=2, **settings)
    trainer.train()
    assert {wanted for grad, wanted, _ in passes if grad} == {True}


def test_processes_wait_for_each_other_once_an_update(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(
        tmp_path,
        model_folder("llama"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        retention=HELD,
        retention_batch_size=8,
    )
    engine = LocalEngine(trainer.model, trainer.processing_class)
    trainer._held = Deck(reference_answers(engine, trainer._retention_prompts, 6), 8, seed=0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    gathered: list[float] = []

    def gather(value: torch.Tensor) -> torch.Tensor:
        gathered.append(value.item())
        return torch.stack([value, 3 * value])  # another process has three times as much

    trainer.accelerator.gather = gather
    losses = []
    for trainer._step in range(2):
        losses.append(sum(trainer._held_loss(trainer.model, "retention", trainer._held, 0.5)).item())
    assert len(gathered) == 1
    assert min(losses) > 1e-3
    assert gathered[0] == pytest.approx(2 * sum(losses), rel=1e-5)
    assert trainer._metrics["train"]["retention_kl"] == [pytest.approx(4 * sum(losses), rel=1e-5)]
