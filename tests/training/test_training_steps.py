"""What one update does: its rewards, advantages and gradient against references that share no code with it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import HELD, Step, reference_advantages, tiny_trainer, trainable
from torch import Tensor

from precision import check_no_worse
from sirl.generation.local import LocalEngine
from sirl.training import SIRLTrainer
from sirl.training.batching import widest_spread
from sirl.training.retention import Deck, reference_answers, retention_loss
from tiny_models import PROMPTS, chat_ids, reference_scores, tiny_model, tiny_tokenizer

CASES = [("llama", True, 1.0), ("llama", False, 0.7), ("qwen2", True, 0.7), ("qwen2", False, 1.0), ("qwen3", True, 0.7)]


@pytest.fixture(autouse=True)
def every_response_earns_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models often say nothing, which earns none; that is tested elsewhere, and would leave little to compute."""
    monkeypatch.setattr(SIRLTrainer, "_says_nothing", lambda *_: False)


def check_step(step: Step, group: int) -> None:
    for got, exact in zip(step.mean_entropy, step.reference_entropy, strict=True):
        assert got == pytest.approx(exact, abs=1e-4)
    for got, exact in zip(step.mean_logprob, step.reference_logprob, strict=True):
        assert got == pytest.approx(exact, abs=1e-4)
    rewards = [-h for h in step.reference_entropy]
    torch.testing.assert_close(step.rewards, torch.tensor(rewards), atol=1e-4, rtol=0)
    expected = torch.tensor(reference_advantages(rewards, group))
    torch.testing.assert_close(step.advantages, expected, atol=2e-3, rtol=2e-3)
    for start in range(0, len(rewards), group):
        prompts = step.prompt_ids[start : start + group]
        assert prompts == [prompts[0]] * group, "an advantage compares responses to one prompt"


@pytest.mark.parametrize(("family", "lora", "temperature"), CASES)
def test_rewards_and_advantages_equal_the_reference(
    family: str, lora: bool, temperature: float, tmp_path: Path, model_folder: Any
) -> None:
    trainer = tiny_trainer(tmp_path, model_folder(family), lora=lora, temperature=temperature, max_steps=3, beta=0.001)
    before = trainable(trainer)
    trainer.train()
    steps = trainer.record.steps
    assert len(steps) == 3
    for step in steps:
        check_step(step, group=4)
        assert max(step.reference_entropy) - min(step.reference_entropy) > 0.1
        assert all(p in chat_ids(tiny_tokenizer(), PROMPTS) for p in step.prompt_ids)
    lengths = {len(ids) for step in steps for ids in step.completion_ids}
    assert len(lengths) > 1, "some end early"
    after = trainable(trainer)
    assert len(after) == (28 if lora else len(list(trainer.model.parameters())))
    assert all(("lora_" in name) == lora for name in after)
    assert all(not torch.equal(before[name], after[name]) for name in after), "every trained tensor moves"


def test_what_is_not_trained_does_not_move(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), retention=HELD)
    frozen = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
    full = tiny_trainer(tmp_path, model_folder("llama"), lora=False, beta=0.1)
    reference = {n: p.detach().clone() for n, p in full.ref_model.named_parameters()}
    full.train()
    for name, parameter in full.ref_model.named_parameters():
        assert torch.equal(parameter, reference[name])


def completion_logprobs(model: Any, prompt: list[int], completion: list[int], temperature: float) -> Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_update_equals_a_handwritten_one(lora: bool, accumulation: int, tmp_path: Path, model_folder: Any) -> None:
    """SGD: new = old - lr * d/dw [ mean_i mean_t (-A_i r_it + beta k3_it r_it) + weight * retention ].

    The ratio r is 1 here, its gradient that of log p; k3 is Schulman's estimate of the KL to the base model.
    """
    rate, weight, beta = 0.05, 0.7, 0.4
    trainer = tiny_trainer(
        tmp_path,
        model_folder("llama"),
        lora=lora,
        retention=HELD[:4],
        retention_batch_size=4,
        retention_weight=weight,
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=rate,
        max_grad_norm=1e9,
        max_steps=1,
        temperature=0.7,
        beta=beta,
    )
    base = tiny_model("llama")
    answers = reference_answers(LocalEngine(base, trainer.processing_class), trainer._retention_prompts, 6)
    trainer._held = Deck(answers, 4, seed=0)
    assert [len(answer.answer_ids) for answer in answers] == [1, 6, 6, 4], "or any way of averaging would do"
    torch.manual_seed(0)
    with torch.no_grad():  # begin a way off the start, where retention has a gradient and B of the adapters is not 0
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.03 * torch.randn_like(parameter)
    twin = tiny_trainer(tmp_path, model_folder("llama"), lora=lora)
    twin.model.load_state_dict(trainer.model.state_dict(), strict=True)
    trainer.train()
    [step] = trainer.record.steps

    loss, divergence = torch.zeros(()), 0.0
    for prompt, completion, advantage in zip(step.prompt_ids, step.completion_ids, step.advantages, strict=True):
        logprobs = completion_logprobs(twin.model, prompt, completion, 0.7)
        behind = completion_logprobs(base, prompt, completion, 0.7).detach() - logprobs
        k3 = behind.exp() - behind - 1
        divergence += k3.mean().item() / len(step.prompt_ids)
        ratio = (logprobs - logprobs.detach()).exp()
        loss = loss + (ratio * (beta * k3 - advantage)).mean() / len(step.prompt_ids)
    held = retention_loss(twin.model, answers, 0, trainer.args.retention_first_weight)
    assert held > 0.05
    assert divergence > 0.02
    loss = loss + weight * held
    old = trainable(twin)
    loss.backward()
    for name, parameter in twin.model.named_parameters():
        if parameter.requires_grad:
            new = dict(trainer.model.named_parameters())[name]
            assert parameter.grad.abs().max() > 0
            torch.testing.assert_close(new - old[name], -rate * parameter.grad, atol=2e-6, rtol=2e-3)


