"""The policy is measured while it is trained, as it is at that moment, also across an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import HELD, tiny_trainer, trainable
from transformers import TrainerCallback

from sirl.errors import UserError
from sirl.generation.base import SamplingParams
from sirl.records import iter_json_lines, user_turn, write_jsonl
from sirl.training.checkpoint_selection import CheckpointSelectionCallback, SelectionRule


class Watch:
    """Measures one answer's entropy, and keeps what the weights would make of it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, engine: Any) -> dict[str, float]:
        (answer,) = engine.generate([user_turn(HELD[0])], SamplingParams(max_new_tokens=6))[0]
        self.texts.append(answer.text)
        return {"entropy": sum(answer.entropies) / len(answer.entropies)}


def checked(folder: Path, model: Path, steps: int, **settings: Any) -> tuple[Any, CheckpointSelectionCallback]:
    check = CheckpointSelectionCallback(Watch(), 2, folder / "development.jsonl")
    trainer = tiny_trainer(folder, model, callbacks=[check], max_steps=steps, **settings)
    check.trainer = trainer
    return trainer, check


def test_rows(tmp_path: Path, model_folder: Any) -> None:
    trainer, check = checked(tmp_path, model_folder("llama"), 5)
    trainer.train()
    rows = list(iter_json_lines(check.path))
    assert [(row["step"], row["prompts"]) for row in rows] == [(0, 0), (2, 4), (4, 8), (5, 10)]
    assert len({row["entropy"] for row in rows}) == 4, "the policy moved"
    with trainer.policy() as engine:
        assert check.measure(engine)["entropy"] == pytest.approx(rows[-1]["entropy"], abs=1e-4)


def test_measuring_does_not_change_training(tmp_path: Path, model_folder: Any) -> None:
    plain = tiny_trainer(tmp_path / "plain", model_folder("llama"), max_steps=4, retention=HELD)
    plain.train()
    trainer, _ = checked(tmp_path / "checked", model_folder("llama"), 4, retention=HELD)
    trainer.train()
    expected, got = trainable(plain), trainable(trainer)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_a_resumed_run_has_every_row_once(tmp_path: Path, model_folder: Any) -> None:
    trainer, check = checked(tmp_path, model_folder("llama"), 4, save_strategy="steps", save_steps=2)
    trainer.train()
    whole = list(iter_json_lines(check.path))
    trainer, check = checked(tmp_path, model_folder("llama"), 4)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rows = list(iter_json_lines(check.path))
    assert [row["step"] for row in rows] == [0, 2, 4]
    for got, want in zip(rows, whole, strict=True):
        assert got["entropy"] == pytest.approx(want["entropy"], abs=1e-5)
    assert json.dumps(rows[:2]) == json.dumps(whole[:2]), "kept, not made again"


def row(step: int, dsr: float | None, over_refusal: float | None = 0.0, **more: float) -> dict[str, Any]:
    figures = {"step": step, "dsr": dsr, "over_refusal": over_refusal, **more}
    return {key: value for key, value in figures.items() if value is not None}


def rule(**limits: Any) -> SelectionRule:
    """A rule without a limit on collapse, but for those that are given."""
    return SelectionRule(**{"max_repetition": None, "max_over_refusal": None, **limits})


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([row(0, 0.5, 0.02), row(5, 0.8, 0.05), row(10, 0.9, 0.07), row(15, 0.99, 0.08)], 10),  # 0.08 is a rise of 6
        ([row(0, 0.5, 0.02), row(5, 0.8, 0.03), row(10, 0.8, 0.01)], 5),  # of equals the earliest
        ([row(0, 0.5, 0.02), row(5, 0.9, 0.3), row(10, 0.4, 0.02)], 0),  # training only cost
        ([row(0, 0.5), row(5, 0.9, None), row(10, 0.8)], 10),  # no benign answer could be scored
        ([row(0, 0.5), row(5, None), row(10, 0.4)], 0),  # no answer to an attack could be
        ([row(0, 0.5, None), row(5, 0.9, 0.0)], 0),  # over what start did it rise?
        ([row(0, 0.5, wrapped=0.1), row(5, 0.9, wrapped=0.8), row(10, 0.7, wrapped=0.2)], 10),  # refused the wrapping
        ([row(0, 0.5, repetition=0.1), row(5, 0.9, repetition=0.51), row(10, 0.8, repetition=0.5)], 10),
        ([row(0, 0.5, repetition=0.3), row(5, 0.9, repetition=0.6), row(10, 0.95, repetition=0.61)], 5),
    ],
)
def test_rule(rows: list[dict[str, Any]], chosen: int) -> None:
    assert rule(allowance=0.05, max_repetition=0.5).choose(rows)["step"] == chosen


