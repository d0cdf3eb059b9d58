"""Wrapped requests are held to what the base model says to the bare ones."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_trainer

from sirl.attacks.conversations import Prefill
from sirl.errors import UserError
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine, encode_chat
from sirl.records import Prompt
from sirl.run_folder import PAIR_ANSWERS
from sirl.training import SIRLConfig
from sirl.training.pairs import gated, paired_answers, shared_openings, sharpened
from sirl.training.retention import (
    ReferenceAnswer,
    load_answers,
    reference_answers,
    retention_loss,
    save_answers,
    to_be_dealt,
)
from sirl.wrapping import PLACEHOLDER, resolve_families, wrapped_forms
from tiny_models import PROMPTS, tiny_model

BARE = [Prompt(str(i), text) for i, text in enumerate(PROMPTS)]
FORMS = wrapped_forms(BARE, resolve_families("echo,symbols,begun_answer"), 2, seed=0)


def answer(*ids: int, prompt: int = 0) -> ReferenceAnswer:
    return ReferenceAnswer([prompt], list(ids), torch.zeros(len(ids), 2, dtype=torch.long), torch.zeros(len(ids), 2))


def test_wrapped_forms_are_held_to_the_answer_to_the_bare_request(tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    bare = {p.text: a for p, a in zip(BARE, reference_answers(engine, BARE, 5), strict=True)}
    held = paired_answers(engine, FORMS, 5, "clean")
    assert len(held) == len(FORMS)
    for form, pair in zip(FORMS, held, strict=True):
        assert pair.prompt_ids == encode_chat(tokenizer, form.conversation)
        assert pair.answer_ids == bare[form.text].answer_ids
        torch.testing.assert_close(pair.top_logprobs, bare[form.text].top_logprobs)
    own = engine.rollout([pair.prompt_ids for pair in held], SamplingParams(max_new_tokens=5))
    assert [o.token_ids for (o,) in own] != [pair.answer_ids for pair in held], "or nothing would tell the two apart"


def test_a_begun_answer_is_continued_as_the_attack_has_it_continued(tokenizer: Any) -> None:
    """The same opening under training and under `prefill` gives the same tokens, and no turn is closed behind it."""
    attack = Prefill()
    opened = replace(resolve_families("begun_answer")[0], templates=(attack.render(PLACEHOLDER, random.Random(0)),))
    (form,) = wrapped_forms(BARE[:1], [opened], 1, seed=0)
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    (pair,) = paired_answers(engine, [form], 4, "clean")
    attacked = engine.encode([attack.build(BARE[0], random.Random(0))])
    assert [pair.prompt_ids] == attacked
    assert tokenizer.decode(pair.prompt_ids).endswith(attack.opening.rstrip()[-2:])
    assert pair.prompt_ids[-1] not in engine.eos_ids


def test_a_slow_approach_ends_with_the_users_turn(tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    forms = wrapped_forms(BARE, resolve_families("slow_approach"), 1, seed=0)
    for form, pair in zip(forms, paired_answers(engine, forms, 4, "clean"), strict=True):
        roles = [turn["role"] for turn in form.conversation]
        assert roles[-3:] == ["user", "assistant", "user"]
        assert pair.prompt_ids == encode_chat(tokenizer, form.conversation)
        assert pair.answer_ids == reference_answers(engine, [p for p in BARE if p.text == form.text], 4)[0].answer_ids


def test_the_gate_keeps_the_own_answer_where_neither_the_bare_nor_the_wrapped_request_is_refused() -> None:
    refusal, help_, poem = (7, 7, 7, 1), (1, 2, 3, 4), (5, 6, 5, 6)
    clean = [answer(*refusal), answer(*refusal), answer(*help_), answer(*help_)]
    own = [answer(*poem, prompt=1), answer(*refusal, prompt=2), answer(*poem, prompt=3), answer(*refusal, prompt=4)]
    held = gated(clean, own, {refusal[:3]})
    assert [tuple(h.answer_ids) for h in held] == [refusal, refusal, poem, help_]


def test_sharpened_distributions_show_their_arithmetic() -> None:
    # 1/2 1/4 and 1/4 in the bucket, squared: 1/4 1/16 1/16, over their sum 3/8
    sharp = sharpened(ReferenceAnswer([0], [1], torch.tensor([[4, 5]]), torch.tensor([[0.5, 0.25]]).log()), 2.0)
    torch.testing.assert_close(sharp.top_logprobs.exp(), torch.tensor([[2 / 3, 1 / 6]]))
    same = sharpened(ReferenceAnswer([0], [1], torch.tensor([[4, 5]]), torch.tensor([[0.5, 0.25]]).log()), 1.0)
    torch.testing.assert_close(same.top_logprobs.exp(), torch.tensor([[0.5, 0.25]]))


def test_openings_that_many_answers_share_are_found_without_a_label() -> None:
    answers = [answer(1, 2, 3, i) for i in range(3)] + [answer(i, 50, 60, 70) for i in range(97)]
    assert shared_openings(answers) == {(1, 2, 3)}
    assert shared_openings(answers, share=0.05) == set()
    assert shared_openings(answers[:1]) == set(), "one answer shares its opening with none"


def test_only_forms_that_will_be_dealt_are_asked() -> None:
    drawn = to_be_dealt(FORMS, 3, seed=1)
    assert len({form.id for form in drawn}) == 3
    assert drawn == to_be_dealt(FORMS, 3, seed=1)
    assert drawn == to_be_dealt(FORMS, 4, seed=1)[:3]
    assert to_be_dealt(FORMS, 1000, seed=1) == FORMS
    assert to_be_dealt(FORMS, -24, seed=1) == FORMS, "a training by epochs sees all"


def test_the_paired_loss_makes_wrapped_answers_more_like_bare_ones(tmp_path: Path, model_folder: Any) -> None:
    forms = FORMS[:4]

    def distance(weight: float) -> float:
        trainer = tiny_trainer(
            tmp_path / str(weight),
            model_folder("llama"),
            pairs=forms,
            pair_weight=weight,
            pair_batch_size=4,
            pair_tokens=4,
            learning_rate=3e-3,
            max_steps=8,
        )
        trainer.train()
        held = paired_answers(LocalEngine(tiny_model("llama"), trainer.processing_class), forms, 4, "clean")
        with torch.no_grad():
            return retention_loss(trainer.model, held, 0, 1.0).item()

    assert distance(10.0) < 0.7 * distance(0.0)


def test_with_the_policy_as_reference_each_update_asks_it_again(
    tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is what the policy says at that update, about the forms that are dealt in it, asked once."""
    asked: list[tuple[int, list[ReferenceAnswer]]] = []
    trainer = tiny_trainer(
        tmp_path,
        model_folder("llama"),
        pairs=FORMS,
        pair_reference="policy",
        pair_batch_size=4,
        pair_tokens=4,
        pair_weight=10.0,
        learning_rate=3e-2,
        max_steps=3,
    )
    paired = trainer._paired

    def noted(forms: Any, engine: LocalEngine) -> list[ReferenceAnswer]:
        asked.append((trainer.state.global_step, paired(forms, engine)))
        assert forms == trainer._pairs.update_rows(trainer.state.global_step, 1)
        return asked[-1][1]

    monkeypatch.setattr(trainer, "_paired", noted)
    trainer.train()
    assert [step for step, _ in asked] == [0, 1, 2]
    start = LocalEngine(tiny_model("llama"), trainer.processing_class)
    places = [{tuple(a.prompt_ids): a for a in paired(trainer._pairs.update_rows(i, 1), start)} for i in range(3)]
    moved = [
        max(float((a.top_logprobs - by_prompt[tuple(a.prompt_ids)].top_logprobs).abs().max()) for a in answers)
        for (_, answers), by_prompt in zip(asked, places, strict=True)
    ]
    assert moved[0] < 1e-4, "before the first update the policy is the start"
    assert moved[1] > 1e-3
    assert moved[2] > 1e-3
    assert all(not a.top_logprobs.requires_grad for _, answers in asked for a in answers)


