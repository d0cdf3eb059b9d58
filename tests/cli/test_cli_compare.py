"""`sirl compare`: flags, the table, JSON; the comparison itself is tested in tests/compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sirl.compare.methods import METHODS
from sirl.compare.metrics import FIGURES, RATES

RATE = {"mean": 0.125, "min": 0.1, "max": 0.15, "low": 0.05, "high": 0.2, "n": 40}


def found(names: list[str]) -> dict[str, Any]:
    figures = {name: RATE if name in RATES else {"mean": 3.0, "min": 3.0, "max": 3.0} for name in FIGURES}
    figures["dprime"] |= {"low": 1.5, "high": 4.25}
    methods = {
        name: {**figures, "seeds": 1, "on_front": name == "sirl", "failed": [], "model": "demo"} for name in names
    }
    failed = {"method": "dpo", "seed": 4, "status": "failed", "reason": "no pairs"}
    equal = {"limit": 0.08, "methods": {"sirl": {"dsr": {"mean": 0.9}}, "dpo": {"dsr": None}}}
    facts: dict[str, Any] = {"wrapped_front": names[-1:]}
    facts |= {"front": ["sirl"] if "sirl" in names else [], "rows": [failed], "gap": [], "at_equal_over_refusal": equal}
    return {"model": "demo", "methods": methods, **facts}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs of comparisons; none is made."""
    calls: list[Any] = []

    def note(jobs: Any, folder: Path, **more: Any) -> dict[str, Any]:
        calls.append((jobs, folder, more))
        return found(list(dict.fromkeys(job.name for job in jobs)))

    monkeypatch.setattr("sirl.compare.run.compare", note)
    return calls


def test_all_methods_by_default(sirl: Any, ran: list[Any]) -> None:
    assert sirl("compare", "--config", "demo").code == 0
    jobs, folder, more = ran[0]
    assert [(job.name, job.seed) for job in jobs] == [(name, 0) for name in METHODS]
    assert (folder, more["overwrite"]) == (Path("comparison"), False)
    assert sirl("compare", "--config", "demo", "--methods", "all").code == 0
    assert ran[0][0] == ran[1][0]


def test_with_variants_the_baselines_stay_away(sirl: Any, ran: list[Any], tmp_path: Path) -> None:
    (tmp_path / "noise.yaml").write_text("train: {reward: random}")
    words = ("--variants", tmp_path / "noise.yaml", "--seeds", "0,2", "--output_dir", tmp_path / "out", "--overwrite")
    assert sirl("compare", "--config", "demo", *words).code == 0
    jobs, folder, more = ran[0]
    assert [job.name for job in jobs] == ["none", "none", "sirl", "sirl", "noise", "noise"]
    assert {job.seed for job in jobs} == {0, 2}
    assert (folder, more["overwrite"]) == (tmp_path / "out", True)


@pytest.mark.parametrize("between", [",", " ", ", "])
def test_variants_are_divided_by_commas_or_blanks(sirl: Any, ran: list[Any], tmp_path: Path, between: str) -> None:
    files = [tmp_path / "noise.yaml", tmp_path / "a,b" / "odd.yaml"]
    files[1].parent.mkdir()
    for path in files:
        path.write_text("train: {reward: random}")
    given = f"{files[0]}{between}ablations/kl-0.001".split(" ")
    assert sirl("compare", "--config", "demo", "--seeds", "0", "--variants", *given, files[1]).code == 0
    assert [job.name for job in ran[0][0]][2:] == ["noise", "kl-0.001", "odd"]


def test_values_for_all_and_for_one(sirl: Any, ran: list[Any]) -> None:
    sets = ("--set", "train.max_steps=5", "--set", "dpo:beta=0.2", "--set", "sft:train.learning_rate=1e-4")
    assert sirl("compare", "--config", "demo", "--methods", "sft, dpo", *sets).code == 0
    none, sft, dpo = ran[0][0]
    assert none.config.train.options["max_steps"] == dpo.config.train.options["max_steps"] == 5
    assert dict(dpo.settings) == {"beta": 0.2}
    assert sft.config.train.options["learning_rate"] == "1e-4"  # as YAML reads it; the trainer's parser takes it


@pytest.mark.usefixtures("ran")
def test_table_and_json(sirl: Any) -> None:
    out = sirl("compare", "--config", "demo", "--methods", "sirl").out
    assert "12.5%" in out
    assert "benign refused" in out
    assert "On the Pareto front of DSR and over-refusal: sirl" in out
    assert "On that of DSR and benign requests refused in wrappings: sirl" in out
    assert "sirl 3.00 (1.50 to 4.25)" in out
    assert "no more over-refusal there than sirl's (8.0%): sirl 90.0%" in out
    assert "failed: dpo, seed 4: no pairs" in out
    assert "comparison/compare.html" in out
    assert sirl("compare", "--config", "demo", "--json").json["front"] == ["sirl"]


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: --config"),
        (("--config", "nowhere.yaml"), "no such file: nowhere.yaml"),
        (("--config", "demo", "--methods", "sirl,luck"), "--methods: luck is unknown"),
        (("--config", "demo", "--seeds", "0,x"), "--seeds 0,x: expected different whole numbers"),
        (("--config", "demo", "--seeds", "1,1"), "--seeds 1,1: expected different whole numbers"),
        (("--config", "demo", "--seeds", ""), "--seeds : expected different whole numbers"),
        (("--config", "demo", "--seeds=-1"), "--seeds -1: expected different whole numbers"),
        (("--config", "demo", "--set", "sirl"), "--set: expected KEY=VALUE, got 'sirl'"),
        (("--config", "demo", "--set", "luck:n=3"), "--set luck:...: luck is not in this comparison"),
        (("--config", "demo", "--variants", "nowhere.yaml"), "--variants: no such file: nowhere.yaml"),
    ],
)
def test_bad_input(sirl: Any, words: tuple[str, ...], message: str) -> None:
    assert message in sirl("compare", *words).error


def test_unwritable_output_folder(sirl: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("--config", "demo", "--methods", "none", "--output_dir", tmp_path / "file" / "out")
    assert "--output_dir: cannot write to" in sirl("compare", *words).error
