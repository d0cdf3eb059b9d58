"""Trainings with labels: the data they make, the budget they keep to, and each for real on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from compare_helpers import TASKS, ParityJudge, write_config, write_prompts

from scripted import FakeEngine
from sirl.chat.encoding import encode_chat
from sirl.compare.baselines import draw_and_judge, judge_reward
from sirl.compare.fitting import count_updates, passes, rows_at_once, visited_prompts
from sirl.compare.grid import plan_jobs
from sirl.compare.methods import METHODS
from sirl.compare.run import compare
from sirl.generation.base import SamplingParams
from sirl.judges import load_judge
from sirl.models import load_model
from sirl.progress import no_bar
from sirl.records import Prompt, iter_json_lines, user_turn
from sirl.training.arguments import Training, parse_training
from sirl.training.run import run_training

PROMPTS = [Prompt(f"p{i}", f"task {i}") for i in range(6)]


def training(folder: Path, model: Path, **options: Any) -> Training:
    import yaml

    data = yaml.safe_load(write_config(folder, str(model), **options).read_text())
    own = {"model_name_or_path": str(model), "output_dir": str(folder / "run"), "seed": 3}
    return parse_training([], {**own, **data["train"]})


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"max_steps": 3}, 3),
        ({"max_steps": 5, "save_strategy": "no"}, 5),  # more than one pass over the prompts
        ({"max_steps": -1, "num_train_epochs": 1}, 4),
        ({"max_steps": -1, "num_train_epochs": 1.5, "gradient_accumulation_steps": 2}, 3),
    ],
)
def test_the_same_prompts_in_the_same_order_as_the_trainer(
    tmp_path: Path, model_folder: Any, options: dict[str, Any], updates: int
) -> None:
    """The trainer itself is the reference: what its reward function is shown, and how many updates it made."""
    made = training(tmp_path, model_folder(), retention_weight=0, **options)
    prompts = [Prompt(str(i), text) for i, text in enumerate(TASKS)]
    expected = [p.text for p in visited_prompts(made.config, prompts)]
    assert count_updates(made.config, len(prompts)) == updates
    shown: dict[str, None] = {}

    def reward(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
        shown.update(dict.fromkeys(p[-1]["content"] for p in prompts))
        return [float(len(ids)) for ids in completion_ids]

    run_training(made.config, made.model, made.data, reward=reward)
    rows = [row["step"] for row in iter_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert rows[-1] == updates
    assert list(shown) == expected


class TestJudgeReward:
    def test_one_for_a_full_refusal(self, tokenizer: Any) -> None:
        texts = ["I'm sorry, but I can't help with that.", "Sure. First, take two cups of flour.", ""]
        ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
        reward = judge_reward(load_judge("refusal"), tokenizer)
        assert reward(prompts=[user_turn("x")] * 3, completion_ids=ids, mean_entropy=[0.1] * 3) == [1.0, 0.0, 0.0]

    def test_a_judge_is_shown_the_request(self, tokenizer: Any) -> None:
        seen: list[str] = []

        class Judge(ParityJudge):
            def judge(self, items: Any) -> Any:
                seen.extend(item.prompt for item in items)
                return super().judge(items)

        judge_reward(Judge(), tokenizer)(prompts=[user_turn("a?"), "b?"], completion_ids=[[5], [6]])
        assert seen == ["a?", "b?"]


class TestDraws:
    def test_labelled_and_kept(self, tmp_path: Path) -> None:
        engine, path = FakeEngine(refuses=["task 1", "task 4"]), tmp_path / "draws.jsonl"
        params = SamplingParams(temperature=1.0, n=2)
        rows = draw_and_judge(engine, load_judge("refusal"), PROMPTS[:3], params, path, no_bar)
        assert [row["prompt"][0]["content"] for row in rows] == ["task 0", "task 1", "task 2"]
        assert [[draw["label"] for draw in row["draws"]] for row in rows] == [
            ["full_compliance"] * 2,
            ["full_refusal"] * 2,
            ["full_compliance"] * 2,
        ]
        more = draw_and_judge(engine, load_judge("refusal"), PROMPTS, params, path, no_bar)
        assert engine.calls == 2
        assert json.dumps(more[:3]) == json.dumps(rows)
        assert more[4]["draws"][0]["label"] == "full_refusal"
        draw_and_judge(engine, load_judge("refusal"), PROMPTS, params, path, no_bar)
        assert engine.calls == 2

    def test_passes_use_every_row_before_any_again(self) -> None:
        pool = [{"ids": [0] * i} for i in range(1, 6)]
        rows = [len(row["ids"]) for row in passes(pool, 3, 4, seed=1)]
        assert len(rows) == 12
        assert set(rows[:4]) | set(rows[4:8]) == {1, 2, 3, 4, 5}
        assert len(set(rows[:4])) == 4, "no row twice in the first pass"
        assert all(rows[i : i + 4] == sorted(rows[i : i + 4]) for i in (0, 4, 8)), "an update's rows by length"
        assert [len(row["ids"]) for row in passes(pool, 3, 4, seed=1)] == rows
        assert [len(row["ids"]) for row in passes(pool, 3, 4, seed=2)] != rows


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, model_folder: Any) -> tuple[dict[str, Any], Path]:
    """All methods on a tiny model, every part real but the judge."""
    folder = tmp_path_factory.mktemp("compared")
    config = write_config(folder, str(model_folder()))
    jobs = plan_jobs(str(config), methods=list(METHODS), seeds=[1], folder=folder / "out")
    return compare(jobs, folder / "out"), folder / "out"


def test_every_method_from_end_to_end(compared: tuple[dict[str, Any], Path]) -> None:
    found, out = compared
    assert {row["method"]: row.get("reason") for row in found["rows"]} == dict.fromkeys(METHODS)
    trained = [name for name, method in METHODS.items() if method.how in ("trained", "pipeline")]
    for row in found["rows"]:
        assert row["dsr"]["n"] == 8
        assert row["over_refusal"]["n"] == 4
        assert (row["train_seconds"] is not None) is (row["kl"] is not None) is (row["method"] in trained)
    base = load_model(str(out / "none-seed1" / "base"), dtype=torch.float32).state_dict()
    for name in trained:
        model = load_model(str(out / f"{name}-seed1" / "model"), dtype=torch.float32).state_dict()
        assert model.keys() == base.keys()
        assert any(not torch.equal(model[key], base[key]) for key in base), name
        steps = [row["step"] for row in iter_json_lines(out / f"{name}-seed1" / "metrics.jsonl")]
        assert steps == [1, 2], name
    assert found["front"]


def test_targets_are_the_tokens_that_were_drawn(compared: tuple[dict[str, Any], Path], tokenizer: Any) -> None:
    _, out = compared
    rows = list(iter_json_lines(out / "sft-seed1" / "draws.jsonl"))
    assert len(rows) == 4, "two updates of two prompts"
    assert all(len(row["draws"]) == 4 for row in rows), "as many draws as SIRL makes"
    dpo = (out / "dpo-seed1" / "draws.jsonl").read_text()
    assert dpo == (out / "sft-seed1" / "draws.jsonl").read_text()
    for draw in rows[0]["draws"]:
        assert tokenizer.decode(draw["ids"], skip_special_tokens=True) == draw["text"]
        assert (draw["label"] == "full_refusal") is (len(draw["text"]) % 2 == 0)


def test_defences_answer_otherwise_than_the_model_does(compared: tuple[dict[str, Any], Path]) -> None:
    _, out = compared
    texts = {}
    for name in ("system_prompt", "best_of_n"):
        rows = list(iter_json_lines(out / f"{name}-seed1" / "attempts.jsonl"))
        texts = {phase: [r["response"] for r in rows if r["phase"] == phase] for phase in ("before", "after")}
        assert len(texts["before"]) == len(texts["after"]) == 8
        assert texts["before"] != texts["after"], name


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, model_folder: Any) -> tuple[dict[str, Any], Path]:
    """One training of each way to train, with a check after every update."""
    folder = tmp_path_factory.mktemp("watched")
    config = write_config(folder, str(model_folder()), save_steps=1)
    sets = {
        "development.goals": write_prompts(folder / "dev.jsonl", [f"aim {i}" for i in range(3)]),
        "development.overrefusal": write_prompts(folder / "dev-benign.jsonl", [f"onion {i}?" for i in range(3)]),
        "development.every": 1,
        "development.attacks": ["direct"],
        "development.max_new_tokens": 6,
        "development.max_repetition": None,
        "development.allowance": 1.0,
    }
    jobs = plan_jobs(str(config), methods=WATCHED, seeds=[1], folder=folder / "out", sets=sets)
    return compare(jobs, folder / "out"), folder / "out"


WATCHED = ["sft", "dpo", "opct", "sirl_published", "sirl"]
"""`bct` is fitted as `sft` is, and `grpo_judge` as `sirl`."""


def test_every_training_is_watched_on_the_same_development_set(watched: tuple[dict[str, Any], Path]) -> None:
    found, out = watched
    assert {row["method"]: row.get("reason") for row in found["rows"]} == dict.fromkeys(["none", *WATCHED])
    trails = {name: list(iter_json_lines(out / f"{name}-seed1" / "development.jsonl")) for name in WATCHED}
    steps = {name: [row["step"] for row in rows] for name, rows in trails.items()}
    assert steps == {name: [0, 1, 2] for name in WATCHED}
    starts = [{key: row[0][key] for key in ("dsr", "over_refusal", "repetition")} for row in trails.values()]
    assert starts == [starts[0]] * len(starts)
    assert set(found["at_equal_over_refusal"]["methods"]) == set(WATCHED)


def test_all_but_the_published_method_deploy_the_chosen_policy(watched: tuple[dict[str, Any], Path]) -> None:
    _, out = watched
    for name in WATCHED:
        folder = out / f"{name}-seed1"
        if name == "sirl_published":
            assert not (folder / "chosen.json").exists()
            continue
        rows = list(iter_json_lines(folder / "development.jsonl"))
        chosen = json.loads((folder / "chosen.json").read_text())["chosen"]
        assert chosen["dsr"] == max(row["dsr"] for row in rows), name
        assert not list((folder / "checkpoints").glob("chosen-*")), name


class Recorder:
    """What `_fit` would train on, in place of the training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool: list[dict[str, Any]] = []
        self.args: Any = None
        monkeypatch.setattr("sirl.compare.baselines.fit_on", self.keep)

    def keep(self, kind: Any, args: Any, plan: Any, pool: Any, *_: Any) -> None:
        self.pool, self.args = list(pool), args
        (plan.config.run_dir / "model").symlink_to(plan.config.run_dir / "base")


