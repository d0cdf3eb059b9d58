"""`sirl run`, `sirl demo` and `sirl report`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sirl.cli.demo import QUICK
from sirl.evals.choices import load_questions
from sirl.experiment.config import read_yaml
from sirl.prompts import load_prompts
from sirl.records import to_json
from sirl.results.interface import read_summary
from tiny_models import tiny_model, tiny_tokenizer

SCHEMA = Path(__file__).parent.parent.parent / "docs" / "summary.schema.json"
SUMMARY = {
    "kinds": {"static": {"attacks": ["direct", "dan"], "dsr_before": 0.5, "dsr_after": 0.9}},
    "dsr_before": 0.5,
    "dsr_after": 0.9,
    "plain_refusal_before": 0.0,
    "plain_refusal_after": 0.02,
    "sounds_harmful_refusal_before": 0.1,
    "sounds_harmful_refusal_after": None,
    "seconds": {"gap": 3.0, "train": 60.0},
    "checkpoint": "runs/x/model",
}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Configurations that were run; none is."""
    calls: list[tuple[Any, Any]] = []

    def note(config: Any, **more: Any) -> dict[str, Any]:
        calls.append((config, more))
        return SUMMARY

    monkeypatch.setattr("sirl.experiment.pipeline.run_pipeline", note)
    return calls


def test_the_full_demo_is_run_with_its_own_config(sirl: Any, ran: list[Any]) -> None:
    assert sirl("demo", "--full").code == sirl("run", "--config", "demo").code == 0
    assert ran[0][0] == replace(ran[1][0], name="demo-full")
    assert ran[0][0].model_name_or_path == "demo"
    assert [more["forecast"] for _, more in ran] == [True, False]
    assert sirl("demo", "--full", "--name", "mine").code == 0
    assert ran[2][0].name == "mine"


def test_the_demo_is_the_full_one_with_smaller_sizes(sirl: Any, ran: list[Any]) -> None:
    """Nothing else: what is trained, how, and what is measured stay the same."""
    assert sirl("demo").code == sirl("run", "--config", "demo").code == 0
    assert sirl("demo", "--quick").code == 0
    assert ran.pop()[0] == ran[0][0]
    quick, full = (_leaves(config.as_dict()) for config, _ in ran)
    smaller = {key: value for key, value in quick.items() if value != full[key]}
    assert set(smaller) == set(_leaves(read_yaml(str(QUICK))))
    number = {key: len(value) if isinstance(value, list | tuple) else value for key, value in smaller.items()}
    most = {key: len(full[key]) if isinstance(full[key], list | tuple) else full[key] for key in number}
    assert all(most[key] is None or value < most[key] for key, value in number.items())
    assert sirl("demo", "--set", "train.max_steps=5").code == 0
    assert ran[2][0].train.options["max_steps"] == 5


def test_the_sizes_of_the_demo_are_documented(sirl: Any, ran: list[Any]) -> None:
    assert sirl("demo").code == sirl("demo", "--full").code == 0
    page = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| ([^|]+) \| (.+) \|$", page.partition("### Two sizes")[2].partition("## The file")[0], re.M)
    )

    def said(config: Any) -> dict[str, str]:
        attack, evals, own = config.attack, config.evals, config.development
        benign = evals.max_prompts or len(load_prompts(evals.overrefusal, with_category=True))
        return {
            "goals": str(attack.max_goals or len(load_prompts(attack.goals))),
            "benign": f"{benign}, {evals.max_wrapped}",
            "multiple-choice": str(evals.max_questions or len(load_questions(evals.choices))),
            "prompts": str(config.gap.max_prompts),
            "decodings": ", ".join(attack.decoding),
            "updates": str(config.train.options["max_steps"]),
            "checks": f"{own.max_goals}, {own.max_prompts}, {own.max_wrapped}",
        }

    quick, full = (said(config) for config, _ in ran)
    found = {label.split()[0]: cells.split(" | ") for label, cells in rows.items() if label.split()[0] in quick}
    assert found == {key: [quick[key], full[key]] for key in quick}


