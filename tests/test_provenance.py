"""Which version of model and data was used: asked for, loaded, recorded, held to when a run is continued, and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sirl import provenance
from sirl.cli.main import main
from sirl.errors import UserError
from sirl.experiment.config import parse_config
from sirl.experiment.pipeline import export_base
from sirl.experiment.plan import training_options
from sirl.manifest import Manifest
from sirl.models import load_model, load_tokenizer
from sirl.prompts import load_prompts
from sirl.prompts.hub_data import HubName
from sirl.provenance import data_sources, model_source
from sirl.report.card import render_card
from sirl.report.render import render_html
from sirl.results.load import load_run
from tiny_models import tiny_model, tiny_tokenizer

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds two commits of `lab/tiny`, `main` being the newer one and `v1` the older."""
    repo = tmp_path / "cache" / "models--lab--tiny"
    for commit, seed in ((OLD, 1), (NEW, 2)):
        folder = repo / "snapshots" / commit
        tiny_model("llama", seed=seed).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    cache = str(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", cache, raising=False)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", cache, raising=False)
    return repo


def weights(model: Any) -> list[float]:
    return model.lm_head.weight[0].tolist()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("revision", "seed", "commit"), [(None, 2, NEW), ("v1", 1, OLD), (OLD, 1, OLD)])
def test_the_revision_is_loaded_and_its_commit_known(
    revision: str | None, seed: int, commit: str, tmp_path: Path
) -> None:
    assert weights(load_model("lab/tiny", revision=revision)) == weights(tiny_model("llama", seed=seed))
    assert load_tokenizer("lab/tiny", revision=revision)
    source = model_source("lab/tiny", revision)
    assert source == {"name": "lab/tiny", "kind": "hub", "revision": revision, "commit": commit}
    export_base("lab/tiny", tmp_path / "base", revision)
    assert weights(load_model(str(tmp_path / "base"))) == weights(tiny_model("llama", seed=seed))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", ["attack", "gap", "eval"])
def test_every_command_keeps_it(command: str, tmp_path: Path) -> None:
    goals = tmp_path / "goals.txt"
    goals.write_text("Bake bread?\nGrow tomatoes?\n")
    words = ["--model_name_or_path", "lab/tiny", "--model_revision", "v1", "--output_dir", str(tmp_path / "run")]
    words += {
        "attack": ["--goals", str(goals), "--attacks", "direct", "--max_new_tokens", "2"],
        "gap": ["--dataset_name", str(goals), "--max_new_tokens", "2", "--k", "2"],
        "eval": ["--reference", "lab/tiny", "--reference_revision", NEW, "--overrefusal", str(goals)],
    }[command]
    assert main([command, *words]) == 0
    manifest = Manifest.read(tmp_path / "run")
    assert manifest is not None
    (sources,) = manifest.data["sources"].values()
    commits = {role: one["commit"] for role, one in sources.items() if one["kind"] == "hub"}
    assert commits == ({"before": NEW, "after": OLD} if command == "eval" else {"model": OLD})
    page, shown = render_html(load_run(tmp_path / "run")), f"lab/tiny at {OLD} (revision v1)"
    assert shown in page


def test_run_keeps_it() -> None:
    data = {"name": "x", "model_name_or_path": "lab/tiny", "train": {"dataset_name": "d.jsonl"}}
    without, given = (parse_config({**data, **more}, "test") for more in ({}, {"model_revision": "v1"}))
    assert "model_revision" not in without.as_dict(), "or runs of before could not be continued"
    assert given.as_dict()["model_revision"] == "v1"
    with pytest.raises(UserError, match=r"train\.model_revision: set model_revision at the top of the file"):
        training_options(parse_config({**data, "train": {"dataset_name": "d", "model_revision": "v1"}}, "test"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gap", "--model_name_or_path", "demo"], "--model_revision v1: demo is not a hub id"),
        (["attack", "--output_dir", "out", "--model_name_or_path", "."], "--model_revision v1: . is not a hub id"),
        (
            ["attack", "--output_dir", "out", "--model_name_or_path", "m", "--engine", "http://localhost:1/v1"],
            "--model_revision v1: a server chooses its model itself",
        ),
    ],
)
def test_a_revision_that_says_nothing(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--model_revision", "v1"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("hub")
def test_an_adapter_names_the_version_of_its_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_model("llama", seed=1), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for revision, seed in (("v1", 1), (None, 2)):
        named = {**config, "base_model_name_or_path": "lab/tiny", "revision": revision}
        (tmp_path / "adapter_config.json").write_text(json.dumps(named))
        assert weights(load_model(str(tmp_path))) == weights(tiny_model("llama", seed=seed))


def test_data_sets_have_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*names: Any, **more: Any) -> Any:
        asked.append((names, more))
        raise FileNotFoundError("stop")

    monkeypatch.setattr("datasets.load_dataset", load)
    for source in ("lab/set:config@test#v2", "lab/set@test#refs/convert/parquet", "lab/set#abc123", "lab/set"):
        with pytest.raises(UserError):
            load_prompts(source)
    revisions = [more.get("revision") for _, more in asked]
    assert revisions == ["v2", "refs/convert/parquet", "abc123", None]
    assert HubName.parse("lab/set:config@test#v2") == HubName("lab/set", "config", "test", "v2")