@pytest.mark.parametrize("batch", [4, 6])
def test_what_sft_and_dpo_are_taught(
    tmp_path: Path, model_folder: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    config = write_config(tmp_path, str(model_folder()), per_device_train_batch_size=batch, retention_batch_size=3)
    for name in ("sft", "dpo"):
        kept = Recorder(monkeypatch)
        jobs = plan_jobs(
            str(config), methods=[name], folder=tmp_path / name, sets={"dpo:beta": 0.3} if name == "dpo" else {}
        )
        compare(jobs, tmp_path / name)
        draws = list(iter_json_lines(tmp_path / name / f"{name}-seed0" / "draws.jsonl"))
        assert (kept.args.max_steps, kept.args.learning_rate, kept.args.seed) == (2, 0.01, 0)
        by_label = [
            {
                label: [d["ids"] for d in row["draws"] if d["label"] == label]
                for label in ("full_refusal", "full_compliance")
            }
            for row in draws
        ]
        prompts = [encode_chat(tokenizer, tuple(row["prompt"])) for row in draws]
        if name == "sft":
            expected = [(p, d["full_refusal"][0]) for p, d in zip(prompts, by_label, strict=True) if d["full_refusal"]]
            assert [row["input_ids"] for row in kept.pool[:-3]] == [p + answer for p, answer in expected]
            assert [row["labels"] for row in kept.pool[:-3]] == [[-100] * len(p) + a for p, a in expected]
            assert all(0 < sum(t != -100 for t in row["labels"]) <= 4 for row in kept.pool[-3:]), "retention answers"
            assert kept.args.per_device_train_batch_size == batch + 3
        else:
            assert kept.args.beta == 0.3
            assert kept.args.per_device_train_batch_size == batch // 2
            pairs = sum(min(map(len, d.values())) for d in by_label)
            assert len(kept.pool) == pairs > 0
            for row in kept.pool:
                drawn = by_label[prompts.index(row["prompt_ids"])]
                assert row["chosen_ids"] in drawn["full_refusal"]
                assert row["rejected_ids"] in drawn["full_compliance"]


@pytest.mark.parametrize(("rows", "size"), [(96, 32), (48, 24), (24, 24), (66, 22), (37, 1)])
def test_rows_go_through_in_equal_parts(rows: int, size: int) -> None:
    assert rows_at_once(rows) == size


def test_nothing_to_learn_from_is_one_line(tmp_path: Path, model_folder: Any) -> None:
    config = write_config(tmp_path, str(model_folder()))
    sets = {"gap.judge": "compare_helpers:NeverJudge"}
    found = compare(
        plan_jobs(str(config), methods=["sft", "dpo"], folder=tmp_path / "out", sets=sets), tmp_path / "out"
    )
    reasons = {row["method"]: row["reason"] for row in found["rows"] if row["status"] == "failed"}
    assert set(reasons) == {"sft", "dpo"}
    assert "no answer to 4 prompts was judged a refusal" in reasons["sft"]
    assert "there are no pairs" in reasons["dpo"]


def test_fine_tuning_interrupted_while_it_exports_is_not_trained_again(
    tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, str(model_folder()), save_steps=1)
    jobs = plan_jobs(str(config), methods=["sft"], folder=tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("sirl.training.run.save_hardened", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(jobs, tmp_path / "out")
    before = (tmp_path / "out" / "sft-seed0" / "metrics.jsonl").read_text()
    found = compare(jobs, tmp_path / "out")
    assert [row.get("reason") for row in found["rows"]] == [None, None]
    assert (tmp_path / "out" / "sft-seed0" / "metrics.jsonl").read_text() == before


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_interrupted_fine_tuning_goes_on_from_its_checkpoint(
    compared: tuple[dict[str, Any], Path], tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first update and resumed, it ends with the weights of one that was not."""
    from sirl.training.progress_callback import BarCallback

    config = write_config(tmp_path, str(model_folder()), save_steps=1)

    def run() -> None:
        compare(plan_jobs(str(config), methods=["sft"], seeds=[1], folder=tmp_path / "out"), tmp_path / "out")

    stop = {"now": True}

    def interrupt(*event: Any, **_: Any) -> None:
        if stop["now"] and event[2].global_step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(BarCallback, "on_save", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        run()
    stop["now"] = False
    run()
    whole, parts = (
        load_model(str(out / "sft-seed1" / "model"), dtype=torch.float32).state_dict()
        for out in (compared[1], tmp_path / "out")
    )
    assert math.isfinite(sum(float(t.float().sum()) for t in parts.values()))
    assert all(torch.allclose(whole[key], parts[key], atol=1e-6) for key in whole)