def late_pairs(folder: Path, model: str, **settings: Any) -> Any:
    given = {"pair_start": 2, "pair_batch_size": 4, "pair_tokens": 4, "pair_weight": 10.0, "learning_rate": 3e-2}
    return tiny_trainer(folder, model, pairs=FORMS, **{**given, "max_steps": 4, **settings})


def test_pairs_that_begin_later_are_held_to_what_the_policy_says_by_then(tmp_path: Path, model_folder: Any) -> None:
    trainer, asked = late_pairs(tmp_path, model_folder("llama")), []
    paired = trainer._paired

    def noted(forms: Any, engine: LocalEngine) -> list[ReferenceAnswer]:
        asked.append((trainer.state.global_step, forms, paired(forms, engine)))
        return asked[-1][2]

    trainer._paired = noted
    trainer.train()
    ((step, forms, answers),) = asked
    assert step == 2
    assert forms == to_be_dealt(FORMS, 2 * 4, seed=trainer.args.seed + 1), (
        "the first rows are dealt to the third update"
    )
    assert "pair_kl" not in trainer.state.log_history[1]
    assert trainer.state.log_history[2]["pair_kl"] > 0
    start = paired(forms, LocalEngine(tiny_model("llama"), trainer.processing_class))
    moved = [float((a.top_logprobs - b.top_logprobs).abs().max()) for a, b in zip(answers, start, strict=True)]
    assert max(moved) > 1e-3, "the policy's answers, not the base model's"


