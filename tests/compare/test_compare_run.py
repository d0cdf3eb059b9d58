"""How a comparison is run, with scripted models and no training: order, what is taken over, resume, failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from compare_helpers import write_config

from scripted import FakeEngine
from sirl.compare import baselines
from sirl.compare import run as comparison
from sirl.compare.grid import Job, plan_jobs
from sirl.compare.run import compare, link
from sirl.errors import UserError
from sirl.experiment import pipeline
from sirl.records import Attempt, Verdict, read_jsonl


class World:
    """Engines by folder, and trainings that write a folder or fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.engines = {"base": FakeEngine(refuses=["goal 0"]), "model": FakeEngine(refuses=["goal"])}
        monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
        monkeypatch.setattr(pipeline, "export_base", lambda _, target: target.mkdir())
        for module in (pipeline, comparison):
            monkeypatch.setattr(module, "load_engine", lambda name, **_: self.engines[Path(name).name])
        monkeypatch.setattr("sirl.training.run.run_training", lambda config, *_, **__: self.train(config.output_dir))
        trainings = dict.fromkeys(baselines.TRAININGS, lambda plan, _, **__: self.train(plan.config.run_dir))
        monkeypatch.setattr(baselines, "TRAININGS", trainings)

    def train(self, folder: str | Path) -> None:
        name = Path(folder).name
        if name in self.fails:
            raise self.fails[name]
        self.trained.append(name)
        (Path(folder) / "model").mkdir()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def planned(out: Path, methods: Sequence[str], seeds: Sequence[int] = (0,), **more: Any) -> list[Job]:
    # scripted models have no tokens to diverge on, and say what the rules can read
    sets = {
        "evals.drift": False,
        "evals.wrappings": None,
        "attack.judge": "refusal",
        "gap.judge": "refusal",
        **more.pop("sets", {}),
    }
    config = write_config(out.parent, "some-model")
    return plan_jobs(str(config), methods=methods, seeds=seeds, folder=out, sets=sets, **more)


@pytest.mark.usefixtures("world")
def test_draws_are_taken_over_where_training_is_set_alike(out: Path) -> None:
    compare(planned(out, ["sft"], [0, 1]), out)
    for seed in (0, 1):
        (out / f"sft-seed{seed}" / "draws.jsonl").write_text(f"seed {seed}\n")
    compare(planned(out, ["sft", "dpo", "sirl"], [0, 1]), out)
    for seed in (0, 1):
        assert (out / f"dpo-seed{seed}" / "draws.jsonl").read_text() == f"seed {seed}\n"
        assert not (out / f"sirl-seed{seed}" / "draws.jsonl").exists()


@pytest.mark.usefixtures("world")
def test_draws_under_other_settings_are_not_taken_over(out: Path) -> None:
    compare(planned(out, ["sft"]), out)
    (out / "sft-seed0" / "draws.jsonl").write_text("others\n")
    compare(planned(out, ["sft", "dpo"], sets={"dpo:train.learning_rate": 0.5}), out)
    assert not (out / "dpo-seed0" / "draws.jsonl").exists()


def status(out: Path, run: str) -> dict[str, Any]:
    manifest = json.loads((out / run / "manifest.json").read_text())
    return {name: stage["status"] for name, stage in manifest["stages"].items()}


