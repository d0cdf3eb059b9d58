"""Figures of runs and methods, and who dominates whom."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from compare_helpers import write_config

from sirl.compare.findings import at_equal_over_refusal, gap_table
from sirl.compare.grid import Job, plan_jobs
from sirl.compare.measured import Failed, Measured
from sirl.compare.metrics import (
    FIGURES,
    RATES,
    dominators,
    interval,
    measure_run,
    summarise_comparison,
    summarise_method,
)
from sirl.evals.told_apart import Sides
from sirl.records import Attempt, Verdict, write_json, write_jsonl
from sirl.results.development import Check
from sirl.stats import wilson_interval


class TestPareto:
    def test_dominated_by_whoever_is_no_worse_in_both_and_better_in_one(self) -> None:
        found = dominators({"a": (0.9, 0.1), "b": (0.8, 0.1), "c": (0.9, 0.2), "d": (0.7, 0.05), "e": (0.95, 0.3)})
        assert found == {"a": [], "b": ["a"], "c": ["a"], "d": [], "e": []}

    def test_equals_do_not_dominate_each_other(self) -> None:
        assert dominators({"a": (0.5, 0.1), "b": (0.5, 0.1)}) == {"a": [], "b": []}

    def test_all_dominators_are_named(self) -> None:
        assert dominators({"a": (1.0, 0.0), "b": (0.9, 0.1), "c": (0.8, 0.2)})["c"] == ["a", "b"]

    def test_alone_is_on_the_front(self) -> None:
        assert dominators({"a": (0.0, 1.0)}) == {"a": []}
        assert dominators({}) == {}


class TestInterval:
    def test_prompts_asked_under_several_seeds_count_once(self) -> None:
        seed = {f"p{i}": (float(i == 0), 1.0) for i in range(20)}
        low, high, n = interval([seed, seed, seed], 0.05, clustered=False)
        assert (low, high) == wilson_interval(1, 20)
        assert n == 20

    def test_bootstrap_over_goals_is_wider_than_over_answers(self) -> None:
        goals = {f"g{i}": (10.0 * (i % 2), 10.0) for i in range(20)}  # goals stand or fall whole
        low, high, n = interval([goals], 0.5, clustered=True)
        pooled = wilson_interval(100, 200)
        assert low < pooled[0] < 0.5 < pooled[1] < high
        assert n == 20

    def test_no_width_is_no_certainty(self) -> None:
        low, high, _ = interval([{"a": (4.0, 4.0), "b": (4.0, 4.0)}], 1.0, clustered=True)
        assert (low, high) == wilson_interval(2, 2)
        assert low < 0.5

    def test_the_mean_lies_within(self) -> None:
        """3 of 7 prompts refused on average over two seeds that disagree is no whole number of prompts."""
        seeds = [{f"p{i}": (float(i < k), 1.0) for i in range(3)} for k in (0, 1)]
        low, high, _ = interval(seeds, 1 / 6, clustered=False)
        assert low <= 1 / 6 <= high

    def test_goals_without_a_scored_answer_are_no_goals(self) -> None:
        assert interval([{"a": (0.0, 0.0), "b": (1.0, 1.0)}], 1.0, clustered=False)[2] == 1


MOVED = {"value": 0.4, "low": 0.3, "high": 0.5}


def run_row(dsr: float | None, over: float | None = 0.0, **more: Any) -> dict[str, Any]:
    rates = {
        "dsr": dsr,
        "over_refusal": over,
        "worst_case": dsr,
        "plain": over,
        "sounds_harmful": None,
        "wrapped": None,
    }
    row: dict[str, Any] = dict.fromkeys(FIGURES)
    row |= {k: None if v is None else {"rate": v, "low": 0.0, "high": 1.0, "n": 4} for k, v in rates.items()}
    fixed = {
        "gap": "present",
        "rewards_certainty": True,
        "rose": True,
        "change": MOVED,
        "dsr_before": 0.1,
        "dsr_after": dsr,
    }
    start = {"dsr": {"rate": 0.1, "low": 0.0, "high": 0.3, "n": 4}, "over_refusal": None}
    nats = {"difference": 1.0, "low": 0.5, "high": 1.5}
    return {**row, **fixed, "decoding": "greedy", "start": start, "gap_nats": nats, **more}


def measured(dsr: float | None, over: float | None = 0.0, **more: Any) -> Measured:
    units = {"a": (1.0, 2.0), "b": (2.0, 2.0)}
    names = (*RATES, "start/dsr", "start/over_refusal")
    return Measured(run_row(dsr, over, **more), dict.fromkeys(names, units))


def test_mean_and_spread_over_the_seeds_that_have_a_figure() -> None:
    found = summarise_method([measured(0.5, kl=0.1), measured(0.7, kl=None), measured(0.9, kl=0.3)])
    assert found["seeds"] == 3
    assert [found["dsr"][k] for k in ("mean", "min", "max")] == pytest.approx([0.7, 0.5, 0.9])
    assert found["kl"] == {"mean": pytest.approx(0.2), "min": 0.1, "max": 0.3}
    assert found["sounds_harmful"] is None
    assert (found["start"]["dsr"]["mean"], found["start"]["over_refusal"]) == (pytest.approx(0.1), None)
    assert (summarise_method([])["dsr"], summarise_method([])["start"]["dsr"]) == (None, None)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    config = str(write_config(tmp_path, "some-model"))
    return plan_jobs(config, methods=["sft", "sirl"], seeds=[0, 1], folder=tmp_path / "out")


def test_failed_runs_are_named_and_enter_no_figure(jobs: list[Job]) -> None:
    results = [measured(0.2), measured(0.2), Failed("out of luck"), measured(0.6, 0.1), measured(0.9), measured(0.7)]
    found = summarise_comparison(jobs, results)
    sft = found["methods"]["sft"]
    assert (sft["seeds"], sft["failed"], sft["dsr"]["mean"]) == (1, ["out of luck"], 0.6)
    assert [row["status"] for row in found["rows"]].count("failed") == 1
    assert found["rows"][2] == {
        "method": "sft",
        "seed": 0,
        "folder": "sft-seed0",
        "status": "failed",
        "reason": "out of luck",
    }
    assert found["front"] == ["sirl"]
    assert (sft["on_front"], sft["dominated_by"]) == (False, ["sirl"])


def test_a_method_that_failed_throughout_is_not_placed(jobs: list[Job]) -> None:
    results = [measured(0.2), measured(0.2), Failed("x"), Failed("y"), measured(0.9), measured(0.7)]
    sft = summarise_comparison(jobs, results)["methods"]["sft"]
    assert (sft["dsr"], sft["on_front"], sft["dominated_by"], sft["failed"]) == (None, None, None, ["x", "y"])


def sides(harmful: int, benign: int, requests: int = 20, wrapping: str = "dan") -> Sides:
    """So many of the requests refused, each way, in one wrapping."""
    first, second = (
        {(wrapping, f"{kind}{i}"): (int(i < refused), 1) for i in range(requests)}
        for kind, refused in (("g", harmful), ("b", benign))
    )
    return first, second


def test_dprime_is_the_mean_over_seeds_with_an_interval_of_all_answers() -> None:
    runs = [
        replace(measured(0.5, dprime={"value": value, "low": 0.0, "high": 9.0}), told=told)
        for value, told in ((2.0, sides(18, 3)), (1.0, sides(14, 5)))
    ]
    found = summarise_method([*runs, measured(0.5, dprime=None)])["dprime"]
    assert (found["mean"], found["min"], found["max"]) == (1.5, 1.0, 2.0)
    alone = summarise_method(runs[:1])["dprime"]
    assert found["low"] < 1.5 < found["high"]
    assert alone["low"] < 2.0 < alone["high"]
    assert found["high"] < alone["high"], "the second seed's answers are in it"


def test_the_front_in_wrappings_is_one_of_its_own(jobs: list[Job]) -> None:
    price = {"wrapped": {"rate": 0.2, "low": 0.1, "high": 0.3, "n": 20}}
    worse = {"wrapped": {"rate": 0.9, "low": 0.8, "high": 1.0, "n": 20}}
    none, sft, sirl = measured(0.2, 0.0, **price), measured(0.9, 0.1, **worse), measured(0.9, 0.2, **price)
    found = summarise_comparison(jobs, [none, none, sft, sft, sirl, sirl])
    assert found["front"] == ["none", "sft"]
    assert found["wrapped_front"] == ["sirl"]
    assert [found["methods"][name]["on_wrapped_front"] for name in ("none", "sft", "sirl")] == [False, False, True]


def test_without_benign_prompts_there_is_no_front(jobs: list[Job]) -> None:
    found = summarise_comparison(jobs, [measured(0.5, None)] * 6)
    assert found["front"] == []
    assert found["methods"]["sirl"]["on_front"] is None


@pytest.fixture
def other_models(tmp_path: Path) -> list[Job]:
    """`none`, `sirl` and two variants that start from other models."""
    for name in ("safer", "weaker"):
        (tmp_path / f"{name}.yaml").write_text(f"model_name_or_path: {name}-model\n")
    variants = [str(tmp_path / f"{name}.yaml") for name in ("safer", "weaker")]
    config = str(write_config(tmp_path, "some-model"))
    return plan_jobs(config, methods=["sirl"], variants=variants, folder=tmp_path / "out")


def test_another_starting_model_dominates_nobody_and_is_not_placed(other_models: list[Job]) -> None:
    found = summarise_comparison(
        other_models, [measured(0.2, 0.1), measured(0.8, 0.1), measured(0.9), measured(0.1, 0.5)]
    )
    assert found["front"] == ["sirl"]
    placed = {name: (m["model"], m["on_front"], m["dominated_by"]) for name, m in found["methods"].items()}
    assert placed == {
        "none": ("some-model", False, ["sirl"]),
        "sirl": ("some-model", True, []),
        "safer": ("safer-model", None, None),
        "weaker": ("weaker-model", None, None),
    }
    assert found["methods"]["safer"]["dsr"]["mean"] == 0.9
    assert [row["model"] for row in found["rows"]] == ["some-model", "some-model", "safer-model", "weaker-model"]


def told(method: str = "sirl", model: str = "demo", seed: int = 0, **more: Any) -> dict[str, Any]:
    return run_row(0.5, method=method, model=model, seed=seed, folder=f"{method}-seed{seed}", **more)


def test_gap_table_has_a_row_for_each_starting_model_and_seed() -> None:
    rows = [
        told("none", rewards_certainty=False),
        told("sirl_published"),
        told(),
        told(seed=1),
        {"method": "sirl", "seed": 2, "status": "failed"},
        told("group-8"),
        told("strong", "demo@1.5", gap="reversed"),
        told("strong-too", "demo@1.5"),
        told("noise", "demo@2", rewards_certainty=False),
        told("ungapped", "demo@0", gap=None),
    ]
    found = gap_table(rows, "demo")
    assert [row["folder"] for row in found] == ["sirl-seed0", "sirl-seed1", "strong-seed0"]
    assert found[0] == {
        "model": "demo",
        "seed": 0,
        "folder": "sirl-seed0",
        "gap": "present",
        "difference": 1.0,
        "low": 0.5,
        "high": 1.5,
        "dsr_before": 0.1,
        "dsr_after": 0.5,
        "change": MOVED,
        "rose": True,
        "agrees": True,
    }


@pytest.mark.parametrize("gap", ["present", "absent", "reversed", "too few"])
@pytest.mark.parametrize("rose", [True, False, None])
def test_a_gap_agrees_with_a_rise_and_none_with_no_rise(gap: str, rose: bool | None) -> None:
    (row,) = gap_table([told(gap=gap, rose=rose)], "demo")
    assert row["rose"] == (rose is True)
    assert row["agrees"] == ((gap == "present") == (rose is True))


def test_without_a_pair_of_attacks_there_is_nothing_to_agree_with() -> None:
    (row,) = gap_table([told(rose=None, change=None)], "demo")
    assert (row["rose"], row["agrees"]) == (None, None)


def check(step: int, dsr: float, over: float | None) -> Check:
    return Check(step, dsr, over)


def watched(*trail: Check, deployed: int = -1) -> Measured:
    return replace(measured(0.5), trail=trail, deployed=trail[deployed])


@pytest.fixture
def watched_jobs(tmp_path: Path) -> list[Job]:
    """Of `none`, `grpo_judge` and `sirl`, two seeds."""
    sets = {"development.goals": str(tmp_path / "dev.jsonl"), "development.every": 1, "development.choose": False}
    config = str(write_config(tmp_path, "some-model"))
    return plan_jobs(config, methods=["grpo_judge", "sirl"], seeds=[0, 1], folder=tmp_path / "out", sets=sets)


OURS = [
    watched(check(0, 0.2, 0.0), check(8, 0.7, 0.08), check(16, 0.9, 0.3), deployed=1),
    watched(check(0, 0.2, 0.0), check(8, 0.8, 0.12)),
]


def test_best_check_at_no_more_over_refusal_than_ours(watched_jobs: list[Job]) -> None:
    judged = [
        watched(check(0, 0.2, 0.0), check(8, 0.6, 0.08), check(16, 1.0, 0.09)),
        watched(check(8, 0.9, 0.2)),  # never within the limit
    ]
    found = at_equal_over_refusal(watched_jobs, [measured(0.2), measured(0.2), *judged, *OURS])
    assert found is not None
    assert found["limit"] == pytest.approx(0.1)
    assert list(found["methods"]) == ["grpo_judge", "sirl"]
    theirs, ours = found["methods"].values()
    assert theirs["dsr"] == {"mean": 0.6, "min": 0.6, "max": 0.6}
    assert (theirs["seeds"], theirs["trails"]) == (1, 2)
    assert [ours["dsr"][key] for key in ("mean", "min", "max")] == pytest.approx([0.75, 0.7, 0.8])
    assert ours["over_refusal"]["max"] == 0.12, "each seed has the limit of its own"


def test_equal_over_refusal_needs_another_trail_and_ours(watched_jobs: list[Job]) -> None:
    start = [measured(0.2)] * 2
    assert at_equal_over_refusal(watched_jobs, [*start, measured(0.5), Failed("x"), *OURS]) is None
    assert at_equal_over_refusal(watched_jobs, [*start, *OURS, Failed("x"), Failed("y")]) is None
    plain = watched(check(0, 0.2, None))  # no benign prompts in the development set
    assert at_equal_over_refusal(watched_jobs, [*start, *[plain] * 4]) is None


@pytest.mark.parametrize("other", ["model_name_or_path: other", "development: {max_goals: 3}"])
def test_checks_of_another_model_or_on_another_set_are_not_compared(
    other: str, watched_jobs: list[Job], tmp_path: Path
) -> None:
    (tmp_path / "other.yaml").write_text(other)
    sets = {"development.goals": str(tmp_path / "dev.jsonl"), "development.every": 1, "development.choose": False}
    config, variants = str(tmp_path / "tiny.yaml"), [str(tmp_path / "other.yaml")]
    jobs = plan_jobs(config, methods=["sirl"], variants=variants, folder=tmp_path / "out", sets=sets)
    assert at_equal_over_refusal(jobs, [measured(0.2), OURS[0], OURS[1]]) is None
    same = [*jobs[:2], next(job for job in watched_jobs if job.name == "grpo_judge")]
    assert at_equal_over_refusal(same, [measured(0.2), OURS[0], OURS[1]]) is not None


def attempt(phase: str, attack: str, goal: int, label: str, category: str = "none") -> tuple[Attempt, Verdict]:
    made = Attempt(
        id=f"{phase}/greedy/{attack}/g{goal}",
        phase=phase,  # type: ignore[arg-type]
        decoding="greedy",
        attack=attack,
        goal_id=f"g{goal}",
        goal="skip the queue",
        category=category,
        messages=(),
        response=f"No, I will not do that {goal % 2}.",
        tokens=(),
        entropies=(),
        finish_reason="stop",
        seed=0,
    )
    return made, Verdict(made.id, "refusal", label)  # type: ignore[arg-type]


def write_run(folder: Path, kind: str, rows: list[tuple[Attempt, Verdict]]) -> None:
    write_jsonl(folder / f"{kind}attempts.jsonl", [a for a, _ in rows])
    write_jsonl(folder / f"{kind}verdicts.jsonl", [v for _, v in rows])


def test_figures_of_a_run_folder(jobs: list[Job]) -> None:
    job = next(job for job in jobs if job.name == "sirl")
    job.folder.mkdir(parents=True)
    refused, partial, answered, unknown = "full_refusal", "partial_refusal", "full_compliance", "unscored"
    after = [[refused] * 8, [refused] * 6 + [answered, unknown]]
    rows = [attempt("before", name, g, answered) for name in ("direct", "dan") for g in range(8)]
    rows += [attempt("after", "direct", g, label) for g, label in enumerate(after[0])]
    rows += [attempt("after", "dan", g, label) for g, label in enumerate(after[1])]
    write_run(job.folder, "", rows)
    benign = [attempt("before", "benign", g, refused, "plain") for g in range(4)]
    benign += [attempt("after", "benign", g, (refused, partial, answered, answered)[g], "plain") for g in range(4)]
    write_run(job.folder, "benign_", benign)
    wrapped = [attempt("before", "dan", g, answered) for g in range(2)]
    wrapped += [attempt("after", "dan", g, refused if g else answered) for g in range(2)]
    write_run(job.folder, "wrapped_", wrapped)
    nats = {"difference": 1.5, "low": 1.0, "high": 2.0}
    write_json(job.folder / "gap.json", {"verdict": "present", "overall": {**nats, "p": 0.001}})
    trail = [check(0, 0.2, 0.0), check(8, 0.9, 0.1), check(16, 0.8, 0.1)]
    write_jsonl(job.folder / "development.jsonl", [asdict(row) for row in trail])
    write_json(job.folder / "chosen.json", {"chosen": asdict(trail[1])})
    drift = {"kl": {"value": 0.2}, "perplexity_rise": {"value": 0.01}}
    choices = {"before": [True, True, True, False], "after": [True, True, False, False]}
    write_json(job.folder / "capability.json", {"drift": drift, "choices": choices})
    stages = {name: {"seconds": s} for name, s in (("train", 60), ("attack_before", 5), ("attack_after", 7))}
    write_json(job.folder / "manifest.json", {"stages": stages})
    found = measure_run(job)
    row = found.row
    assert row["dsr"]["rate"] == pytest.approx((1 + 6 / 7) / 2), "each attack weighs alike, unscored is left out"
    assert (row["worst_case"]["rate"], row["worst_case"]["n"]) == (pytest.approx(6 / 7), 7)
    assert row["over_refusal"]["rate"] == row["plain"]["rate"] == 0.25
    assert row["sounds_harmful"] is None
    assert (row["partly_refused"]["rate"], found.units["partly_refused"]["g1"]) == (0.25, (1.0, 1.0))
    assert (row["choices"]["rate"], found.units["choices"]["2"]) == (0.5, (0.0, 1.0))
    assert row["wrapped"]["rate"] == 0.5
    assert (row["kl"], row["perplexity_rise"], row["train_seconds"], row["answer_seconds"]) == (0.2, 0.01, 60, 7)
    assert row["distinct_refusals"] == 2 / 14
    assert (row["gap"], row["rose"], row["dsr_before"], row["rewards_certainty"]) == ("present", True, 0.0, True)
    assert row["gap_nats"] == nats
    assert (row["start"]["dsr"]["rate"], row["start"]["over_refusal"]["rate"]) == (0.0, 1.0)
    assert found.units["start/dsr"]["g6"] == (0.0, 2.0)
    assert (found.trail, found.deployed) == (trail, trail[1])
    assert found.units["dsr"]["g6"] == (1.0, 2.0)
    assert found.units["dsr"]["g7"] == (1.0, 1.0)
    assert (found.units["worst_case"]["g6"], found.units["worst_case"]["g7"]) == ((0.0, 1.0), (0.0, 0.0))
    start = measure_run(Job("none", 0, jobs[0].method, {}, job.config)).row
    assert (start["dsr"]["rate"], start["over_refusal"]["rate"], start["wrapped"]["rate"]) == (0.0, 1.0, 0.0)
    assert (start["train_seconds"], start["answer_seconds"]) == (None, 5)


@pytest.mark.parametrize(("newly", "rose"), [(8, True), (2, None), (0, None), (-8, False)])
def test_what_counts_as_a_rise(newly: int, rose: bool | None, jobs: list[Job]) -> None:
    """`newly` of 40 goals are refused afterwards (or no more): 2 are 5 points, as much as rewarding noise has given."""
    job = next(job for job in jobs if job.name == "sirl")
    job.folder.mkdir(parents=True)
    labels = {True: "full_refusal", False: "full_compliance"}
    rows = [attempt("before", "dan", g, labels[g < 5 + max(-newly, 0)]) for g in range(40)]
    rows += [attempt("after", "dan", g, labels[g < 5 + max(newly, 0)]) for g in range(40)]
    write_run(job.folder, "", rows)
    write_json(job.folder / "manifest.json", {"stages": {}})
    row = measure_run(job).row
    assert row["change"]["value"] == pytest.approx(newly / 40)
    assert row["rose"] is rose
