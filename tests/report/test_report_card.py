"""The model card: its figures are the report's, and nothing in it is what a model or a stranger wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from report_runs import results_in
from sirl.errors import UserError
from sirl.records import write_json
from sirl.report.assessment import with_interval
from sirl.report.card import render_card, write_card
from sirl.results.load import load_run
from sirl.results.summary import build_summary


@pytest.fixture
def own_run(full_run: Path, tmp_path: Path) -> Path:
    """A copy: the folder is other tests' too."""
    return Path(shutil.copytree(full_run, tmp_path / full_run.name))


def parts(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def configured(run: Path, **config: Any) -> None:
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"] |= config
    path.write_text(json.dumps(manifest))


def test_figures(own_run: Path) -> None:
    (own_run / "model").mkdir(exist_ok=True)
    path = write_card(own_run)
    assert path == own_run / "model" / "README.md"
    front, body = parts(path.read_text())
    results = results_in(own_run)
    rates = results.attack.rates["greedy"]
    for name, before in rates["before"].by_attack.items():
        assert f"| {name} | {with_interval(before)} | {with_interval(rates['after'].by_attack[name])} |" in body
    assert f"| mean over methods | {with_interval(rates['before'].overall)} |" in body
    assert "| kind | in full, before | in full, after | in part, before | in part, after | no answer, before |" in body
    benign = results.benign.rates["greedy"]
    totals = results.benign.overall["greedy"]
    for name, tables in (
        ("plain benign prompts", [benign[p]["plain"] for p in ("before", "after")]),
        ("all benign prompts", [totals[p] for p in ("before", "after")]),
    ):
        cells = [*map(with_interval, tables), *(with_interval(table, "partial_") for table in tables)]
        assert f"| {name} | {' | '.join(cells)} |" in body
    (entry,) = front["model-index"]
    metrics = [m for result in entry["results"] for m in result["metrics"]]
    dsr = [m["value"] for m in metrics if m["type"] == "dsr"]
    assert dsr[0] == pytest.approx(build_summary(own_run)["dsr_after"], abs=1e-4)
    assert len([m for m in metrics if m["type"] == "refusal_rate"]) >= 2
    assert "sirl" in front["tags"]


def test_no_text_of_a_model(own_run: Path) -> None:
    card = render_card(load_run(own_run))
    for row in load_run(own_run).attacks or []:
        assert row.attempt.response[:40] not in card


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ("demo", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B-Instruct"),
        ("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    ],
)
def test_base_model(base: str, named: str, own_run: Path) -> None:
    configured(own_run, model_name_or_path=base)
    assert parts(render_card(load_run(own_run)))[0]["base_model"] == named


@pytest.mark.parametrize("base", ["/home/me/model", "./model", "model"])
def test_a_folder_is_no_base_model_of_the_hub(base: str, own_run: Path) -> None:
    configured(own_run, model_name_or_path=base)
    assert "base_model" not in parts(render_card(load_run(own_run)))[0]


def test_names_cannot_break_the_page(own_run: Path) -> None:
    hostile = "x | y\n# Heading <script>alert(1)</script> [link](http://evil)"
    configured(own_run, train={"dataset_name": hostile}, model_name_or_path="a\n---\ntags: [owned]")
    front, body = parts(render_card(load_run(own_run)))
    assert "owned" not in front["tags"]
    assert "<script>" not in body
    assert "\n# Heading" not in body
    assert "[link](" not in body


def test_what_was_not_measured_is_said(own_run: Path) -> None:
    for name in ("attempts.jsonl", "benign_attempts.jsonl"):
        (own_run / name).unlink()
    front, body = parts(render_card(load_run(own_run)))
    assert "model-index" not in front
    assert "was not measured" in body
    assert "## Attacks" not in body


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no hardened model"):
        write_card(tmp_path)


def headings(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("## ")]


def test_capability_has_a_heading_where_it_was_measured(own_run: Path) -> None:
    ends = {"value": 0.02, "low": 0.01, "high": 0.03}
    drift = {"answers": 5, "tokens": 99, "kl": ends, "perplexity_before": 1.5, "perplexity_after": 1.53}
    order = ["## Use", "## Training", "## Attacks", "## Benign prompts", "## How it was measured", "## Limits"]
    (own_run / "capability.json").unlink(missing_ok=True)
    got = headings(render_card(load_run(own_run)))
    assert [h for h in got if h in order] == order
    assert "## Capability" not in got
    write_json(own_run / "benchmarks.json", {"drift": {**drift, "perplexity_rise": ends}})
    card = render_card(load_run(own_run))
    place = got.index("## How it was measured")
    assert headings(card) == [*got[:place], "## Capability", *got[place:]]
    assert card.partition("## Capability")[2].lstrip().startswith("- Divergence from the base model")