def test_of_more_responses_those_that_differ_most_are_learnt_from(tmp_path: Path, model_folder: Any) -> None:
    runs = {}
    for name, settings in {
        "all": {"num_generations": 8, "per_device_train_batch_size": 16},
        "chosen": {"num_generations": 4, "num_rollouts": 8, "per_device_train_batch_size": 8},
    }.items():
        trainer = tiny_trainer(tmp_path / name, model_folder("llama"), max_steps=1, temperature=1.0, **settings)
        trainer.train()
        runs[name] = (trainer.record.steps[0], trainer.state.log_history[0])
    (drawn, drawn_log), (chosen, chosen_log) = runs["all"], runs["chosen"]
    expected = [8 * group + i for group in (0, 1) for i in widest_spread(drawn.rewards[8 * group :][:8].tolist(), 4)]
    assert chosen.completion_ids == [drawn.completion_ids[i] for i in expected]
    assert chosen.prompt_ids == [drawn.prompt_ids[i] for i in expected]
    torch.testing.assert_close(chosen.rewards, drawn.rewards[expected])
    advantages = reference_advantages(chosen.rewards.tolist(), 4)
    assert chosen.advantages.tolist() == pytest.approx(advantages, abs=1e-4), "of those chosen alone"
    assert chosen_log["rollout_entropy"] == pytest.approx(drawn_log["rollout_entropy"], abs=1e-5), "of all"


def test_flat_groups_teach_nothing(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), min_reward_spread=100.0, beta=0.0, max_steps=1)
    before = trainable(trainer)
    trainer.train()
    [step] = trainer.record.steps
    assert step.advantages.abs().max() < 1e-3
    expected = torch.tensor(step.reference_entropy).view(-1, 4).mean(1).repeat_interleave(4)
    torch.testing.assert_close(-step.rewards, expected, atol=1e-4, rtol=0)
    assert sum((before[n] - p).abs().sum().item() for n, p in trainable(trainer).items()) == 0.0


def test_responses_below_the_floor_are_rewarded_alike(tmp_path: Path, model_folder: Any) -> None:
    drawn = tiny_trainer(tmp_path / "plain", model_folder("llama"), max_steps=1)
    drawn.train()
    floor = statistics.median(drawn.record.steps[0].reference_entropy)
    trainer = tiny_trainer(tmp_path / "floor", model_folder("llama"), max_steps=1, entropy_floor=floor)
    trainer.train()
    expected = drawn.record.steps[0].rewards.clamp_max(-floor)
    assert 0 < (expected == -floor).sum() < expected.numel()
    torch.testing.assert_close(trainer.record.steps[0].rewards, expected)


