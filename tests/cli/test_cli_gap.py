"""`sirl gap` with a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripted import FakeEngine
from sirl.evals.probe import Probed, Reading


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(refuses=[f"request {i}" for i in range(6)])
    monkeypatch.setattr("sirl.generation.load_engine", lambda *_, **__: fake)
    return fake


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"request {i}\n" for i in range(12)))
    return str(path)


def test_json_and_table(sirl: Any, prompts: str) -> None:
    words = ("gap", "--model_name_or_path", "m", "--dataset_name", prompts, "--k", 3)
    found = sirl(*words, "--json").json
    assert found["verdict"] == "present"
    assert found["compared"] == "harmful"
    assert found["overall"]["difference"] == pytest.approx(1.3 - 0.15)
    assert "present" in sirl(*words).out


def test_unlabeled_and_benign(sirl: Any, prompts: str, tmp_path: Path) -> None:
    benign = tmp_path / "benign.txt"
    benign.write_text("one\ntwo\n")
    found = sirl(
        "gap", "--model_name_or_path", "m", "--dataset_name", prompts, "--unlabeled", "--benign_dataset_name", benign,
        "--json",
    ).json  # fmt: skip
    assert found["compared"] == "unlabeled"
    assert set(found["by_kind"]) == {"unlabeled", "benign"}


def test_files(sirl: Any, prompts: str, tmp_path: Path) -> None:
    words = ("gap", "--model_name_or_path", "m", "--dataset_name", prompts, "--output_dir", tmp_path / "out")
    assert sirl(*words).code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        "gap.json",
        "gap_samples.jsonl",
        "gap.svg",
    }
    assert len((tmp_path / "out" / "gap_samples.jsonl").read_text().splitlines()) == 12 * 4
    assert "holds a finished gap" in sirl(*words).error
    assert sirl(*words, "--overwrite").code == 0
    assert json.loads((tmp_path / "out" / "gap.json").read_text())["verdict"] == "present"


def test_probe_in_wrappings(sirl: Any, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def probe(_: Any, wrappings: Any, fit_on: Any, read_on: Any, *_more: Any) -> Probed:
        asked.update(names=[w.name for w in wrappings], fit=len(fit_on["harmful"]), read=len(read_on["harmful"]))
        bare = Reading("direct", "none", True, 0.98, 0.95, 1.0, 12, 12)
        aim = Reading("aim", "persona", True, 0.9, 0.8, 0.97, 12, 12)
        return Probed(4, 40, bare, (aim, Reading("base64", "encoding", False, 0.5, 0.3, 0.7, 12, 12)))

    monkeypatch.setattr("sirl.evals.probe.probe_wrappings", probe)
    words = ("gap", "--model_name_or_path", "m", "--dataset_name", prompts, "--wrappings", "aim,base64")
    out = sirl(*words, "--output_dir", tmp_path / "out").out
    assert "an instinct is there in 1 of 2 wrappings" in out
    assert asked == {"names": ["aim", "base64"], "fit": 315, "read": 12}
    kept = json.loads((tmp_path / "out" / "gap_wrappings.json").read_text())
    assert [reading["there"] for reading in kept["wrappings"]] == [True, False]
    assert kept == sirl(*words, "--json").json["wrappings"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--wrappings", "pair"), "--wrappings: only static attacks"),
        (("--wrappings", "aim", "--unlabeled"), "--wrappings: needs requests that are known to be harmful"),
        (("--wrappings", "aim", "--probe_dataset_name", "demo/train"), "--probe_dataset_name: the column category"),
        (("--wrappings", "aim", "--dataset_name", "demo/contrast"), "are also --probe_dataset_name prompts"),
        (("--k", 0), "--k: must be 1 or more"),
        (("--temperature", 0), "--temperature 0: must be above 0"),
        (("--dataset_name", "nowhere.csv"), "--dataset_name: no such file"),
        (("--benign_dataset_name", "nowhere.csv"), "--benign_dataset_name: no such file"),
        (("--judge", "solomon"), "solomon"),
    ],
)
def test_bad_input(sirl: Any, more: tuple[str, ...], message: str) -> None:
    assert message in sirl("gap", "--model_name_or_path", "m", *more).error
