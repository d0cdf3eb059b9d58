"""Figures of runs and methods, and who dominates whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare_helpers import write_config

from sirl.compare.figures import (
    FIGURES,
    RATES,
    Failed,
    Measured,
    dominators,
    gap_table,
    interval,
    measure_run,
    summarise_comparison,
    summarise_method,
)
from sirl.compare.jobs import Job, plan_jobs
from sirl.records import Attempt, Verdict, write_json, write_jsonl
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


def run_row(dsr: float | None, over: float | None = 0.0, **more: Any) -> dict[str, Any]:
    rates = {"dsr": dsr, "over_refusal": over, "worst_case": dsr, "plain": over, "sounds_harmful": None}
    row: dict[str, Any] = dict.fromkeys(FIGURES)
    row |= {k: None if v is None else {"rate": v, "low": 0.0, "high": 1.0, "n": 4} for k, v in rates.items()}
    fixed = {"gap": "present", "rewards_certainty": True, "rose": True, "p": 0.01, "dsr_before": 0.1, "dsr_after": dsr}
    return {**row, **fixed, "decoding": "greedy", **more}


def measured(dsr: float | None, over: float | None = 0.0, **more: Any) -> Measured:
    units = {"a": (1.0, 2.0), "b": (2.0, 2.0)}
    return Measured(run_row(dsr, over, **more), dict.fromkeys(RATES, units))


def test_mean_and_spread_over_the_seeds_that_have_a_figure() -> None:
    found = summarise_method([measured(0.5, kl=0.1), measured(0.7, kl=None), measured(0.9, kl=0.3)])
    assert found["seeds"] == 3
    assert [found["dsr"][k] for k in ("mean", "min", "max")] == pytest.approx([0.7, 0.5, 0.9])
    assert found["kl"] == {"mean": pytest.approx(0.2), "min": 0.1, "max": 0.3}
    assert found["sounds_harmful"] is None
    assert summarise_method([])["dsr"] is None


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


def test_without_harmless_prompts_there_is_no_front(jobs: list[Job]) -> None:
    found = summarise_comparison(jobs, [measured(0.5, None)] * 6)
    assert found["front"] == []
    assert found["methods"]["sirl"]["on_front"] is None


def test_gap_table_counts_runs_that_reward_certainty() -> None:
    rows = [
        run_row(0.9),
        run_row(0.1, rose=False, gap="reversed"),
        run_row(0.5, rose=None),
        run_row(0.5, rewards_certainty=False),
        {"status": "failed"},
    ]
    assert gap_table(rows) == [
        {"gap": "present", "rose": 1, "fell": 0, "unclear": 1},
        {"gap": "reversed", "rose": 0, "fell": 1, "unclear": 0},
    ]


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
    refused, answered, unknown = "full_refusal", "full_compliance", "unscored"
    after = [[refused] * 8, [refused] * 6 + [answered, unknown]]
    rows = [attempt("before", name, g, answered) for name in ("direct", "dan") for g in range(8)]
    rows += [attempt("after", "direct", g, label) for g, label in enumerate(after[0])]
    rows += [attempt("after", "dan", g, label) for g, label in enumerate(after[1])]
    write_run(job.folder, "", rows)
    benign = [attempt("before", "benign", g, refused, "plain") for g in range(4)]
    benign += [attempt("after", "benign", g, answered if g else refused, "plain") for g in range(4)]
    write_run(job.folder, "benign_", benign)
    write_json(job.folder / "gap.json", {"verdict": "present"})
    write_json(job.folder / "capability.json", {"drift": {"kl": {"value": 0.2}, "perplexity_rise": {"value": 0.01}}})
    stages = {name: {"seconds": s} for name, s in (("train", 60), ("attack_before", 5), ("attack_after", 7))}
    write_json(job.folder / "manifest.json", {"stages": stages})
    found = measure_run(job)
    row = found.row
    assert row["dsr"]["rate"] == pytest.approx((1 + 6 / 7) / 2), "each attack weighs alike, unscored is left out"
    assert (row["worst_case"]["rate"], row["worst_case"]["n"]) == (pytest.approx(6 / 7), 7)
    assert row["over_refusal"]["rate"] == row["plain"]["rate"] == 0.25
    assert row["sounds_harmful"] is None
    assert (row["kl"], row["perplexity_rise"], row["train_seconds"], row["answer_seconds"]) == (0.2, 0.01, 60, 7)
    assert row["distinct_refusals"] == 2 / 14
    assert (row["gap"], row["rose"], row["dsr_before"], row["rewards_certainty"]) == ("present", True, 0.0, True)
    assert found.units["dsr"]["g6"] == (1.0, 2.0)
    assert found.units["dsr"]["g7"] == (1.0, 1.0)
    assert (found.units["worst_case"]["g6"], found.units["worst_case"]["g7"]) == ((0.0, 1.0), (0.0, 0.0))
    start = measure_run(Job("none", 0, jobs[0].method, {}, job.config)).row
    assert (start["dsr"]["rate"], start["over_refusal"]["rate"]) == (0.0, 1.0)
    assert (start["train_seconds"], start["answer_seconds"]) == (None, 5)
