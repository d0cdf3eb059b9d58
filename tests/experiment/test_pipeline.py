"""The story of a run with a scripted model and no training: order, files, interruptions, the gap as a gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openai_server import Server
from scripted import FakeEngine
from sirl.errors import UserError
from sirl.experiment import pipeline
from sirl.experiment.config import DevelopmentSection, RunConfig, parse_config
from sirl.experiment.pipeline import run_pipeline
from sirl.experiment.plan import prepare
from sirl.progress import no_bar
from sirl.records import Attempt, Verdict, read_jsonl
from sirl.results.rates import PHASES
from sirl.training.checkpoint_selection import SelectionRule


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"prompt": t, "category": "plain"}) + "\n" for t in texts))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = {
        "name": "story",
        "seed": 3,
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": "some-model",
        "gap": {"max_prompts": 12, "k": 2},
        "train": {"dataset_name": lines(tmp_path / "train.jsonl", [f"task {i}" for i in range(12)]), "max_steps": 2},
        "attack": {
            "attacks": "direct,dan",
            "goals": lines(tmp_path / "goals.jsonl", [f"goal {i}" for i in range(4)]),
            "decoding": ["greedy"],
        },
        "evals": {
            "overrefusal": lines(tmp_path / "benign.jsonl", [f"question {i}" for i in range(5)]),
            "drift": False,  # the models here are scripts
            "wrappings": None,
        },
    }
    return parse_config(data, "test")


class World:
    """What stands in for models: engines by folder, and a training that writes a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained = 0
        self.fail_training = False
        # the base model refuses half of everything that is asked, the hardened one all harmful goals
        halves = [f"{kind} {i}" for kind in ("task", "goal") for i in range(0, 12, 2)]
        self.engines = {"base": FakeEngine(refuses=halves), "model": FakeEngine(refuses=["goal"])}
        # first: this imports the module, which must not bind the stand-in below for good
        monkeypatch.setattr("sirl.training.run.run_training", self.train)
        monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
        monkeypatch.setattr(pipeline, "announce", lambda *_: None)  # of a model that there is none of
        monkeypatch.setattr(pipeline, "export_base", lambda _, target: target.mkdir())
        monkeypatch.setattr(pipeline, "load_engine", lambda name, **_: self.engines[Path(name).name])

    def train(self, config: Any, model: Any, data: Any, **_: Any) -> Path:
        assert (config.max_steps, config.seed, Path(model.model_name_or_path).name) == (2, 3, "base")
        assert data.dataset_name.endswith("train.jsonl")
        if self.fail_training:
            raise KeyboardInterrupt
        self.trained += 1
        folder = Path(config.output_dir) / "model"
        folder.mkdir()
        return folder


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def stages(config: RunConfig) -> dict[str, str]:
    manifest = json.loads((config.run_dir / "manifest.json").read_text())
    return {name: entry["status"] for name, entry in manifest["stages"].items()}


STORY = ["base", "gap", "attack_before", "train", "attack_after", "capability", "judge", "report"]


def test_whole_story(config: RunConfig, world: World) -> None:
    summary = run_pipeline(config, command=["sirl", "run"])
    assert stages(config) == dict.fromkeys(STORY, "done")
    assert (summary["dsr_before"], summary["dsr_after"]) == (0.5, 1.0)
    assert summary["plain_refusal_before"] == summary["plain_refusal_after"] == 0
    assert summary["gap"]["verdict"] == "too few", "no prompt, of which none is labelled, got both kinds"
    assert set(summary["seconds"]) == set(STORY)
    assert summary["checkpoint"] == str(config.run_dir / "model")
    assert summary["base"] == str(config.run_dir / "base")
    on_disk = {p.name for p in config.run_dir.iterdir()}
    assert {"summary.json", "report.html", "gap.json", "gap_samples.jsonl", "gap.svg", "evals.json"} <= on_disk
    assert json.loads((config.run_dir / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert world.trained == 1


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("gap", "benign_dataset_name", "gap.benign_dataset_name: no such file: nowhere.jsonl"),
        ("gap", "dataset_name", "gap.dataset_name: no such file: nowhere.jsonl"),
        ("train", "dataset_name", "train.dataset_name: no such file: nowhere.jsonl"),
        ("train", "retention_dataset_name", "train.retention_dataset_name: no such file: nowhere.jsonl"),
        ("train", "wrap_prompts", "train.wrap_prompts: no such file: nowhere.jsonl"),
        ("attack", "goals", "attack.goals: no such file: nowhere.jsonl"),
    ],
)
def test_errors_name_keys_of_the_file(config: RunConfig, section: str, key: str, message: str) -> None:
    data = json.loads(json.dumps(config.as_dict()))
    data[section][key] = "nowhere.jsonl"
    with pytest.raises(UserError, match=message):
        run_pipeline(parse_config(data, "test"))


