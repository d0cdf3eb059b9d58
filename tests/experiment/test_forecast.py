"""How long a run will take: the work of a plan, the speed that is measured, and what is left of it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripted import FakeEngine
from sirl.experiment import forecast
from sirl.experiment.config import parse_config
from sirl.experiment.forecast import Clock, Speed, Work, measure_speed, minutes, read_tokens, works
from sirl.experiment.plan import Plan, prepare
from sirl.generation.local import LocalEngine
from sirl.manifest import Manifest
from sirl.records import user_turn
from tiny_models import tiny_model


@pytest.fixture
def engine(tokenizer: Any) -> LocalEngine:
    return LocalEngine(tiny_model("llama"), tokenizer)


@pytest.fixture
def planned(tmp_path: Path, model_folder: Any) -> Any:
    """A plan of a run with some keys changed, none of it trained on."""

    def lines(name: str, n: int) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{name} {i}"}) + "\n" for i in range(n)), encoding="utf-8")
        return str(path)

    def make(**changed: dict[str, Any]) -> Plan:
        train: dict[str, Any] = {"dataset_name": lines("task", 12), "max_steps": 2, "report_to": "none"}
        data: dict[str, Any] = {
            "name": "x",
            "output_dir": str(tmp_path / "run"),
            "model_name_or_path": str(model_folder()),
            "gap": {"max_prompts": 5, "k": 2, "max_new_tokens": 10},
            "train": {**train, **changed.pop("train", {})},
            "attack": {"attacks": "direct,dan", "goals": lines("goal", 4), "max_new_tokens": 10, "recheck_tokens": 0},
            "evals": {"overrefusal": lines("question", 6), "max_new_tokens": 10},
        }
        return prepare(
            parse_config(
                {k: {**v, **changed.get(k, {})} if isinstance(v, dict) else v for k, v in data.items()}, "test"
            )
        )

    return make


def test_work_is_counted_in_tokens(planned: Any, engine: LocalEngine) -> None:
    found = works(planned(), engine)
    assert list(found) == ["gap", "attack_before", "train", "attack_after", "capability"]
    assert found["gap"].written == pytest.approx(forecast.ANSWER * 5 * 2 * 10)
    # two attacks on four goals and six questions, each greedy and sampled; the six in one wrapping, greedy
    assert found["attack_before"].written == pytest.approx(forecast.ANSWER * ((2 * 4 + 6) * 2 + 6) * 10)
    assert found["attack_before"] == found["attack_after"]
    assert found["train"].learnt > 0
    half = works(planned(attack={"decoding": ["greedy"]}), engine)["attack_before"]
    assert half.written == pytest.approx(forecast.ANSWER * (2 * 4 + 6 + 6) * 10)
    assert half.read == found["attack_before"].read, "a prompt is read once for both"
    asked_again = works(planned(attack={"recheck_tokens": 30}), engine)["attack_before"]
    assert asked_again.written > found["attack_before"].written


def test_more_updates_rows_and_checks_are_more_work(planned: Any, engine: LocalEngine, tmp_path: Path) -> None:
    def learnt(**train: Any) -> Work:
        return works(planned(train=train), engine)["train"]

    plain = learnt()
    assert learnt(max_steps=4).learnt == pytest.approx(2 * plain.learnt)
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps({"prompt": f"held {i}"}) + "\n" for i in range(9)), encoding="utf-8")
    retained = learnt(retention_dataset_name=str(held))
    assert retained.learnt > plain.learnt
    assert retained.written > plain.written
    assert learnt(wrap_prompts=str(held)).learnt > plain.learnt


def test_prompts_that_begin_alike_are_read_once(engine: LocalEngine) -> None:
    prompts = [[*range(5, 45), 50 + i] for i in range(8)]
    assert read_tokens(engine, prompts) == 40 + 8
    assert read_tokens(engine, prompts[:1] * 3) >= 41


def test_speed_is_measured(engine: LocalEngine) -> None:
    speed = measure_speed(engine, [user_turn(f"question {i}") for i in range(6)])
    assert speed.read > 0
    assert speed.written > 0
    work = Work(read=100, written=50, learnt=10)
    assert work.seconds(Speed(10, 5)) == pytest.approx(10 + 10 + forecast.LEARN)
    assert (work + work * 2).written == 150


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest.open(tmp_path / "run", config={}, seed=0, command=[])


def test_what_is_left_follows_the_pace(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("sirl.experiment.forecast.time.monotonic", lambda: now[0])
    monkeypatch.setattr("sirl.manifest.time.monotonic", lambda: now[0])
    clock = Clock(manifest)
    assert clock.left() is None
    manifest.data["expected_seconds"] = {"gap": 10.0, "attack_before": 100.0, "train": 300.0}
    assert clock.left() == 410
    with manifest.stage("gap"):
        now[0] += 20  # twice as long as expected
    pace = (20 + forecast.SETTLED) / (10 + forecast.SETTLED)
    assert clock.left() == pytest.approx(pace * 400), "a short stage does not double the rest"
    with manifest.stage("attack_before"):
        assert clock.left() == pytest.approx(pace * 400)
        now[0] += 50
        assert clock.left() == pytest.approx(pace * 400 - 50)
        now[0] += 500
        assert clock.left() == pytest.approx(pace * 300), "never less than the stages to come"
    assert clock.left() == pytest.approx(300 * (570 + forecast.SETTLED) / (110 + forecast.SETTLED))
    assert Clock(Manifest.read(manifest.run_dir)).left() is not None, "who resumes knows it as well"


def test_bars_say_what_is_left(manifest: Manifest) -> None:
    labels = []

    @contextmanager
    def bar(label: str) -> Any:
        labels.append(label)
        yield lambda *_: None

    clock = Clock(manifest)
    with clock.bar(bar)("gap"):
        manifest.data["expected_seconds"] = {"gap": 10.0, "train": 300.0}
    with clock.bar(bar)("train"):
        pass
    assert labels == ["gap", "train, 5 minutes left in all"]


def test_forecast_is_said_once(planned: Any, engine: LocalEngine, manifest: Manifest, capsys: Any) -> None:
    clock = Clock(manifest)
    clock.forecast(planned(), FakeEngine())
    assert clock.expected == {}, "an engine that is somewhere else"
    clock.forecast(planned(), engine)
    said = capsys.readouterr().err
    assert said.startswith("about ")
    assert "attack_before" in said
    assert set(clock.expected) == {"gap", "attack_before", "train", "attack_after", "capability"}
    clock.forecast(planned(), engine)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(2, "10 seconds"), (64, "60 seconds"), (170, "3 minutes")])
def test_minutes(seconds: float, text: str) -> None:
    assert minutes(seconds) == text