def test_a_policy_that_refuses_wrappings_is_not_deployed_where_that_is_limited() -> None:
    rows = [row(0, 0.3, wrapped=0.1), row(5, 0.99, wrapped=0.2), row(10, 0.7, wrapped=0.14)]
    assert rule().choose(rows)["step"] == 5
    limited = rule(wrapped_allowance=0.05)
    assert limited.choose(rows)["step"] == 10
    assert "5 points more than it of those in wrappings" in str(limited)
    assert limited.choose([row(0, 0.3), row(5, 0.9)])["step"] == 5, "none were asked"


def test_giving_no_answer_is_not_the_way_to_be_chosen() -> None:
    silent = [row(0, 0.5, 0.02), row(8, 1.0, 0.0, unscored=150)]
    assert rule().choose(silent)["step"] == 0, "of how many answers is not known"
    asked = [
        row(0, 0.5, asked=200, unscored=20),
        row(8, 1.0, asked=200, unscored=40),
        row(9, 1.0, asked=200, unscored=41),
    ]
    assert rule().choose(asked)["step"] == 8
    assert rule().choose([asked[0], asked[2]])["step"] == 0
    assert rule(max_unscored=0.0).choose(asked)["step"] == 0
    assert rule(max_unscored=None).choose(silent)["step"] == 8
    assert "10 points" in str(rule())
    assert "unscored" not in str(rule(max_unscored=None))


def test_what_ends_training() -> None:
    rows = [row(0, 0.5), row(5, 0.9), row(10, 0.8), row(15, 0.7, repetition=0.9)]
    assert rule(patience=2).ended_by(rows[:3]) is None
    assert rule(patience=2).ended_by(rows) == "patience"
    assert rule(patience=2, max_repetition=0.5).ended_by(rows) == "max_repetition"
    assert rule().ended_by(rows) is None
    refusing = [row(0, 0.5, 0.1), row(5, 0.9, 0.5), row(10, 1.0, 0.51)]
    assert rule(max_over_refusal=0.5).ended_by(refusing[:2]) is None
    assert rule(max_over_refusal=0.5).ended_by(refusing) == "max_over_refusal"
    assert rule(max_over_refusal=0.5).ended_by([row(0, 0.5, 0.3), row(5, 0.9, 0.6)]) is None, "not twice the start's"
    assert rule(max_over_refusal=0.5).ended_by([row(0, 0.5), row(5, 0.9, None)]) is None
    assert "50%" in str(rule(max_repetition=0.5))
    assert "repetition" not in str(rule())


Figures = dict[int, dict[str, Any]]


def scripted(
    folder: Path, model: Path, figures: Figures, **settings: Any
) -> tuple[Any, CheckpointSelectionCallback, Any]:
    """A run whose policy has these figures at these updates; also the trained weights at each."""
    seen: dict[int, Any] = {}

    def measure(_: Any) -> dict[str, float]:
        step = trainer.state.global_step
        seen[step] = trainable(trainer)
        return {key: value for key, value in figures[step].items() if key != "step"}

    chosen_by = rule(patience=settings.pop("patience", None), max_repetition=0.5)
    callbacks = settings.pop("callbacks", [])
    check = CheckpointSelectionCallback(measure, 2, folder / "development.jsonl", chosen_by)
    trainer = tiny_trainer(folder, model, callbacks=[check, *callbacks], max_steps=max(figures), **settings)
    check.trainer = trainer
    return trainer, check, seen


