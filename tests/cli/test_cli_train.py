"""`sirl train`: what is checked before training, the gap as a gate, going on, and a real tiny model once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripted import FakeEngine
from tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"request {i}\n" for i in range(12)))
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trainings that were started; none is run."""
    calls: list[Any] = []

    def note(config: Any, model: Any, data: Any, **_: Any) -> Path:
        calls.append((config, model, data))
        return Path(config.output_dir) / "model"

    monkeypatch.setattr("sirl.training.run.run_training", note)
    return calls


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(refuses=[f"request {i}" for i in range(0, 12, 2)])
    monkeypatch.setattr("sirl.generation.load_engine", lambda *_, **__: fake)
    return fake


def flags(model: str, prompts: str, folder: Path, *more: object) -> tuple[object, ...]:
    return ("train", "--model_name_or_path", model, "--dataset_name", prompts, "--output_dir", folder, *more)


@pytest.mark.usefixtures("engine")
def test_gap_then_training(sirl: Any, model: str, prompts: str, tmp_path: Path, trained: list[Any]) -> None:
    result = sirl(*flags(model, prompts, tmp_path / "out", "--max_steps", 3, "--json"))
    assert result.json == {"model": str(tmp_path / "out" / "model"), "output_dir": str(tmp_path / "out")}
    assert trained[0][0].max_steps == 3
    assert json.loads((tmp_path / "out" / "gap.json").read_text())["verdict"] == "too few", "no prompt got both kinds"
    stages = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"]
    assert {name: s["status"] for name, s in stages.items()} == {"gap": "done", "train": "done"}


def test_the_gap_is_measured_within_the_bound_on_the_cache(
    sirl: Any, model: str, prompts: str, tmp_path: Path, trained: list[Any], engine: FakeEngine, monkeypatch: Any
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("sirl.generation.load_engine", lambda *_, **more: given.append(more["max_cache_gb"]) or engine)
    assert sirl(*flags(model, prompts, tmp_path / "out", "--max_cache_gb", 0.5)).code == 0
    assert (given, len(trained)) == ([0.5], 1)


@pytest.mark.usefixtures("engine")
def test_flags_win_over_the_config(sirl: Any, model: str, prompts: str, tmp_path: Path, trained: list[Any]) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"model_name_or_path: {model}\ndataset_name: {prompts}\nmax_steps: 3\noutput_dir: {tmp_path}/out\n")
    assert sirl("train", "--config", path, "--max_steps", 9, "--seed=4").code == 0
    assert (trained[0][0].max_steps, trained[0][0].seed) == (9, 4)


def test_the_gap_check_is_skipped_by_the_config(
    sirl: Any, model: str, prompts: str, tmp_path: Path, trained: list[Any]
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"model_name_or_path: {model}\ndataset_name: [{prompts}]\nskip_gap_check: on\noverwrite: no\n")
    assert sirl("train", "--config", path, "--output_dir", tmp_path / "out").code == 0
    assert not (tmp_path / "out" / "gap.json").exists()
    assert len(trained) == 1


def test_no_instinct_no_training(
    sirl: Any, model: str, prompts: str, tmp_path: Path, trained: list[Any], engine: FakeEngine, monkeypatch: Any
) -> None:
    from dataclasses import replace

    generate = engine.generate

    def backwards(*args: Any, **kwargs: Any) -> Any:
        groups = generate(*args, **kwargs)
        return [[replace(c, entropies=tuple(2 - h for h in c.entropies)) for c in group] for group in groups]

    monkeypatch.setattr(engine, "generate", backwards)
    words = flags(model, prompts, tmp_path / "out")
    assert "the entropy gap is reversed" in sirl(*words).error
    assert "--skip_gap_check" in sirl(*words).error  # going on does not lead past the gate
    assert trained == []
    assert sirl(*words, "--skip_gap_check").code == 0
    assert len(trained) == 1


def test_interrupted_training_goes_on_without_measuring_again(
    sirl: Any, model: str, prompts: str, tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("sirl.training.run.run_training", stop)
    words = flags(model, prompts, tmp_path / "out")
    stopped = sirl(*words)
    assert stopped.code == 130
    assert "the same command continues from the last checkpoint" in stopped.err
    calls = engine.calls
    monkeypatch.setattr("sirl.training.run.run_training", lambda *_, **__: tmp_path)
    assert sirl(*words).code == 0
    assert engine.calls == calls
    assert "holds a finished run" in sirl(*words).error


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max_stepz", "3"), "--max_stepz is not a known flag of sirl train; did you mean --max_steps?"),
        (("--config", "nowhere.yaml"), "--config: no such file: nowhere.yaml"),
        (("--dataset_name", "nowhere.jsonl"), "--dataset_name: no such file: nowhere.jsonl"),
        (("--model_name_or_path", "./nowhere"), "nowhere"),
        (("--num_generations", "1"), "--num_generations 1"),
        (("--model_name_or_path", "demo", "--model_revision", "v1"), "--model_revision v1: demo is not a hub id"),
        (("--model_revision", "v1"), "is not a hub id, and only hub ids have versions; leave it out"),
        (("--per_device_train_batch_size", "512"), "12 prompts, but one batch takes"),
    ],
)
def test_bad_input(
    sirl: Any, model: str, prompts: str, tmp_path: Path, more: tuple[str, ...], message: str, trained: list[Any]
) -> None:
    assert message in sirl(*flags(model, prompts, tmp_path / "out", *more)).error
    assert trained == []


def test_needed_flags(sirl: Any) -> None:
    message = "required: --model_name_or_path, --dataset_name, --output_dir (as flags or in --config)"
    assert message in sirl("train").error


def test_an_output_folder_of_nothing_is_none(sirl: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: null\n")
    assert "arguments are required: --output_dir" in sirl("train", "--config", path).error


def test_unknown_key_of_the_config(sirl: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("learning_rat: 1e-5\n")
    assert (
        f"{path}: learning_rat is not a known key; did you mean learning_rate?" in sirl("train", "--config", path).error
    )


def test_output_folder_of_something_else(sirl: Any, model: str, prompts: str, tmp_path: Path) -> None:
    assert "is not empty and is not a run folder" in sirl(*flags(model, prompts, tmp_path)).error


@pytest.mark.parametrize("what", ["chat_template", "eos_token"])
def test_tokenizer_that_will_not_do(sirl: Any, model: str, prompts: str, tmp_path: Path, what: str) -> None:
    tokenizer = tiny_tokenizer()
    setattr(tokenizer, what, None)
    for path in Path(model).glob("chat_template*"):
        path.unlink()
    tokenizer.save_pretrained(model)
    words = {"chat_template": "no chat template", "eos_token": "no end-of-sequence token"}
    assert words[what] in sirl(*flags(model, prompts, tmp_path / "out")).error


def test_help_has_our_flags_and_those_of_trl(sirl: Any) -> None:
    out = sirl("train", "--help").out
    assert all(flag in out for flag in ("--skip_gap_check", "--reward", "--learning_rate", "--use_peft", "--json"))


def test_tiny_model_is_trained_and_loads(sirl: Any, model: str, prompts: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    words = flags(model, prompts, tmp_path / "out", "--max_steps", 2, "--learning_rate", "1e-2", "--num_generations", 4)
    sizes = ("--per_device_train_batch_size", 8, "--max_completion_length", 8, "--report_to", "none", "--use_cpu")
    result = sirl(*words, *sizes, "--skip_gap_check", "--json")
    hardened = AutoModelForCausalLM.from_pretrained(result.json["model"]).state_dict()
    start = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert any(not torch.equal(start[name].float(), hardened[name].float()) for name in start)
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
