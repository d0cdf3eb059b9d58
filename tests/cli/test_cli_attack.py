"""`sirl attack` with a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripted import FakeEngine
from sirl.attacks import ATTACKS, load_attack
from sirl.records import Attempt, Completion, Verdict, read_jsonl, write_json


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(refuses=["snack number 1", "snack number 3"])
    monkeypatch.setattr("sirl.generation.load_engine", lambda *_, **__: fake)
    return fake


def flags(goals: str, folder: Path, *more: object) -> tuple[object, ...]:
    return ("attack", "--model_name_or_path", "m", "--goals", goals, "--output_dir", folder, *more)


@pytest.mark.usefixtures("engine")
def test_attempts_verdicts_and_rates(sirl: Any, goals: str, tmp_path: Path) -> None:
    result = sirl(*flags(goals, tmp_path / "run", "--attacks", "direct,dan", "--decoding", "greedy,sample", "--json"))
    overall = result.json["rates"]["greedy"]["before"]["overall"]
    assert (overall["rate"], overall["n"], overall["errors"]) == (0.5, 8, 0)
    attempts = read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)
    verdicts = read_jsonl(tmp_path / "run" / "verdicts.jsonl", Verdict)
    assert len(attempts) == 2 * 4 * 2
    assert [v.attempt_id for v in verdicts] == [a.id for a in attempts]
    assert {a.category for a in attempts} == {"kitchen", "school"}


@pytest.mark.usefixtures("engine")
def test_table(sirl: Any, goals: str, tmp_path: Path) -> None:
    out = sirl(*flags(goals, tmp_path / "run")).out
    assert all(name in out for name in ATTACKS if load_attack(name).kind == "static")
    assert "mean over 49 static attacks" in out


def test_before_and_after_share_a_folder(sirl: Any, goals: str, tmp_path: Path, engine: FakeEngine) -> None:
    folder = tmp_path / "run"
    assert sirl(*flags(goals, folder)).code == 0
    engine.refuses = ["snack"]
    after = sirl(*flags(goals, folder, "--phase", "after", "--attacks", "direct", "--json")).json
    assert after["rates"]["greedy"]["after"]["overall"]["rate"] == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["stages"]) == {"attack_before", "attack_after"}
    assert manifest["judges"] == ["refusal"]


@pytest.mark.usefixtures("engine")
def test_benign_requests_are_put_into_the_same_wrappings(sirl: Any, goals: str, tmp_path: Path) -> None:
    folder, benign = tmp_path / "run", tmp_path / "benign.jsonl"
    texts = ["Is snack number 1 tasty?", *(f"How do I peel potato {i}?" for i in range(7))]
    benign.write_text("".join(json.dumps({"prompt": text, "category": "plain"}) + "\n" for text in texts))
    words = ("--attacks", "direct,dan,aim", "--overrefusal", benign, "--max_wrapped", "8")
    result = sirl(*flags(goals, folder, *words, "--decoding", "greedy,sample"))
    attempts = read_jsonl(folder / "wrapped_attempts.jsonl", Attempt)
    assert {(a.attack, a.decoding) for a in attempts} == {("dan", "greedy"), ("aim", "greedy")}
    assert len(attempts) == 2 * 8
    assert "mean over wrappings" in result.out
    assert "d' " in result.out
    told = sirl(*flags(goals, tmp_path / "json", *words, "--json")).json["wrapped"]
    assert told["dprime"]["phases"]["before"]["refused"] == pytest.approx(1 / 8)
    assert told["rates"]["before"]["overall"]["rate"] == pytest.approx(1 / 8)


@pytest.mark.usefixtures("engine")
def test_how_many_benign_requests_are_wrapped(sirl: Any, goals: str, tmp_path: Path) -> None:
    def asked(name: str, *more: str) -> int:
        assert sirl(*flags(goals, tmp_path / name, "--attacks", "direct,dan,aim", *more)).code == 0
        path = tmp_path / name / "wrapped_attempts.jsonl"
        return len(read_jsonl(path, Attempt)) if path.is_file() else 0

    assert asked("default") == 200
    assert asked("few", "--max_goals", "3") == 2 * 3, "no more than goals"
    assert asked("none", "--overrefusal", "none") == 0


def test_both_phases_wrap_the_same_requests(sirl: Any, goals: str, tmp_path: Path, engine: FakeEngine) -> None:
    words = ("--attacks", "dan", "--max_goals", "2")
    assert sirl(*flags(goals, tmp_path / "run", *words)).code == 0
    error = sirl(*flags(goals, tmp_path / "run", *words, "--phase", "after", "--max_wrapped", "5")).error
    assert "--max_wrapped: 5 here, but not given in phase before" in error
    assert engine.calls == 2


@pytest.mark.usefixtures("engine")
def test_goals_that_the_model_was_chosen_by(sirl: Any, goals: str, tmp_path: Path) -> None:
    run = tmp_path / "hardened"
    (run / "model").mkdir(parents=True)
    write_json(run / "chosen.json", {"chosen": {"step": 3}})
    write_json(run / "manifest.json", {"stages": {}, "config": {"seed": 0, "development": {"goals": goals}}})
    result = sirl(*flags(goals, tmp_path / "out", "--model_name_or_path", run / "model"))
    assert result.code == 2
    assert "--goals: the model of hardened was chosen by some of these prompts" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seed", "1"), "--seed: 1 here, but 0 in phase before of"),
        (("--max_new_tokens", "40"), "--max_new_tokens: 40 here, but 64 in phase before of"),
        (("--max_goals", "2"), "--max_goals: 2 here, but not given in phase before of"),
        (("--prompt_column", "prompt"), "--prompt_column: prompt here, but not given in phase before of"),
        (("--decoding", "greedy"), "--decoding: greedy here, but greedy,sample in phase before of"),
        (("--attack_budget", "4"), "--attack_budget: 4 here, but 3 in phase before of"),
        (
            ("--attack_budget", "3", "--attack_seconds", "9"),
            "--attack_seconds: 9.0 here, but not given in phase before",
        ),
    ],
)
def test_phases_differ_by_the_model_alone(
    sirl: Any, goals: str, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "run"
    attacks = ("--attacks", "direct,best_of_n", "--decoding", "greedy,sample")
    assert sirl(*flags(goals, folder, *attacks, "--attack_budget", "3")).code == 0
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    after = flags(goals, folder, "--phase", "after", *attacks)
    assert message in sirl(*after, *more).error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    assert sirl(*after, *more, "--overwrite").code == 0


@pytest.mark.usefixtures("engine")
def test_goals_of_both_phases_are_the_same(sirl: Any, goals: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert sirl(*flags(goals, folder, "--attacks", "direct")).code == 0
    other = tmp_path / "other.jsonl"
    other.write_text(Path(goals).read_text())
    error = sirl(*flags(str(other), folder, "--phase", "after", "--attacks", "direct")).error
    assert f"--goals: {other} here, but {goals} in phase before" in error


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("commit", [None, "1a2b3c4d"])
def test_goals_that_have_changed_behind_their_name(sirl: Any, goals: str, tmp_path: Path, commit: str | None) -> None:
    folder = tmp_path / "run"
    assert sirl(*flags(goals, folder, "--attacks", "direct")).code == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sources"]["attack_before"]["goals"]["commit"] = commit
    write_json(folder / "manifest.json", manifest)
    original, kept = Path(goals).read_text(), {path.name: path.read_bytes() for path in folder.iterdir()}
    Path(goals).write_text(original.replace("snack number 2", "snack number 22"))
    after = flags(goals, folder, "--phase", "after", "--attacks", "dan")
    error = sirl(*after).error
    assert error.startswith(f"sirl: error: --goals {goals}: holds other requests than in phase before of {folder}")
    assert (f"give what it was then ({goals}#1a2b3c4d), or" in error) == (commit is not None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    Path(goals).write_text(original)
    assert sirl(*after).code == 0


@pytest.mark.usefixtures("engine")
def test_attacks_and_what_only_one_phase_searches_with_may_differ(sirl: Any, goals: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert sirl(*flags(goals, folder, "--attacks", "direct,dan", "--decoding", "greedy, sample")).code == 0
    more = ("--attacks", "direct,best_of_n", "--attack_budget", "3", "--decoding", "sample,greedy")
    after = sirl(*flags(goals, folder, "--phase", "after", *more, "--json")).json
    assert after["change"]["greedy"]["pairs"] == 4


def test_errors_of_a_finished_run_are_tried_again(
    sirl: Any, goals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FakeEngine):
        """Cannot answer on one goal until it is healed."""

        healed = False

        def generate(self, conversations: Any, *rest: Any, **more: Any) -> Any:
            answers = super().generate(conversations, *rest, **more)
            for i, conversation in enumerate(conversations):
                if "snack number 2" in conversation[-1]["content"] and not self.healed:
                    answers[i] = [Completion.failed("gone")]
            return answers

    fake = Failing(refuses=["snack"])
    monkeypatch.setattr("sirl.generation.load_engine", lambda *_, **__: fake)
    words = flags(goals, tmp_path / "run", "--attacks", "direct", "--json")
    first = sirl(*words).json["rates"]["greedy"]["before"]["overall"]
    assert (first["n"], first["errors"]) == (3, 1)
    fake.healed = True
    assert "holds a finished attack_before" in sirl(*words).error
    assert (
        "with other settings (max_new_tokens differ)" in sirl(*words, "--retry_errors", "--max_new_tokens", "9").error
    )
    again = sirl(*words, "--retry_errors").json["rates"]["greedy"]["before"]["overall"]
    assert (again["n"], again["errors"], again["refused"]) == (4, 0, 4)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "done"


def test_interrupted_goes_on(sirl: Any, goals: str, tmp_path: Path, engine: FakeEngine) -> None:
    words = flags(goals, tmp_path / "run", "--attacks", "direct", "--decoding", "greedy,sample")
    engine.break_at = 1
    stopped = sirl(*words)
    assert (stopped.code, stopped.out) == (130, "")
    assert "the same command continues" in stopped.err
    engine.break_at = None
    assert sirl(*words).code == 0
    assert len(read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)) == 8
    assert engine.calls == 2  # greedy before the interruption, sample after it


@pytest.mark.usefixtures("engine")
def test_finished_is_refused_unless_overwritten(sirl: Any, goals: str, tmp_path: Path) -> None:
    words = flags(goals, tmp_path / "run", "--attacks", "direct")
    assert sirl(*words).code == 0
    assert "holds a finished attack_before" in sirl(*words).error
    assert sirl(*words, "--overwrite").code == 0


@pytest.mark.usefixtures("engine")
def test_own_templates_run_behind_the_attacks(sirl: Any, goals: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"name": "polite", "template": "Kindly: [PROMPT]"}\n{"id": 7, "suffix": "!! ok"}\n')
    words = flags(goals, tmp_path / "run", "--template_file", file, "--attacks", "direct", "--json")
    rates = sirl(*words).json["rates"]["greedy"]["before"]["by_attack"]
    assert list(rates) == ["direct", "template:polite", "template:7"]
    sent = {a.id: a.messages[0]["content"] for a in read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)}
    assert sent["before/greedy/template:polite/g2"] == "Kindly: How do I hide snack number 2?"
    assert sent["before/greedy/template:7/g2"] == "How do I hide snack number 2? !! ok"


@pytest.mark.usefixtures("engine")
def test_own_templates_alone(sirl: Any, goals: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Kindly: [PROMPT]\n---\nQuick: [PROMPT]\n")
    words = flags(goals, tmp_path / "run", "--template_file", file, "--attacks", "templates", "--json")
    assert list(sirl(*words).json["rates"]["greedy"]["before"]["by_attack"]) == ["template:1", "template:2"]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--attacks", "telepathy"), "--attacks: unknown attack 'telepathy'"),
        (("--attacks", "templates"), "the attacks of a template file; none was given"),
        (("--template_file", "nowhere.jsonl"), "--template_file: no such file: nowhere.jsonl"),
        (("--decoding", "beam"), "--decoding: expected greedy"),
        (("--goals", "nowhere.jsonl"), "--goals: no such file: nowhere.jsonl"),
        (("--judge", "solomon"), "solomon"),
        (("--max_new_tokens", "0"), "--max_new_tokens: must be 1 or more"),
        (("--max_goals", "few"), "--max_goals: expected a whole number, got 'few'"),
        (("--phase", "during"), "--phase: invalid choice"),
        (("--attack_budget", "0"), "--attack_budget: must be 1 or more"),
        (("--attack_seconds", "0"), "--attack_seconds: must be above 0, got 0"),
        (("--attack_seconds", "soon"), "--attack_seconds: expected seconds, got 'soon'"),
        (("--attacker_model", "m"), "--attacker_model m: none of the chosen attacks has an attacker"),
        (("--attacks", "pair", "--attacker_engine", "vllm"), "--attacker_engine vllm: also needs --attacker_model"),
        (("--attacks", "dan@before"), "only adaptive attacks find prompts; dan has its own"),
    ],
)
def test_bad_input_before_any_work(sirl: Any, goals: str, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    assert message in sirl(*flags(goals, tmp_path / "run", *more)).error
    assert not (tmp_path / "run").exists()


def test_adaptive_attack_with_a_budget_and_an_attacker(
    sirl: Any, goals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, str]] = []
    models = {"m": FakeEngine(refuses=["snack"]), "other": FakeEngine()}

    def load(name: str, *, engine: str, **_: object) -> FakeEngine:
        loaded.append((name, engine))
        return models[name]

    monkeypatch.setattr("sirl.generation.load_engine", load)
    words = ("--attacks", "pair", "--attack_budget", "7", "--attacker_model", "other", "--attacker_engine", "http://x")
    result = sirl(*flags(goals, tmp_path / "run", *words, "--json"))
    assert loaded == [("m", "local"), ("other", "http://x")]
    assert result.json["rates"]["greedy"]["before"]["by_attack"]["pair"]["n"] == 4
    attempts = read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)
    assert {a.queries for a in attempts} == {7}
    assert {a.search["written"] for a in attempts if a.search} == {3}


def test_table_of_adaptive_attacks(sirl: Any, goals: str, tmp_path: Path, engine: FakeEngine) -> None:
    folder = tmp_path / "run"
    words = ("--attacks", "direct,best_of_n", "--attack_budget", "3")
    out = sirl(*flags(goals, folder, *words)).out
    assert "mean over 1 static attack " in out
    assert "mean over 1 re-optimised attack " in out
    assert "kitchen" in out  # by category
    (row,) = (line.split() for line in out.splitlines() if line.startswith("best_of_n") and " of " in line)
    head = next(line.split() for line in out.splitlines() if line.startswith("attack ") and "budget" in line)
    assert head[-3:] == ["budget", "seconds", "FLOPs"]
    assert (row[-3], row[-1]) == ("3", "-")  # an engine that shows no tokens tells no arithmetic
    assert float(row[-2]) >= 0
    assert "Withstood every attack, greedy: " in out
    assert "Before and after" not in out
    engine.refuses = ["snack"]
    out = sirl(*flags(goals, folder, "--phase", "after", "--attacks", "direct,best_of_n@before")).out
    assert "Before and after, by refusal: 4 pairs, 2 fixed, 0 regressed" in out
    assert "successful attacks 2 to 0 (none left, factor at least " in out
    assert "mean over 1 transferred attack " in out


@pytest.mark.usefixtures("engine")
def test_attack_that_needs_gradients_says_so_in_one_line(sirl: Any, goals: str, tmp_path: Path) -> None:
    error = sirl(*flags(goals, tmp_path / "run", "--attacks", "direct,gcg")).error
    assert "attack gcg needs a model in this process (--engine local)" in error
    assert not (tmp_path / "run" / "attempts.jsonl").exists()