def test_commits_of_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "_dataset_commit", lambda _, revision: {"v1": OLD}.get(revision or "", NEW))
    file = tmp_path / "mine.jsonl"
    found = data_sources({"goals": "lab/set@test#v1", "benign": f"demo/retention,{file},lab/other", "none": None})
    assert {key: (one["kind"], one["commit"]) for key, one in found.items()} == {
        "goals": ("hub", OLD),
        "benign 1": ("bundled", None),
        "benign 2": ("file", None),
        "benign 3": ("hub", NEW),
    }


def test_where_the_hub_cannot_be_asked() -> None:
    assert data_sources({"goals": "lab/set"})["goals"]["commit"] is None


def test_a_run_is_continued_with_the_same_versions_alone(tmp_path: Path) -> None:
    def source(commit: str | None) -> provenance.Source:
        return {"name": "lab/set", "kind": "hub", "revision": None, "commit": commit}

    manifest = Manifest.open(tmp_path, config={}, seed=0, command=[])
    manifest.note_sources("data", {"goals": source(None)})
    manifest.note_sources("data", {"goals": source(OLD)})
    manifest.note_sources("data", {"goals": source(None)})  # the hub is not there today
    again = Manifest.open(tmp_path, config={}, seed=0, command=[])
    with pytest.raises(UserError, match=rf"begun with goals lab/set at commit {OLD}, which is at commit {NEW} now"):
        again.note_sources("data", {"goals": source(NEW)})
    again.note_sources("other", {"goals": source(NEW)})


def test_a_folder_is_no_base_model_wherever_the_card_is_written(tmp_path: Path) -> None:
    run = tmp_path / "proj" / "runs" / "x"
    (tmp_path / "proj" / "lab" / "llama").mkdir(parents=True)
    (run / "model").mkdir(parents=True)

    def base(name: str, kind: str | None = None) -> bool:
        found = {"base": {"model": {"name": name, "kind": kind}}} if kind else {}
        manifest = {"config": {"model_name_or_path": name}, "stages": {}, "sources": found}
        (run / "manifest.json").write_text(json.dumps(manifest))
        return "base_model:" in render_card(load_run(run))

    assert base("org/llama")
    assert not base("lab/llama"), "it stands where the run was started"
    shutil.rmtree(tmp_path / "proj" / "lab")
    assert base("lab/llama")
    assert not base("lab/llama", "folder"), "it did when it was loaded"
    assert not base("models/llama")


def test_a_folder_and_a_file_are_known_by_what_they_hold(tmp_path: Path) -> None:
    folder, data = tmp_path / "tiny", tmp_path / "goals.txt"
    tiny_model().save_pretrained(folder)
    data.write_text("Bake bread?\n")

    def versions() -> tuple[object, object]:
        return model_source(str(folder))["fingerprint"], data_sources({"goals": str(data)})["goals"]["fingerprint"]

    first = versions()
    shutil.copytree(folder, tmp_path / "copy")
    assert model_source(str(tmp_path / "copy"))["fingerprint"] == first[0], "wherever it lies"
    (folder / "README.md").write_text("no part of the model")
    assert versions() == first
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    data.write_text("Bake breads\n")
    assert all(a != b for a, b in zip(versions(), first, strict=True))


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "goals.txt"])
def test_an_attack_is_not_continued_on_another_model(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the answers were those of a model that had been trained again in the meantime."""
    folder, goals = tmp_path / "tiny", tmp_path / "goals.txt"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    goals.write_text("Bake bread?\nGrow tomatoes?\n")
    words = ["attack", "--model_name_or_path", str(folder), "--goals", str(goals), "--attacks", "direct,base64"]
    words += ["--max_new_tokens", "2", "--output_dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr("sirl.stages.judge_file", _interrupt)
        assert main(words) == 130
    file = goals if changed == "goals.txt" else folder / changed
    old = file.read_bytes()
    file.write_bytes(old[:-4] + b"\0\0\0\0" if changed.endswith("tensors") else old + b"\n")
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "was begun with " in error
    assert " now; use the version that it was begun with" in error
    file.write_bytes(old)
    assert main(words) == 0


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