def rates(**dsr: float) -> Figures:
    """Such as `at_4=0.9`."""
    return {int(name.removeprefix("at_")): row(0, value) for name, value in dsr.items()}


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*chosen-*"))


def same(got: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(torch.equal(got[name], value) for name, value in expected.items())


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("best", [0, 2, 4])
def test_the_chosen_weights_are_put_back(best: int, lora: bool, tmp_path: Path, model_folder: Any) -> None:
    figures = {step: row(0, 0.9 if step == best else 0.5) for step in (0, 2, 4)}
    trainer, check, seen = scripted(tmp_path, model_folder("llama"), figures, lora=lora)
    trainer.train()
    check.finish()
    assert same(trainable(trainer), seen[best])
    assert not same(trainable(trainer), seen[4 if best < 4 else 2])
    chosen = json.loads((tmp_path / "chosen.json").read_text())
    assert (chosen["chosen"]["step"], chosen["start"]["step"], chosen["last"]["step"]) == (best, 0, 4)
    assert chosen["ended_by"] is None
    assert f"chosen-{best}.safetensors" in kept(tmp_path), "not yet exported"
    check.clean()
    assert kept(tmp_path) == []


def test_what_was_chosen_is_chosen_again(tmp_path: Path, model_folder: Any) -> None:
    """Killed after the last update, before or while the model is exported: nothing is left to train."""
    figures = {0: row(0, 0.5), 2: row(0, 0.8), 4: row(0, 0.99, 0.9)}
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer, check, seen = scripted(tmp_path, model_folder("llama"), figures, **settings)
    trainer.train()
    check.finish()
    again, check, unseen = scripted(tmp_path, model_folder("llama"), figures, **settings)
    checkpoint = str(tmp_path / "checkpoint-4")
    check.prepare(again, checkpoint)
    again.train(resume_from_checkpoint=checkpoint)
    assert same(trainable(again), seen[4])
    check.finish()
    assert same(trainable(again), seen[2])
    assert not unseen


class Killed(Exception):  # noqa: N818
    """As if the machine had gone down."""


class KillBefore(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step - 1:
            raise Killed


def test_a_checkpoint_between_two_checks(tmp_path: Path, model_folder: Any) -> None:
    """Killed after update 5 of 6: goes on from 3, whose best policy was that of update 2, not of 4."""
    first = rates(at_0=0.5, at_2=0.8, at_4=0.9, at_6=0.1)
    settings = {"save_strategy": "steps", "save_steps": 3}
    trainer, check, seen = scripted(tmp_path, model_folder("llama"), first, callbacks=[KillBefore(6)], **settings)
    with pytest.raises(Killed):
        trainer.train()
    assert kept(tmp_path) == ["chosen-2.safetensors", "chosen-4.safetensors"]
    (tmp_path / ".chosen-4.safetensors.partial").write_text("cut off")

    second = rates(at_0=0.0, at_2=0.0, at_4=0.7, at_6=0.6)  # other draws, another policy
    trainer, check, again = scripted(tmp_path, model_folder("llama"), second, **settings)
    checkpoint = str(tmp_path / "checkpoint-3")
    check.prepare(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert [found["step"] for found in iter_json_lines(check.path)] == [0, 2, 4, 6], "no check where none was due"
    check.finish()
    assert json.loads((tmp_path / "chosen.json").read_text())["chosen"] == next(
        found for found in iter_json_lines(check.path) if found["step"] == 2
    )
    assert same(trainable(trainer), seen[2])
    assert sorted(again) == [4, 6]
    assert kept(tmp_path) == ["chosen-2.safetensors"]


def test_weights_that_no_checkpoint_needs_are_deleted(tmp_path: Path, model_folder: Any) -> None:
    figures = rates(at_0=0.5, at_2=0.6, at_4=0.7, at_6=0.8)
    found: list[list[str]] = []

    class Look(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            found.append(kept(tmp_path))

    settings = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
    trainer, _, _ = scripted(tmp_path, model_folder("llama"), figures, callbacks=[Look()], **settings)
    trainer.train()
    names = [[int(name.split("-")[1].split(".")[0]) for name in step] for step in found[:6]]
    assert names == [[0], [0, 2], [0, 2], [2, 4], [2, 4], [2, 6]], "before the checkpoint of the update, if any"
    assert kept(tmp_path) == ["chosen-6.safetensors"]


@pytest.mark.parametrize(
    ("figures", "limit", "last", "chosen"),
    [
        (rates(at_0=0.5, at_2=0.9, at_4=0.8, at_6=0.7, at_8=0.6, at_10=0.5), "patience", 6, 2),
        ({0: row(0, 0.5), 2: row(0, 0.9), 4: row(0, 0.95, repetition=0.8), 10: {}}, "max_repetition", 4, 2),
    ],
)
def test_training_that_is_ended_stays_ended(
    figures: Figures, limit: str, last: int, chosen: int, tmp_path: Path, model_folder: Any
) -> None:
    settings = {"patience": 2, "save_strategy": "steps", "save_steps": 2}
    trainer, check, seen = scripted(tmp_path, model_folder("llama"), figures, **settings)
    trainer.train()
    assert trainer.state.global_step == last
    trainer, check, unseen = scripted(tmp_path, model_folder("llama"), figures, **settings)  # killed before the export
    checkpoint = str(tmp_path / f"checkpoint-{last}")
    check.prepare(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == last
    assert not unseen
    check.finish()
    facts = json.loads((tmp_path / "chosen.json").read_text())
    assert (facts["chosen"]["step"], facts["ended_by"]) == (chosen, limit)
    assert same(trainable(trainer), seen[chosen])


def test_weights_that_are_gone(tmp_path: Path, model_folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The last policy takes their place if the rule allows that, and only then."""
    trainer, check, seen = scripted(tmp_path, model_folder("llama"), rates(at_0=0.5, at_2=0.9, at_4=0.8))
    trainer.train()
    check.weights(4).write_bytes(check.weights(2).read_bytes())  # those of another update do not count
    check.weights(2).unlink()
    check.finish()
    assert same(trainable(trainer), seen[4])
    assert json.loads((tmp_path / "chosen.json").read_text())["chosen"]["step"] == 4
    assert "chosen-2.safetensors is gone" in caplog.text
    rows = list(iter_json_lines(check.path))
    write_jsonl(check.path, [*rows[:2], {**rows[2], "over_refusal": 0.5}])
    (tmp_path / "chosen.json").unlink()
    with pytest.raises(UserError, match=r"chosen-2\.safetensors is gone.*the last one breaks the rule"):
        check.finish()
    assert not (tmp_path / "chosen.json").exists()


def test_figures_of_the_start_that_are_gone(tmp_path: Path, model_folder: Any) -> None:
    _, check, _ = scripted(tmp_path, model_folder("llama"), rates(at_0=0.5, at_2=0.9))
    write_jsonl(check.path, [row(2, 0.9)])
    with pytest.raises(UserError, match="without the figures of the base model"):
        check.prepare(check.trainer, str(tmp_path / "checkpoint-2"))


def test_a_start_that_could_not_be_scored(tmp_path: Path, model_folder: Any) -> None:
    trainer, check, _ = scripted(tmp_path, model_folder("llama"), {0: row(0, 0.5, None), 2: row(0, 0.9)})
    with pytest.raises(UserError, match=r"none to a benign prompt, could be scored"):
        trainer.train()
    assert not check.path.exists()


def test_the_start_is_shown_before_a_resumed_run_loads_its_checkpoint(tmp_path: Path, model_folder: Any) -> None:
    entropies: list[float] = []

    def begin(engine: Any) -> None:
        entropies.append(watch(engine)["entropy"])

    watch, settings = Watch(), {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "learning_rate": 0.1}
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        check = CheckpointSelectionCallback(Watch(), 2, tmp_path / "development.jsonl", None, begin)
        trainer = tiny_trainer(tmp_path, model_folder("llama"), callbacks=[check], **settings)
        check.prepare(trainer, checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
    assert entropies[0] == entropies[1]
    with trainer.policy() as engine:
        assert watch(engine)["entropy"] != pytest.approx(entropies[0], abs=1e-3), "the policy moved"
