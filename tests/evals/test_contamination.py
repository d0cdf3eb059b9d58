"""Prompts that a model was trained on or chosen by are no measure of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sirl.errors import UserError
from sirl.evals.contamination import check_contamination
from sirl.evals.overrefusal import load_benign
from sirl.records import Prompt, write_json

FLAG = "--overrefusal"
TEXTS = [f"How do I bake loaf {i}?" for i in range(20)]


@pytest.fixture
def chosen(tmp_path: Path) -> Path:
    """A run whose model was chosen by 5 of 20 benign prompts, and by goals."""
    for name, texts in (("dev", TEXTS), ("goals", [f"Pick lock {i}" for i in range(4)])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    own = {"goals": str(tmp_path / "goals.jsonl"), "max_goals": None}
    own |= {"overrefusal": str(tmp_path / "dev.jsonl"), "max_prompts": 5}
    write_json(run / "chosen.json", {"rule": "best", "chosen": {"step": 3}})
    write_json(run / "manifest.json", {"stages": {}, "config": {"seed": 7, "development": own}})
    return run


def drawn(run: Path) -> set[str]:
    return {p.text for p in load_benign(str(run.parent / "dev.jsonl"), 5, 7, "f")}


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(f"p{i}", text) for i, text in enumerate(texts)]


def test_prompts_that_the_choice_has_seen_are_refused(chosen: Path) -> None:
    seen = sorted(drawn(chosen))
    with pytest.raises(UserError) as caught:
        check_contamination(prompts("How do I sail?", seen[0].upper()), chosen, "org/model", FLAG)
    assert str(caught.value).startswith(
        "--overrefusal: the model of run was chosen by some of these prompts, so they do not measure it (1 of the 2 "
        "--overrefusal prompts are also development.overrefusal prompts: "
    )
    assert "\n" not in str(caught.value)


def test_goals_are_looked_at_too(chosen: Path) -> None:
    with pytest.raises(UserError, match=r"also development\.goals"):
        check_contamination(prompts("Pick lock 2"), chosen, "org/model", FLAG)


def test_prompts_that_were_not_drawn_are_taken(chosen: Path) -> None:
    check_contamination(prompts(*(t for t in TEXTS if t not in drawn(chosen))), chosen, "org/model", FLAG)


def test_results_elsewhere_are_no_way_round(chosen: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was chosen by some of these"):
        check_contamination(prompts(*TEXTS), tmp_path / "elsewhere", str(chosen / "model"), FLAG)


@pytest.mark.parametrize("without", ["chosen.json", "manifest.json", "development"])
def test_where_nothing_was_chosen_all_prompts_will_do(chosen: Path, without: str) -> None:
    if without == "development":
        write_json(chosen / "manifest.json", {"stages": {}, "config": {"seed": 7, "development": None}})
    else:
        (chosen / without).unlink()
    check_contamination(prompts(*TEXTS), chosen, str(chosen / "model"), FLAG)


def test_nothing_asked_needs_no_development_set(chosen: Path) -> None:
    (chosen.parent / "dev.jsonl").unlink()
    check_contamination([], chosen, "org/model", FLAG)


def test_a_development_set_that_is_gone(chosen: Path) -> None:
    (chosen.parent / "dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"^--overrefusal: cannot tell whether the model of run .* no such file"):
        check_contamination(prompts("How do I sail?"), chosen, "org/model", FLAG)


def test_the_command_refuses_them_before_any_work(chosen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sirl.cli import eval as command
    from sirl.cli.common import Parser

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("sirl.experiment.evaluate.measure", measured)
    parser = Parser()
    command.add_arguments(parser)
    words = ["--model_name_or_path", str(chosen / "model"), "--reference", "x", "--output_dir", str(chosen)]
    args = parser.parse_args([*words, "--overrefusal", str(chosen.parent / "dev.jsonl"), "--overwrite"])
    before = (chosen / "manifest.json").read_text()
    with pytest.raises(UserError, match="was chosen by some of these"):
        command.run(args)
    assert (chosen / "manifest.json").read_text() == before


def trained(folder: Path, **config: Any) -> Path:
    """A run folder of this configuration; its two sources lie beside it."""
    for name, text in (("train", "How do I bake rolls?"), ("held", "How do I moor a boat?")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"ask": "aside", "prompt": text}) + "\n")
    (folder / "run" / "model").mkdir(parents=True)
    write_json(folder / "run" / "manifest.json", {"stages": {}, "config": config})
    return folder / "run"


def sources(folder: Path) -> dict[str, str]:
    return {"dataset_name": str(folder / "train.jsonl"), "retention_dataset_name": str(folder / "held.jsonl")}


@pytest.mark.parametrize(("text", "key"), [("bake rolls", "dataset_name"), ("moor a boat", "retention_dataset_name")])
@pytest.mark.parametrize("section", ["train.", ""], ids=["run", "sirl train"])
def test_prompts_of_training_are_refused(text: str, key: str, section: str, tmp_path: Path) -> None:
    own = sources(tmp_path)
    run = trained(tmp_path, **({"train": own} if section else own))
    asked = prompts("How do I sail?", f"how do I {text}")
    for folder, model in ((run, "org/model"), (tmp_path / "elsewhere", str(run / "model"))):
        with pytest.raises(UserError) as caught:
            check_contamination(asked, folder, model, FLAG)
        assert str(caught.value).startswith(
            "--overrefusal: the model of run was trained on some of these prompts, so they do not measure it (1 of the "
            f"2 --overrefusal prompts are also {section}{key} prompts: "
        )
        assert "\n" not in str(caught.value)
    check_contamination(asked[:1], run, str(run / "model"), FLAG)


def test_the_column_that_was_trained_on_is_read(tmp_path: Path) -> None:
    run = trained(tmp_path, train={**sources(tmp_path), "prompt_column": "ask"})
    check_contamination(prompts("How do I bake rolls?"), run, "org/model", FLAG)
    with pytest.raises(UserError, match=r"also train\.dataset_name prompts"):
        check_contamination(prompts("Aside!"), run, "org/model", FLAG)


def test_training_prompts_that_are_gone_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trained(tmp_path, train=sources(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    check_contamination(prompts("How do I bake rolls?"), run, "org/model", FLAG)
    (said,) = caplog.messages
    assert said.startswith(
        "--overrefusal: not checked against what the model of run was trained on (train.dataset_name: no such file: "
    )
    with pytest.raises(UserError, match=r"also train\.retention_dataset_name prompts"):
        check_contamination(prompts("How do I moor a boat?"), run, "org/model", FLAG)


def test_a_strange_file_beside_the_model_is_no_manifest(tmp_path: Path) -> None:
    run = trained(tmp_path)
    (run / "manifest.json").write_text("[]")
    check_contamination(prompts("How do I bake rolls?"), tmp_path / "elsewhere", str(run / "model"), FLAG)