def test_the_bound_on_the_cache_holds_for_every_method(
    out: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: set[Any] = set()

    def load(name: str, **more: Any) -> FakeEngine:
        given.add(more["max_cache_gb"])
        return world.engines[Path(name).name]

    for module in (pipeline, comparison):
        monkeypatch.setattr(module, "load_engine", load)
    compare(planned(out, ["system_prompt", "sft"], sets={"train.max_cache_gb": 0.5}), out)
    assert given == {0.5}


def test_every_kind_of_method(out: Path, world: World) -> None:
    found = compare(planned(out, ["system_prompt", "sft", "sirl"]), out)
    assert [row["status"] for row in found["rows"]] == ["done"] * 4
    rates = {row["method"]: row["dsr"]["rate"] for row in found["rows"]}
    assert rates == {"none": 0.25, "system_prompt": 0.25, "sft": 1.0, "sirl": 1.0}
    assert found["front"] == ["sft", "sirl"]
    assert found["methods"]["none"]["dominated_by"] == ["sft", "sirl"]
    assert world.trained == ["sft-seed0", "sirl-seed0"]
    assert json.loads((out / "compare.json").read_text()) == json.loads(json.dumps(found))
    assert "<html" in (out / "compare.html").read_text()
    assert "train" not in status(out, "system_prompt-seed0")
    assert found["rows"][1]["train_seconds"] is None
    assert (out / "sirl-seed0" / "report.html").is_file()


@pytest.mark.usefixtures("world")
def test_only_sirl_gets_a_card_that_says_sirl(out: Path) -> None:
    compare(planned(out, ["sft", "sirl"]), out)
    assert (out / "sirl-seed0" / "model" / "README.md").is_file()
    assert not (out / "sft-seed0" / "model" / "README.md").exists()


def test_what_comes_before_training_is_measured_once_a_seed(out: Path, world: World) -> None:
    compare(planned(out, ["sft", "dpo", "sirl"], seeds=[0, 1]), out)
    assert world.engines["base"].calls == 2 * 3, "gap, attacks and benign prompts, for each seed"
    start, run = (read_jsonl(out / f"{name}-seed1" / "attempts.jsonl", Attempt) for name in ("none", "dpo"))
    assert start == [a for a in run if a.phase == "before"]
    assert {a.seed for a in run} == {1}
    base = out / "none-seed0" / "base"
    for name in ("none-seed1", "dpo-seed0", "sirl-seed1"):
        assert (out / name / "base").resolve() == base.resolve()
    for seed in (0, 1):
        gaps = {(out / f"{name}-seed{seed}" / "gap.json").read_bytes() for name in ("none", "dpo", "sirl")}
        assert len(gaps) == 1


def test_wrapped_requests_are_measured_once_before_training(out: Path, world: World) -> None:
    """Of `none`, the trained and the untrained methods; answers of the base model are taken over."""
    sets = {"evals.wrappings": ["aim"], "evals.max_wrapped": 2}
    found = compare(planned(out, ["sft", "system_prompt", "sirl"], sets=sets), out)
    assert [row["status"] for row in found["rows"]] == ["done"] * 4
    start = read_jsonl(out / "none-seed0" / "wrapped_attempts.jsonl", Attempt)
    assert [a.phase for a in start] == ["before"] * 2
    for name in ("sft", "system_prompt", "sirl"):
        attempts = read_jsonl(out / f"{name}-seed0" / "wrapped_attempts.jsonl", Attempt)
        assert attempts[:2] == start
        assert [a.phase for a in attempts[2:]] == ["after"] * 2
        verdicts = read_jsonl(out / f"{name}-seed0" / "wrapped_verdicts.jsonl", Verdict)
        assert [v.attempt_id for v in verdicts] == [a.id for a in attempts]
    assert world.engines["base"].calls == 4 + 3, "before: gap, attacks, benign and wrapped; after: a system prompt's"


def test_a_gap_on_other_prompts_is_measured_anew(out: Path, world: World) -> None:
    variant = out.parent / "longer.yaml"
    variant.write_text("gap: {k: 3}\n")
    compare(planned(out, [], variants=[str(variant)]), out)
    assert world.engines["base"].calls == 3 + 1
    samples = {name: (out / name / "gap_samples.jsonl").read_text() for name in ("none-seed0", "longer-seed0")}
    assert 2 * samples["longer-seed0"].count("\n") == 3 * samples["none-seed0"].count("\n")


def test_another_model_starts_from_nothing(out: Path, world: World) -> None:
    variant = out.parent / "other.yaml"
    variant.write_text("model_name_or_path: another-model\n")
    found = compare(planned(out, [], variants=[str(variant)]), out)
    assert found["front"] == ["none"], "what another model does dominates nobody"
    assert found["methods"]["other"]["start"]["dsr"]["mean"] == 0.25
    assert "not placed: starts from another-model" in (out / "compare.html").read_text()
    assert world.engines["base"].calls == 3 + 3
    assert not (out / "other-seed0" / "base").is_symlink()


def test_finished_runs_are_not_done_again(out: Path, world: World) -> None:
    first = compare(planned(out, ["sft"]), out)
    calls = {name: engine.calls for name, engine in world.engines.items()}
    second = compare(planned(out, ["sft", "dpo"]), out)
    assert world.trained == ["sft-seed0", "dpo-seed0"]
    assert world.engines["base"].calls == calls["base"]
    assert second["rows"][:2] == first["rows"]


def test_interrupted_comparison_goes_on(out: Path, world: World) -> None:
    world.engines["model"].break_at = 1  # in the middle of the first trained model's answers
    with pytest.raises(KeyboardInterrupt):
        compare(planned(out, ["sft", "sirl"]), out)
    assert status(out, "sft-seed0")["attack_after"] == "interrupted"
    assert [row["method"] for row in json.loads((out / "compare.json").read_text())["rows"]] == ["none"], "so far"
    calls, world.engines["model"].break_at = world.engines["model"].calls, None
    found = compare(planned(out, ["sft", "sirl"]), out)
    assert [row["status"] for row in found["rows"]] == ["done"] * 3
    assert world.trained == ["sft-seed0", "sirl-seed0"]
    assert world.engines["model"].calls == calls + 1 + 2, "of sft the benign prompts alone"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("nothing to imitate"), "nothing to imitate"),
        (RuntimeError("first line\nsecond"), "RuntimeError: first line second"),
    ],
)
def test_a_method_that_fails_does_not_stop_the_others(out: Path, world: World, error: Exception, reason: str) -> None:
    world.fails["sft-seed1"] = error
    found = compare(planned(out, ["sft", "sirl"], seeds=[0, 1]), out)
    (failed,) = [row for row in found["rows"] if row["status"] == "failed"]
    assert (failed["method"], failed["seed"], failed["reason"]) == ("sft", 1, reason)
    assert "dsr" not in failed
    assert found["methods"]["sft"]["seeds"] == 1
    assert found["methods"]["sirl"]["seeds"] == 2
    assert type(error).__name__ in (out / "sft-seed1" / "failure.txt").read_text()
    world.fails.clear()
    again = compare(planned(out, ["sft", "sirl"], seeds=[0, 1]), out)
    assert again["methods"]["sft"]["seeds"] == 2
    assert not (out / "sft-seed1" / "failure.txt").exists()
    assert world.trained.count("sft-seed0") == 1