def _leaves(data: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= _leaves(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return out


def test_overrides(sirl: Any, ran: list[Any]) -> None:
    words = ("--set", "train.max_steps=5", "--set", "attack.decoding=[greedy]", "--seed", 7, "--name", "seven")
    assert sirl("demo", *words, "--overwrite").code == 0
    config, more = ran[0]
    assert (config.train.options["max_steps"], config.seed, config.name) == (5, 7, "seven")
    assert config.attack.decoding == ("greedy",)
    assert config.run_dir == Path("runs/seven")
    assert more["overwrite"] is True


@pytest.mark.usefixtures("ran")
def test_table_and_json(sirl: Any) -> None:
    out = sirl("demo").out
    assert "mean over 2 static attacks" in out
    assert "50.0%" in out
    assert "90.0%" in out
    assert "runs/demo/report.html" in out
    assert sirl("demo", "--json").json["dsr_after"] == 0.9


@pytest.mark.usefixtures("ran")
def test_wrapped_requests_have_a_line_where_they_were_measured(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wrappings" not in sirl("demo").out
    monkeypatch.setitem(SUMMARY, "wrapped_refusal_before", 0.21)
    monkeypatch.setitem(SUMMARY, "wrapped_refusal_after", 0.64)
    (line,) = [line for line in sirl("demo").out.splitlines() if "wrappings" in line]
    assert line.split()[-2:] == ["21.0%", "64.0%"]


@pytest.mark.usefixtures("ran")
def test_benign_prompts_of_other_categories_have_a_line(sirl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "refusals of all benign prompts" not in sirl("demo").out, "both kinds were measured"
    for kind in ("plain", "sounds_harmful"):
        for phase in ("before", "after"):
            monkeypatch.setitem(SUMMARY, f"{kind}_refusal_{phase}", None)
    monkeypatch.setitem(SUMMARY, "benign_refusal_before", 0.21)
    monkeypatch.setitem(SUMMARY, "benign_refusal_after", 1.0)
    lines = [line for line in sirl("demo").out.splitlines() if "benign prompts" in line]
    assert [line.split()[-2:] for line in lines] == [["21.0%", "100.0%"]]


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "the following arguments are required: --config"),
        (("run", "--config", "nowhere.yaml"), "no such file: nowhere.yaml"),
        (("demo", "--set", "train.max_steps"), "--set: expected KEY=VALUE, got 'train.max_steps'"),
        (("demo", "--set", "train.max_steps=[1"), "--set train.max_steps: '[1' is not a YAML value"),
        (("demo", "--set", "trian.max_steps=1"), "trian is not a known key; did you mean train?"),
        (("demo", "--set", "gap.kk=1"), "gap.kk is not a known key; did you mean k?"),
        (("demo", "--seed", "-1"), "must be 0 to 4294967295, got -1"),
    ],
)
def test_bad_input(sirl: Any, words: tuple[str, ...], message: str) -> None:
    assert message in sirl(*words).error


def test_unwritable_output_folder_is_the_first_thing_said(sirl: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("--output_dir", tmp_path / "file" / "run", "--model_name_or_path", "./nowhere")
    assert "--output_dir: cannot write to" in sirl("demo", *words).error


def test_whole_story_with_a_tiny_model(sirl: Any, tmp_path: Path) -> None:
    """Every stage for real, on a model that has nothing to harden: the gap is measured and not required."""
    model = tmp_path / "tiny"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    for name, word in (("train", "bread"), ("goals", "snack"), ("benign", "tomato")):
        rows = [{"id": f"{name}{i}", "prompt": f"{word} {i}?", "category": "plain"} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {
        "dataset_name": str(tmp_path / "train.jsonl"),
        "retention_dataset_name": str(tmp_path / "train.jsonl"),
        "max_steps": 1,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "report_to": "none",
        "use_cpu": True,
    }
    config = {
        "name": "tiny",
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": str(model),
        "gap": {"max_prompts": 2, "k": 2, "max_new_tokens": 6, "required": False},
        "train": train,
        "attack": {"attacks": "direct,base64", "goals": str(tmp_path / "goals.jsonl"), "max_new_tokens": 6},
        "evals": {"overrefusal": str(tmp_path / "benign.jsonl"), "max_new_tokens": 6},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    summary = sirl("run", "--config", path, "--json").json
    assert summary["dsr_before"] == summary["dsr_after"] == 0  # gibberish is no refusal
    assert Path(summary["checkpoint"], "model.safetensors").is_file()
    assert Path(summary["base"], "model.safetensors").is_file()
    assert "<html" in Path(summary["report"]).read_text()
    written = (tmp_path / "run" / "summary.json").read_text()
    on_disk = json.loads(written)
    jsonschema.validate(on_disk, json.loads(SCHEMA.read_text()))
    assert {key: summary[key] for key in on_disk} == on_disk
    typed = read_summary(tmp_path / "run" / "summary.json")
    assert to_json(typed.to_dict(), indent=2) + "\n" == written, "in and out again: every key, to the last digit"
    assert sirl("report", tmp_path / "run", "--json").json == {"report": str(tmp_path / "run" / "report.html")}
    assert (tmp_path / "run" / "summary.json").read_text() == written