def test_what_other_prompts_get_too_is_worth_less(tmp_path: Path, model_folder: Any, monkeypatch: Any) -> None:
    drawn = tiny_trainer(tmp_path / "plain", model_folder("llama"), max_steps=1)
    drawn.train()
    asked = []

    def shares(texts: list[str], groups: list[int]) -> list[float]:
        asked.append((len(texts), groups))
        return [0.0, 1.0] * (len(texts) // 2)

    monkeypatch.setattr("sirl.training.trainer.sameness", shares)
    trainer = tiny_trainer(tmp_path / "weighted", model_folder("llama"), max_steps=1, sameness_weight=0.5)
    trainer.train()
    assert asked == [(8, [0, 0, 0, 0, 1, 1, 1, 1])]
    lost = drawn.record.steps[0].rewards - trainer.record.steps[0].rewards
    torch.testing.assert_close(lost.flatten(), torch.tensor([0.0, 0.5] * 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reward", ["entropy", "neg_entropy", "neg_perplexity", "random"])
def test_every_reward_trains(reward: str, tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), reward=reward)
    trainer.train()
    for step in trainer.record.steps:
        entropies, logprobs = torch.tensor(step.reference_entropy), torch.tensor(step.reference_logprob)
        expected = {"entropy": -entropies, "neg_entropy": entropies, "neg_perplexity": -(-logprobs).exp()}.get(reward)
        if expected is None:
            assert (step.rewards >= 0).all()
            assert (step.rewards < 1).all()
            assert len(set(step.rewards.tolist())) == 8
        else:
            torch.testing.assert_close(step.rewards, expected.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("own_engine", [True, False])
def test_first_k_rewards_the_first_tokens_alone(own_engine: bool, tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), reward="first_k", reward_tokens=3, max_steps=1)
    if not own_engine:  # responses that another engine drew are scored by a forward pass
        trainer.rollout_func = None
    trainer.train()
    [step] = trainer.record.steps
    start = tiny_model("llama")  # the adapter began as nothing
    with torch.no_grad():
        entropies = [
            reference_scores(start, p, c)[0] for p, c in zip(step.prompt_ids, step.completion_ids, strict=True)
        ]
    expected = torch.stack([-h[:3].mean() for h in entropies]).float()
    torch.testing.assert_close(step.rewards.flatten(), expected, atol=1e-4, rtol=0)
    assert max(len(h) for h in entropies) > 3, "or the whole response would be its beginning"


def test_training_moves_entropy_where_the_reward_points(tmp_path: Path, model_folder: Any) -> None:
    settings = {"max_steps": 18, "beta": 0.0, "per_device_train_batch_size": 16, "learning_rate": 2e-3}
    ends = {}
    for reward in ("entropy", "neg_entropy"):
        trainer = tiny_trainer(tmp_path, model_folder("llama"), reward=reward, **settings)
        trainer.train()
        means = [sum(s.reference_entropy) / len(s.reference_entropy) for s in trainer.record.steps]
        start, ends[reward] = sum(means[:3]) / 3, sum(means[-5:]) / 5
    assert ends["entropy"] < start - 0.3
    assert ends["neg_entropy"] > ends["entropy"] + 0.4


def test_truncated_responses_can_be_left_out(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), mask_truncated_completions=True, max_steps=3)
    trainer.train()
    seen = set()
    for step in trainer.record.steps:
        for row, ids in enumerate(step.completion_ids):
            truncated = ids[-1] != trainer.processing_class.eos_token_id
            seen.add(truncated)
            assert (step.mean_entropy[row] is None) == bool(step.rewards[row].isnan()) == truncated
            if truncated:
                assert step.advantages[row] == 0, "masked to nothing, a response would have entropy 0: the best reward"
    assert seen == {True, False}


def test_a_broken_model_stops_the_run(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), lora=False, beta=0.0)
    with torch.no_grad():
        trainer.model.lm_head.weight[7] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.train()


def test_bfloat16_weights(tmp_path: Path, model_folder: Any) -> None:
    """As on a CPU: base and rollouts in bfloat16, the adapter in float32."""
    trainer = tiny_trainer(tmp_path, model_folder("llama"), dtype=torch.bfloat16, retention=HELD, max_steps=6)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    ours, plain = [], []
    for step in trainer.record.steps:
        exact = torch.tensor(step.exact_entropy)
        ours += list((torch.tensor(step.mean_entropy) - exact)[:, None])
        plain += list((torch.tensor(step.reference_entropy) - exact)[:, None])
    check_no_worse(ours, plain, margin=1.25)


def test_an_architecture_without_our_decode_loop(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("gpt2"), lora=False, temperature=0.7, retention=HELD)
    trainer.train()
    for step in trainer.record.steps:
        check_step(step, group=4)


@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_changes_nothing(lora: bool, tmp_path: Path, model_folder: Any) -> None:
    weights = []
    for on in (False, True):
        trainer = tiny_trainer(
            tmp_path, model_folder("llama"), lora=lora, gradient_checkpointing=on, retention=HELD, optim="sgd"
        )
        trainer.train()
        weights.append(trainable(trainer))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=1e-5)


def test_several_updates_on_one_batch(tmp_path: Path, model_folder: Any) -> None:
    """In the second pass the policy is no longer the one that generated; a batch is generated once all the same."""
    trainer = tiny_trainer(tmp_path, model_folder("llama"), num_iterations=2, max_steps=4, retention=HELD)
    trainer.train()
    assert len(trainer.record.steps) == 2
    for step in trainer.record.steps:
        check_step(step, group=4)