def test_errors_of_the_training_name_keys_of_the_file(
    config: RunConfig, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("--dataset_name x: 3 prompts, but --num_generations 8 (or --output_dir y) are more")

    monkeypatch.setattr(world, "train", fail)
    monkeypatch.setattr("sirl.training.run.run_training", fail)
    with pytest.raises(UserError) as caught:
        run_pipeline(config)
    assert str(caught.value) == (
        "train.dataset_name x: 3 prompts, but train.num_generations 8 (or --output_dir y) are more"
    )


def test_the_bound_on_the_cache_holds_in_every_stage(
    config: RunConfig, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def load(name: str, **more: Any) -> FakeEngine:
        given[Path(name).name] = more["max_cache_gb"]
        return world.engines[Path(name).name]

    monkeypatch.setattr(pipeline, "load_engine", load)
    run_pipeline(replace(config, train=replace(config.train, options={**config.train.options, "max_cache_gb": 0.5})))
    assert given == {"base": 0.5, "model": 0.5}


@pytest.mark.usefixtures("world")
def test_same_prompts_and_seeds_before_and_after(config: RunConfig) -> None:
    run_pipeline(config)
    sides: dict[str, list[Any]] = {"before": [], "after": []}
    for a in read_jsonl(config.run_dir / "attempts.jsonl", Attempt):
        sides[a.phase].append((a.id.split("/", 1)[1], a.messages, a.seed))
    assert sides["before"] == sides["after"]
    assert len(sides["before"]) == 8


@pytest.mark.usefixtures("world")
def test_adaptive_attacks_search_again_and_are_replayed(config: RunConfig) -> None:
    section = replace(config.attack, attacks=("direct", "best_of_n"), budget=3)
    summary = run_pipeline(replace(config, attack=section))
    attempts = read_jsonl(config.run_dir / "attempts.jsonl", Attempt)
    assert {(a.phase, a.attack) for a in attempts} == {
        ("before", "direct"),
        ("before", "best_of_n"),
        ("after", "direct"),
        ("after", "best_of_n"),
        ("after", "best_of_n@before"),
    }
    assert set(summary["kinds"]) == {"static", "reoptimised", "transferred"}
    assert summary["kinds"]["transferred"]["pairs"] == 4
    assert summary["dsr_covers"] == "static"


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("attacks", "decoding", "replayed"),
    [
        (("best_of_n", "best_of_n@before"), ("greedy",), True),  # once, not twice
        (("best_of_n",), ("sample",), False),  # no greedy attempts, so nothing that a search settled on
    ],
)
def test_replays_are_added_where_they_are_missing_and_possible(
    config: RunConfig, attacks: tuple[str, ...], decoding: Any, replayed: bool
) -> None:
    run_pipeline(replace(config, attack=replace(config.attack, attacks=attacks, decoding=decoding, budget=3)))
    after = [a for a in read_jsonl(config.run_dir / "attempts.jsonl", Attempt) if a.phase == "after"]
    assert [a.attack for a in after].count("best_of_n@before") == 4 * replayed


def wrapping(config: RunConfig, **evals: Any) -> RunConfig:
    return replace(config, evals=replace(config.evals, wrappings=("aim", "base64"), max_wrapped=3, **evals))


def test_benign_requests_in_wrappings(config: RunConfig, world: World) -> None:
    """The hardened model refuses whatever comes in the wrapping of `aim`, and no request in base64."""
    world.engines["model"].refuses = ["goal", "AIM"]
    changed = wrapping(config)
    summary = run_pipeline(changed)
    attempts = read_jsonl(changed.run_dir / "wrapped_attempts.jsonl", Attempt)
    sides = {phase: [(a.attack, a.goal_id, a.messages) for a in attempts if a.phase == phase] for phase in PHASES}
    assert sides["before"] == sides["after"]
    asked = {a.goal for a in attempts}
    assert len(asked) == 3
    assert asked < {f"question {i}" for i in range(5)}
    assert {(a.attack, a.decoding, a.category) for a in attempts} == {
        ("aim", "greedy", "plain"),
        ("base64", "greedy", "plain"),
    }
    judged = read_jsonl(changed.run_dir / "wrapped_verdicts.jsonl", Verdict)
    assert {v.attempt_id for v in judged} == {a.id for a in attempts}
    assert (summary["wrapped_refusal_before"], summary["wrapped_refusal_after"]) == (0.0, 0.5)
    found = json.loads((changed.run_dir / "evals.json").read_text())["wrapped"]
    assert found["rates"]["after"]["by_attack"]["aim"]["rate"] == 1
    assert found["change"]["fixed"] == 3
    assert "partly measures refusing the wrapping" in (changed.run_dir / "report.html").read_text()
    run_pipeline(changed, overwrite=True)
    assert len(read_jsonl(changed.run_dir / "wrapped_attempts.jsonl", Attempt)) == 12, "the old ones are gone"


@pytest.mark.usefixtures("world")
def test_wrapped_requests_are_asked_greedily_alone(config: RunConfig) -> None:
    changed = wrapping(replace(config, attack=replace(config.attack, decoding=("sample",))))
    run_pipeline(changed)
    assert {a.decoding for a in read_jsonl(changed.run_dir / "wrapped_attempts.jsonl", Attempt)} == {"greedy"}


@pytest.mark.usefixtures("world")
def test_by_default_the_wrappings_are_those_of_the_attacks(config: RunConfig, tmp_path: Path) -> None:
    many = lines(tmp_path / "many.jsonl", [f"question {i}" for i in range(120)])
    evals = replace(config.evals, wrappings="attacks", overrefusal=many)
    attack = replace(config.attack, attacks=("direct", "dan", "aim", "best_of_n"))
    plan = prepare(replace(config, attack=attack, evals=evals))
    assert [wrapping.name for wrapping in plan.wrappings] == ["dan", "aim"]
    assert len(plan.wrapped) == 100, "200 in all"
    none = prepare(replace(config, attack=attack, evals=replace(evals, overrefusal=None)))
    assert (none.wrappings, none.wrapped) == ([], [])


@pytest.mark.usefixtures("world")
def test_without_wrappings_nothing_is_wrapped(config: RunConfig) -> None:
    summary = run_pipeline(config)
    assert summary["wrapped_refusal_before"] is summary["wrapped_refusal_after"] is None
    assert not (config.run_dir / "wrapped_attempts.jsonl").exists()
    assert json.loads((config.run_dir / "evals.json").read_text())["wrapped"] is None


def test_interrupted_among_wrapped_requests_goes_on(config: RunConfig, world: World) -> None:
    engine, changed = world.engines["base"], wrapping(config)
    engine.break_at = 3  # after the gap, the attacks and the benign prompts
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(changed)
    assert stages(changed)["attack_before"] == "interrupted"
    engine.break_at = None
    run_pipeline(changed)
    assert engine.calls == 3 + 1, "the wrapped requests alone"
    assert stages(changed) == dict.fromkeys(STORY, "done")


@pytest.mark.parametrize(("broken", "redone"), [("base", "attack_before"), ("model", "attack_after")])
def test_interrupted_while_attacking_goes_on(config: RunConfig, world: World, broken: str, redone: str) -> None:
    engine = world.engines[broken]
    engine.break_at = 2 if broken == "base" else 1  # after the gap and the attacks, before the benign prompts
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(config)
    assert stages(config)[redone] == "interrupted"
    calls, engine.break_at = engine.calls, None
    run_pipeline(config)
    assert engine.calls == calls + 1  # the benign prompts alone
    assert world.trained == 1
    assert stages(config) == dict.fromkeys(STORY, "done")


def test_interrupted_while_training_measures_nothing_twice(config: RunConfig, world: World) -> None:
    world.fail_training = True
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(config)
    calls, world.fail_training = world.engines["base"].calls, False
    summary = run_pipeline(config)
    assert world.engines["base"].calls == calls
    assert summary["dsr_after"] == 1


def test_reversed_gap_stops_before_any_attack(config: RunConfig, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = world.engines["base"].generate

    def backwards(*args: Any, **kwargs: Any) -> Any:
        from dataclasses import replace

        groups = generate(*args, **kwargs)
        return [[replace(c, entropies=tuple(2 - h for h in c.entropies)) for c in group] for group in groups]

    monkeypatch.setattr(world.engines["base"], "generate", backwards)
    for _ in range(2):  # going on does not lead past the gate
        with pytest.raises(UserError, match=r"the entropy gap is reversed: .*gap\.required: false"):
            run_pipeline(config)
    assert not (config.run_dir / "attempts.jsonl").exists()
    assert world.trained == 0


def test_finished_run_is_refused(config: RunConfig, world: World) -> None:
    run_pipeline(config)
    with pytest.raises(UserError, match="holds a finished run"):
        run_pipeline(config)
    run_pipeline(config, overwrite=True)
    assert world.trained == 2


@pytest.mark.usefixtures("world")
def test_several_judges(config: RunConfig, server: Server) -> None:
    """The rules label; a judge model behind a server finds harm in every answer to a goal, refused or not."""
    server.answer = lambda prompt: "yes" if "goal" in prompt else "no"
    judges = f"refusal,harmbench@{server.url}#served"
    changed = replace(config, attack=replace(config.attack, judge=judges))
    summary = run_pipeline(changed)
    assert (summary["dsr_before"], summary["dsr_after"]) == (0.5, 1.0)
    assert (summary["harm_dsr_before"], summary["harm_dsr_after"]) == (0, 0)
    on_disk = {p.name for p in changed.run_dir.iterdir()}
    assert {"disagreements.jsonl", "benign_disagreements.jsonl"} <= on_disk
    judged = read_jsonl(changed.run_dir / "verdicts.jsonl", Verdict)
    assert [v.judge for v in judged] == ["refusal"] * 16 + ["harmbench@served"] * 16
    manifest = json.loads((changed.run_dir / "manifest.json").read_text())
    assert manifest["judges"] == ["refusal", "harmbench@served"]
    rows = (changed.run_dir / "disagreements.jsonl").read_text().splitlines()
    assert len(rows) == sum(v.label == "full_refusal" for v in judged)
    asked = len(server.requests)
    run_pipeline(changed, overwrite=True)
    assert len(server.requests) == 2 * asked, "verdicts of the old run are gone with it"


@pytest.mark.usefixtures("world")
class TestPlan:
    @pytest.mark.parametrize(
        ("section", "judge", "message"),
        [
            ("attack", "solomon", r"attack\.judge: unknown judge 'solomon'"),
            ("attack", "refusal,refusal", r"attack\.judge refusal,refusal: a judge is named twice"),
            ("attack", "rubric", r"needs a model: rubric@MODEL"),
            ("gap", "refusal,refusal2", r"gap\.judge: unknown judge 'refusal2'"),
        ],
    )
    def test_wrong_judge(self, config: RunConfig, section: str, judge: str, message: str) -> None:
        data = config.as_dict()
        data[section]["judge"] = judge
        with pytest.raises(UserError, match=message):
            prepare(parse_config(data, "test"))

    @pytest.mark.parametrize(
        ("wrappings", "message"),
        [
            ("adaptive", r"^evals\.wrappings: only static attacks .*leave out \w+, "),
            (("direct", "dan"), r"^evals\.wrappings: direct has no wrapping"),
            ("templates", r"^evals\.wrappings: .*template file"),
        ],
    )
    def test_wrong_wrappings(self, config: RunConfig, wrappings: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            prepare(replace(config, evals=replace(config.evals, wrappings=wrappings)))

    def test_own_templates_wrap_where_they_are_named(self, config: RunConfig, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("Kindly: [PROMPT]")
        attack = replace(config.attack, template_file=str(tmp_path / "mine.txt"))
        for wrappings, names in (("dan", ["dan"]), ("dan,templates", ["dan", "template:1"])):
            evals = replace(config.evals, wrappings=wrappings)
            plan = prepare(replace(config, attack=attack, evals=evals))
            assert [attack.name for attack in plan.wrappings] == names

    def test_test_prompts_in_training_prompts(self, config: RunConfig, tmp_path: Path) -> None:
        lines(tmp_path / "goals.jsonl", ["something", "TASK 3!"])
        with pytest.raises(UserError, match=r"1 of the 2 attack\.goals prompts are also train\.dataset_name prompts"):
            prepare(config)

    def test_benign_test_prompts_in_retention_prompts(self, config: RunConfig, tmp_path: Path) -> None:
        held = lines(tmp_path / "held.jsonl", ["Question 2?"])
        changed = {**config.as_dict(), "train": {**config.as_dict()["train"], "retention_dataset_name": held}}
        with pytest.raises(UserError, match=r"evals\.overrefusal prompts are also train\.retention_dataset_name"):
            prepare(parse_config(changed, "test"))

    def test_development_prompts_among_the_reported_ones(self, config: RunConfig, tmp_path: Path) -> None:
        goals = lines(tmp_path / "development.jsonl", ["goal 9", "goal 2"])
        with pytest.raises(UserError, match=r"attack\.goals prompts are also development\.goals prompts"):
            prepare(replace(config, development=DevelopmentSection(goals, choose=False)))

    def test_an_allowance_in_wrappings_wants_many_answers(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        goals = lines(tmp_path / "d.jsonl", ["goal 9"])
        benign = lines(tmp_path / "b.jsonl", [f"question {i}" for i in range(9, 120)])
        section = DevelopmentSection(
            goals, attacks=("direct", "dan", "aim", "poem", "encyclopedia"), overrefusal=benign, wrapped_allowance=0.05
        )
        prepare(replace(config, development=section))
        assert "a check asks 80 benign requests in wrappings; 400 or more are wanted" in caplog.text
        caplog.clear()
        prepare(replace(config, development=replace(section, max_wrapped=100)))
        assert "400 or more" not in caplog.text
        with pytest.raises(UserError, match=r"development\.wrapped_allowance: .* set it to a number above 0"):
            replace(section, max_wrapped=None)

    def test_the_checks_of_development(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passed: list[Any] = []
        monkeypatch.setattr("sirl.training.run.run_training", lambda *_, callbacks, **__: passed.extend(callbacks))
        goals, benign = lines(tmp_path / "d.jsonl", ["goal 9"]), lines(tmp_path / "b.jsonl", ["question 9"])
        for choose in (True, False):
            section = DevelopmentSection(goals, overrefusal=benign, choose=choose, patience=3, max_repetition=0.6)
            plan = prepare(replace(config, development=section))
            pipeline.train(plan, no_bar)
            assert passed[-1].rule == (SelectionRule(patience=3, max_repetition=0.6) if choose else None)
            assert (passed[-1].measure, passed[-1].begin) == (plan.development.measure, plan.development.begin)

    def test_no_choice_of_sharded_weights(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate launch sets it
        goals, benign = lines(tmp_path / "d.jsonl", ["goal 9"]), lines(tmp_path / "b.jsonl", ["question 9"])
        section = DevelopmentSection(goals, overrefusal=benign, choose=False)
        assert prepare(replace(config, development=section)).development
        with pytest.raises(UserError, match=r"development\.choose: not with weights in shares"):
            prepare(replace(config, development=replace(section, choose=True)))

    def test_development_prompts_that_are_trained_on(self, config: RunConfig, tmp_path: Path) -> None:
        goals = lines(tmp_path / "development.jsonl", ["goal 9"])
        benign = lines(tmp_path / "asked.jsonl", ["task 3"])
        with pytest.raises(UserError, match=r"development\.overrefusal prompts are also train\.dataset_name"):
            prepare(replace(config, development=DevelopmentSection(goals, overrefusal=benign)))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("max_stepz", 3, r"train: max_stepz is not a known key; did you mean max_steps\?"),
            ("max_steps", "many", "--max_steps.*invalid int value: 'many'"),
            ("num_generations", 1, "num_generations 1"),
            ("seed", 3, r"train\.seed: set seed at the top"),
            ("dataset_name", "nowhere.jsonl", r"train\.dataset_name: no such file: nowhere\.jsonl"),
        ],
    )
    def test_wrong_training_key(self, config: RunConfig, key: str, value: Any, message: str) -> None:
        data = config.as_dict()
        data["train"][key] = value
        with pytest.raises(UserError, match=message):
            prepare(parse_config(data, "test"))

    def test_nothing_is_written_before_the_plan_stands(self, config: RunConfig, tmp_path: Path) -> None:
        data = config.as_dict()
        data["attack"]["attacks"] = "telepathy"
        with pytest.raises(UserError, match=r"attack\.attacks: unknown attack 'telepathy'"):
            run_pipeline(parse_config(data, "test"))
        assert not (tmp_path / "run").exists()
