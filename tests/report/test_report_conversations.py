"""Pairs, what they can be filtered by, and the numbers of the first screen that lead to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_report_render import Page, rendered

from report_runs import attack_rows, attempt, benign_rows, results_in, wrapped_rows, write_run
from sirl.report import conversations
from sirl.report.conversations import FILTERS, choices_of, conversation_section, pairs_of
from sirl.report.glance import glance
from sirl.results.load import load_run
from sirl.results.summary import summarise_run

NOTHING = dict.fromkeys(("metrics", "gap", "gap_samples"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = attack_rows(10, {"aim": (0.3, 0.7), "dan": (0.5, 0.9)})
    folder = tmp_path_factory.mktemp("runs") / "run"
    return write_run(folder, attacks=rows, benign=benign_rows(6), wrapped=wrapped_rows(4), **NOTHING)


def test_every_attempt_is_in_one_pair(run: Path) -> None:
    loaded = load_run(run)
    pairs = pairs_of(loaded)
    rows = [row for pair in pairs for row in pair.rows.values()]
    assert len(rows) == len({id(row) for row in rows}) == 2 * 2 * 10 * 2 + 2 * 2 * 6 * 2 + 3 * 4 * 2
    assert pairs[0].status == "still broken"
    change = summarise_run(run)["attack"]["change"]["greedy"]
    greedy = [pair for pair in pairs_of(loaded, ("greedy",)) if pair.kind == "attack"]
    assert sum(pair.status == "fixed" for pair in greedy) == change["fixed"]


def test_choices_are_the_values_that_there_are(run: Path) -> None:
    pairs = pairs_of(load_run(run))
    choices = choices_of(pairs)
    assert tuple(choices) == FILTERS
    assert choices["kind"] == ["attack", "benign", "wrapped"]
    assert choices["attack"] == ["aim", "base64", "dan"]
    assert "" not in choices["category"]
    assert all(pair.facets[name] in {*choices[name], ""} for pair in pairs for name in FILTERS)


def test_what_could_not_be_scored_is_no_refusal(tmp_path: Path) -> None:
    benign = [attempt("benign", "b", phase, label="unscored") for phase in ("before", "after")]
    folder = write_run(tmp_path / "run", attacks=None, benign=benign, **NOTHING)
    assert [pair.status for pair in pairs_of(load_run(folder))] == ["unscored"]


def test_a_report_has_only_so_many(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = conversation_section(load_run(run))
    assert whole
    assert (len(whole["samples"]), whole["left_out"], whole["sampled"]) == (44, 0, 32)
    monkeypatch.setattr(conversations, "MAX_PAIRS", 20)
    cut = conversation_section(load_run(run))
    assert cut
    assert (len(cut["samples"]), cut["left_out"]) == (20, 24)
    assert "24 more pairs not shown" in Page(rendered(run)).content()


def test_links_filter_by_values_that_exist(run: Path) -> None:
    page = Page(rendered(run))
    links = [a for tag, a in page.elements if tag == "a" and a.get("class") == "to"]
    options = {a.get("value") for tag, a in page.elements if tag == "option"}
    wanted = {value for link in links for name, value in link.items() if name.startswith("data-")}
    assert len(links) > 20
    always = {"fixed", "regressed", "newly refused", "newly answered"}  # where there are none, the number is 0
    assert wanted - always <= options


def test_the_first_screen(run: Path) -> None:
    text = " ".join(Page(rendered(run)).content().split())
    first = text.partition("Attacks Benign prompts")[0]
    order = [first.index(title) for title in ("What changed", "What it costs", "What still gets through")]
    assert order == sorted(order)
    summary = summarise_run(run)
    d = summary["wrapped"]["dprime"]["phases"]
    assert f"{d['before']['value']:.2f} → {d['after']['value']:.2f}" in first
    rates = summary["attack"]["rates"]["greedy"]
    then, now = (rates[phase]["by_attack"] for phase in ("before", "after"))
    worst = min(now, key=lambda name: float(now[name]["rate"]))
    broken = [f"{100 * (1 - table[worst]['rate']):.1f}%" for table in (then, now)]
    assert f"Strongest attack: {worst}{broken[0]} → {broken[1]}" in first
    any_of_them = [summary["attack"]["worst_case"]["greedy"][phase]["rate"] for phase in ("before", "after")]
    assert " → ".join(f"{100 * (1 - rate):.1f}%" for rate in any_of_them) in first
    assert "Base model: " in first


def test_a_number_of_the_first_screen_leads_to_as_many_conversations(run: Path) -> None:
    lines = {line.name: line for _, lines in glance(results_in(run), None, None) for line in lines}
    successes = lines["Successful attacks"]
    found = conversation_section(load_run(run))
    assert found
    behind = [s for facets, s in found["samples"] if all(facets[name] == value for name, value in successes.to.items())]
    assert len(behind) == int(successes.now) > 0