def test_a_gap_that_is_not_there_is_a_finding(out: Path, world: World) -> None:
    world.engines["base"] = FakeEngine()
    found = compare(planned(out, ["sirl"]), out)
    (row,) = [row for row in found["rows"] if row["method"] == "sirl"]
    assert (row["status"], row["gap"], row["dsr_before"], row["dsr_after"]) == ("done", "too few", 0.0, 1.0)
    assert (row["rose"], row["rewards_certainty"]) == (True, True)
    (told,) = found["gap"]
    assert (told["gap"], told["difference"], told["rose"], told["agrees"]) == ("too few", None, True, False)


@pytest.mark.usefixtures("world")
def test_another_configuration_in_the_same_folder(out: Path) -> None:
    compare(planned(out, ["sft"]), out)
    changed = planned(out, ["sft"], sets={"train.max_steps": 3})
    with pytest.raises(UserError, match="none-seed0 holds a run of another configuration"):
        compare(changed, out)
    compare(changed, out, overwrite=True)
    config = json.loads((out / "sft-seed0" / "manifest.json").read_text())["config"]
    assert (config["train"]["max_steps"], config["compare"]) == (3, {"method": "sft"})


def test_interrupted_after_overwrite_keeps_what_is_done(out: Path, world: World) -> None:
    compare(planned(out, ["sft", "sirl"]), out)
    world.engines["model"].break_at = world.engines["model"].calls + 1
    with pytest.raises(KeyboardInterrupt):
        compare(planned(out, ["sft", "sirl"]), out, overwrite=True)
    assert not (out / "sirl-seed0" / "manifest.json").exists(), "nothing of the earlier comparison is left to mix with"
    world.engines["model"].break_at = None
    assert [row["status"] for row in compare(planned(out, ["sft", "sirl"]), out)["rows"]] == ["done"] * 3
    assert world.trained.count("sft-seed0") == 2


@pytest.mark.usefixtures("world")
def test_other_settings_of_a_method_are_another_run(out: Path) -> None:
    compare(planned(out, ["best_of_n"]), out)
    with pytest.raises(UserError, match="best_of_n-seed0 holds a run of another configuration"):
        compare(planned(out, ["best_of_n"], sets={"best_of_n:n": 2}), out)


@pytest.mark.usefixtures("world")
def test_foreign_folders_are_left_alone(out: Path) -> None:
    (out / "sft-seed0").mkdir(parents=True)
    (out / "sft-seed0" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="sft-seed0 is not empty and is not a run folder"):
            compare(planned(out, ["sft"]), out, overwrite=overwrite)
    assert [p.name for p in (out / "sft-seed0").iterdir()] == ["thesis.txt"]
    assert not (out / "none-seed0").exists()


@pytest.mark.usefixtures("world")
def test_wrong_names_are_found_before_any_work(out: Path) -> None:
    with pytest.raises(UserError, match="unknown attack 'telepathy'"):
        compare(planned(out, ["sft"], sets={"attack.attacks": "telepathy"}), out)
    assert not out.exists()


def test_links_survive_a_move(tmp_path: Path) -> None:
    (tmp_path / "a" / "none" / "base").mkdir(parents=True)
    (tmp_path / "a" / "none" / "base" / "x").write_text("weights")
    (tmp_path / "a" / "sft").mkdir()
    link(tmp_path / "a" / "none" / "base", tmp_path / "a" / "sft" / "base")
    (tmp_path / "a").rename(tmp_path / "b")
    assert (tmp_path / "b" / "sft" / "base" / "x").read_text() == "weights"


def test_copies_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "x").write_text("weights")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    link(tmp_path / "base", tmp_path / "copy")
    assert (tmp_path / "copy" / "x").read_text() == "weights"