def test_a_run_resumed_after_pairs_began_finds_their_answers(tmp_path: Path, model_folder: Any) -> None:
    whole = late_pairs(tmp_path / "whole", model_folder("llama"), save_strategy="steps", save_steps=1)
    whole.train()
    kept = tmp_path / "whole" / PAIR_ANSWERS
    resumed = late_pairs(tmp_path / "resumed", model_folder("llama"), save_strategy="no")
    with pytest.raises(UserError, match=f"{PAIR_ANSWERS} cannot be read .*--overwrite"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for step in (1, 2, 3):
        resumed = late_pairs(tmp_path / "resumed", model_folder("llama"), save_strategy="no")
        shutil.copy(kept, tmp_path / "resumed")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs), f"from update {step}"


def test_answers_are_the_same_once_written_and_read(tmp_path: Path) -> None:
    answers = [
        ReferenceAnswer([3, 4, 5], [1, 2], torch.arange(6).view(2, 3), torch.randn(2, 3)),
        ReferenceAnswer([6], [7], torch.arange(3).view(1, 3), torch.randn(1, 3)),
    ]
    save_answers(answers, tmp_path / "answers.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["answers.safetensors"]
    for ours, theirs in zip(load_answers(tmp_path / "answers.safetensors"), answers, strict=True):
        assert (ours.prompt_ids, ours.answer_ids) == (theirs.prompt_ids, theirs.answer_ids)
        assert torch.equal(ours.top_ids, theirs.top_ids)
        assert torch.equal(ours.top_logprobs, theirs.top_logprobs)


def test_what_wrapped_requests_are_held_to_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--pair_target wrapped: unknown; choose from clean, gated"):
        SIRLConfig(output_dir=str(tmp_path), pair_target="wrapped")
    with pytest.raises(UserError, match="--pair_reference teacher: unknown; choose from start, policy"):
        SIRLConfig(output_dir=str(tmp_path), pair_reference="teacher")
    with pytest.raises(UserError, match="--pair_start 4: pairs never begin; give less than --max_steps"):
        SIRLConfig(output_dir=str(tmp_path), pair_start=4, max_steps=4)
    with pytest.raises(UserError, match="--pair_start -1: give 0 or more"):
        SIRLConfig(output_dir=str(tmp_path), pair_start=-1)
    with pytest.raises(UserError, match="--pair_tokens 0"):
        SIRLConfig(output_dir=str(tmp_path), pair_tokens=0)
