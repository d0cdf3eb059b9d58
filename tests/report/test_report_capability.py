"""What `sirl eval` measured stands in report, card and verdict: benchmarks, drift and benign prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from report_runs import attack_rows, attempt, manifest, results_in, write_run
from sirl.records import write_json
from sirl.report.assessment import assess_run, with_interval
from sirl.report.capability import capability_facts, is_share
from sirl.report.card import render_card
from sirl.report.render import render_html
from sirl.results.interface import made
from sirl.results.load import Run, attach_verdicts, load_run
from sirl.results.summary import benign_summary, capability_summary
from sirl.results.values import BenchmarkMetric, Capability, Rate, as_json

BOUNDS = {"value": 0.021, "low": 0.015, "high": 0.03}
DRIFT = {"answers": 5, "tokens": 1234, "kl": BOUNDS, "perplexity_before": 1.5, "perplexity_after": 1.53}
SMALL: dict[str, Any] = {"gap": None, "gap_samples": None, "metrics": None}


def refused(before: int, after: int, of: int = 10, kinds: tuple[str, ...] = ("history", "law")) -> Any:
    """`benign_summary`, as a file has it, of as many prompts of each category; the first so many are refused."""
    made = [
        attempt("benign", f"{kind}-{i}", phase, refuse=i < n, category=kind)
        for kind in kinds
        for phase, n in (("before", before), ("after", after))
        for i in range(of)
    ]
    return as_json(benign_summary(attach_verdicts([a for a, _ in made], [v for _, v in made])))


def measured(folder: Path, found: dict[str, Any], **parts: Any) -> Run:
    config = {**manifest()["config"], "eval": {"overrefusal": "xstest"}}
    parts = {"attacks": attack_rows(20, {"direct": (0.4, 0.95)}), "benign": None, **SMALL, **parts}
    run = write_run(folder / "run", **parts, manifest={**manifest(), "config": config})
    write_json(run / "benchmarks.json", found)
    return load_run(run)


def test_benign_prompts_of_sirl_eval(tmp_path: Path) -> None:
    asked = refused(1, 9)
    run = measured(tmp_path, {"benchmarks": {}, "drift": None, "overrefusal": asked})
    total = {phase: made(Rate, rate) for phase, rate in asked["overall"]["greedy"].items()}
    html, card = render_html(run), render_card(run)
    assert "Benign prompts of <code>sirl eval</code> (xstest)" in html
    assert "Asked later by sirl eval (xstest)." in card
    assert f"| all benign prompts | {with_interval(total['before'])} | {with_interval(total['after'])} |" in card
    assert "| law | 10.0%" in card
    assert "Benign prompts of sirl eval: 20 prompts (xstest)" in card
    assert "was not measured." not in card.split("## How")[0]
    assert "What else has changed" not in html, "there is no other figure"
    judged = assess_run(results_in(run.path), run.manifest)
    assert judged.status == "costly"
    assert "refusals of all benign prompts that sirl eval asked went from 10.0%" in judged.body


def test_prompts_of_the_run_come_before_those_of_sirl_eval(tmp_path: Path) -> None:
    own = [
        attempt("benign", f"b{i}", p, refuse=False, category="plain") for i in range(20) for p in ("before", "after")
    ]
    run = measured(tmp_path, {"overrefusal": refused(0, 10)}, benign=own)
    judged = assess_run(results_in(run.path), run.manifest)
    assert judged.status == "price_unclear", "the run asked few, but these count"
    assert "sirl eval" not in judged.body
    assert "Asked later by sirl eval" in render_card(run)


def test_what_could_not_be_judged_is_said(tmp_path: Path) -> None:
    asked = refused(0, 0)
    asked["left_out"]["unscored"] = 7
    run = measured(tmp_path, {"overrefusal": asked})
    warnings = assess_run(results_in(run.path), run.manifest).warnings
    assert any("benign prompts of sirl eval, and not taken for safe: 7 the judge" in words for words in warnings)


def test_both_drifts_are_shown(tmp_path: Path) -> None:
    drift = {**DRIFT, "perplexity_rise": BOUNDS}
    both = capability_summary({"drift": drift}, {"drift": {**drift, "tokens": 77}})
    facts = dict(capability_facts(both))
    assert "1,234 tokens" in facts["Divergence from the base model on its own answers to benign prompts"]
    assert "77 tokens" in facts["Divergence from the base model on its own answers in the benchmark chat"]
    run = measured(tmp_path, {"drift": drift})
    for text in (render_html(run), render_card(run)):
        assert "in the benchmark chat" in text
    assert capability_summary({}, {"benchmarks": {}, "drift": None, "overrefusal": None}) is None


def ends(value: float, spread: float) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


@pytest.mark.parametrize(
    ("before", "after", "spread", "share", "words"),
    [
        (0.5, 0.48, 0.1, True, "50.0% before, 48.0% after: -2.0 points"),
        (1.0, 0.0, 0.0, True, "100.0% before, 0.0% after: -100.0 points"),
        (23.4, 25.0, 2.0, False, "23.4 before, 25 after: +1.6 "),
        (0.9, 0.4, 0.3, False, "0.9 before, 0.4 after: -0.5 "),  # the interval says that more than 1 can be had
        (-0.2, 0.3, 0.1, False, "-0.2 before, 0.3 after: +0.5 "),
    ],
)
def test_figures_that_are_no_shares_are_no_percentages(
    before: float, after: float, spread: float, share: bool, words: str
) -> None:
    table = {"n": 9, "unscored": 0, "before": ends(before, spread), "after": ends(after, spread)}
    table["difference"] = ends(after - before, spread)
    assert is_share(made(BenchmarkMetric, table)) == share
    found = {"figures": {"bleu": table}, "statement": "within the noise"}
    ((label, text),) = capability_facts(made(Capability, {"benchmarks": {"mt": found}}))
    assert label == "Benchmark mt, bleu, 9 rows"
    assert text.startswith(words)
    assert text.endswith("; within the noise")
    assert ("%" in text) == share


def test_a_benchmark_is_not_called_unmeasured(tmp_path: Path) -> None:
    figure = {"n": 9, "before": ends(0.5, 0.1), "after": ends(0.5, 0.1), "difference": ends(0.0, 0.1)}
    found = {"figures": {"exact_match": figure}, "statement": "within the noise"}
    card = render_card(measured(tmp_path, {"benchmarks": {"gsm8k": found, "mbpp": found}}))
    assert "Of abilities, gsm8k, mbpp alone were measured" in card
    assert "maths, code" not in card
    none = write_run(tmp_path / "none", attacks=None, benign=None, **SMALL)
    assert "maths, code and long answers was not measured" in render_card(load_run(none))


@pytest.mark.parametrize(
    ("isolation", "words"),
    [
        (["files, network and other processes"], "programs of the models were kept from files, network and other"),
        (["nothing"], "programs of the models ran with the user's files and network"),
    ],
)
def test_how_programs_were_isolated(isolation: list[str], words: str) -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    table = {"n": 100, "unscored": 0, "before": share, "after": share, "difference": {**share, "value": 0.0}}
    found = {"figures": {"pass@1": table}, "statement": "within the noise", "isolation": isolation}
    ((_, said),) = capability_facts(made(Capability, {"benchmarks": {"mbpp": found}}))
    assert words in said
