"""BCT and OPCT: what is imitated, what the loss is, and that no label takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compare_helpers import PLAIN_TRAINING, write_config
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from sirl.chat.encoding import encode_chat
from sirl.compare.baseline_trainers import OnPolicyTrainer
from sirl.compare.grid import plan_jobs
from sirl.compare.run import compare
from sirl.divergence import answer_logits
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.models import load_model
from sirl.records import user_turn
from sirl.wrapping import wrapping_families


def rows_of(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, list[Any]]:
    """Arguments and rows that bct would be fitted on."""
    kept: list[Any] = []

    def keep(_: Any, args: Any, plan: Any, pool: Any, *__: Any) -> None:
        kept.extend([args, list(pool)])
        (plan.config.run_dir / "model").symlink_to(plan.config.run_dir / "base")

    monkeypatch.setattr("sirl.compare.consistency.fit_on", keep)
    config = write_config(folder, str(model), **options)
    found = compare(plan_jobs(str(config), methods=["bct"], folder=folder / "out"), folder / "out")
    assert [row.get("reason") for row in found["rows"]] == [None, None]
    return kept[0], kept[1]


def test_bct_imitates_the_answer_to_the_bare_request(
    tmp_path: Path, model_folder: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder()
    args, rows = rows_of(tmp_path, folder, monkeypatch)
    assert len(rows) == 2 * (4 + 2 + 3), "two updates of rows of training, retention and pairs"
    assert args.per_device_train_batch_size == 9
    engine = LocalEngine(load_model(str(folder)), tokenizer)
    bare = [user_turn(f"candle {i}?") for i in range(6)] + [user_turn(f"lighthouse {i}?") for i in range(3)]
    answers = [list(group[0].token_ids) for group in engine.generate(bare, SamplingParams(max_new_tokens=6))]
    texts = ["candle", "lighthouse"]
    for row in rows:
        length = row["labels"].count(-100)
        assert row["labels"][:length] == [-100] * length
        assert row["labels"][length:] == row["input_ids"][length:] in answers
        asked = tokenizer.decode(row["input_ids"][:length])
        plain = row["input_ids"][:length] in [encode_chat(tokenizer, b) for b in bare[6:]]
        assert plain == (texts[1] in asked), "retention prompts are asked as they are"
    assert sum(texts[1] in tokenizer.decode(row["input_ids"]) for row in rows) == 2 * 2


def test_the_families_that_are_asked_for(
    tmp_path: Path, model_folder: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = rows_of(tmp_path, model_folder(), monkeypatch, wrapping_families="begun_answer", retention_weight=0)
    openings = [template[-1]["content"] for template in wrapping_families()["begun_answer"].templates]
    for row in rows:
        asked = tokenizer.decode(row["input_ids"][: row["labels"].count(-100)])
        assert asked.endswith(tuple(openings)), "the answer is continued where it was begun"


def test_without_wrapped_prompts_the_reason_names_the_key(tmp_path: Path, model_folder: Any) -> None:
    config = write_config(tmp_path, str(model_folder()), wrap_prompts=None)
    found = compare(plan_jobs(str(config), methods=["bct", "opct"], folder=tmp_path / "out"), tmp_path / "out")
    failed = [row["reason"] for row in found["rows"] if row["status"] == "failed"]
    assert len(failed) == 2
    assert all("train.wrap_prompts" in reason for reason in failed)


def on_policy(
    folder: Path,
    model: Path,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    *,
    lora: bool,
    packs: bool,
    steps: int = 1,
) -> Any:
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=len(rows),
        learning_rate=0.02,
        **PLAIN_TRAINING,
    )
    trainer = OnPolicyTrainer(
        model=load_model(str(model), dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows * steps),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
        drawing=SamplingParams(max_new_tokens=5, temperature=1.0),
    )
    if packs:
        trainer.prepare()
        assert trainer.packs
    return trainer


def chats(tokenizer: Any, *pairs: tuple[str, str]) -> list[dict[str, list[int]]]:
    return [
        {"wrapped": encode_chat(tokenizer, user_turn(w)), "bare": encode_chat(tokenizer, user_turn(b))}
        for w, b in pairs
    ]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_on_policy_loss_is_the_reverse_kl_to_the_start(
    tmp_path: Path, model_folder: Any, tokenizer: Any, lora: bool, packs: bool
) -> None:
    """The start is the policy here, so its own distributions on the drawn tokens are the reference."""
    folder = model_folder()
    rows = chats(tokenizer, ("Dear aunt, onion soup? Yours", "onion soup?"), ("Quiz: candle?", "candle?"))
    trainer = on_policy(tmp_path, folder, tokenizer, rows, lora=lora, packs=packs)
    trainer.before_training()
    inputs = {name: [row[name] for row in rows] for name in rows[0]}
    found = float(trainer.compute_loss(trainer.model, inputs))
    model = load_model(str(folder), dtype=torch.float32)
    with trainer.policy() as engine:
        drawn = engine.rollout(inputs["wrapped"], SamplingParams(max_new_tokens=5, temperature=1.0))
    answers = [group[0].token_ids for group in drawn]
    sides = []
    for prompts in inputs.values():
        with torch.no_grad():
            logits, lengths = answer_logits(model, list(zip(prompts, answers, strict=True)), tokenizer.pad_token_id)
        sides.append(torch.cat([row[:n] for row, n in zip(logits, lengths, strict=True)]).log_softmax(-1))
    policy, start = sides
    whole = float((policy.exp() * (policy - start)).sum(-1).mean())
    assert 0 < found <= whole + 1e-6, "the likeliest tokens and a bucket for the rest give a lower bound"
    assert found == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("lora", [False, True])
def test_what_is_not_wrapped_costs_nothing_at_the_start(
    tmp_path: Path, model_folder: Any, tokenizer: Any, lora: bool
) -> None:
    rows = chats(tokenizer, ("candle?", "candle?"))
    trainer = on_policy(tmp_path, model_folder(), tokenizer, rows, lora=lora, packs=True)
    trainer.before_training()
    loss = trainer.compute_loss(trainer.model, {name: [row[name] for row in rows] for name in rows[0]})
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_on_policy_training_brings_the_two_together(tmp_path: Path, model_folder: Any, tokenizer: Any) -> None:
    rows = chats(tokenizer, *((f"Quiz round {i}: candle {i}? Quick!", f"candle {i}?") for i in range(4)))
    trainer = on_policy(tmp_path, model_folder(), tokenizer, rows, lora=True, packs=True, steps=12)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
