"""Static, re-optimised and transferred attacks: apart in every figure, and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_report_render import Page

from report_runs import adaptive_rows, attack_rows, attempt, benign_rows, results_in, write_run
from sirl.records import Attempt
from sirl.report.assessment import assess_run, p_value
from sirl.report.attack_sections import about
from sirl.report.card import render_card
from sirl.report.render import render_html
from sirl.results.attacks import attack_summary, kinds_of, search_figures, with_origins
from sirl.results.load import Scored, attach_verdicts, load_run
from sirl.results.summary import build_summary, summarise_run

STATIC = {"direct": (0.5, 0.9), "aim": (0.3, 0.8)}


def scored(*rows: tuple[Attempt, Any]) -> list[Scored]:
    return attach_verdicts([a for a, _ in rows], [v for _, v in rows])


def searched(goal: str, phase: str, broken_at: int | None, *, start: bool | None = False, **changes: Any) -> Any:
    facts = {"budget": 8, "start_broken": start, "broken_at": broken_at}
    queries = changes.pop("queries", broken_at or 8)
    return attempt("gcg", goal, phase, refuse=broken_at is None, queries=queries, search=facts, **changes)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*attack_rows(20, STATIC), *adaptive_rows()]
    return write_run(tmp_path_factory.mktemp("runs") / "mixed", attacks=rows, benign=benign_rows(10))


def test_kinds() -> None:
    rows = scored(
        attempt("direct", "g", "before"),
        attempt("named@before", "g", "before"),  # a template may be called anything
        searched("g", "before", None),
        attempt("mine", "g", "before", search={}),  # a plug-in that tells nothing of its search
        attempt("gcg@before", "g", "after", queries=1),
    )
    assert kinds_of(rows) == {
        "direct": "static",
        "named@before": "static",
        "gcg": "reoptimised",
        "mine": "reoptimised",
        "gcg@before": "transferred",
    }


def test_no_mean_covers_two_kinds(mixed: Path) -> None:
    attack = summarise_run(mixed)["attack"]
    assert {kind: figures["attacks"] for kind, figures in attack["kinds"].items()} == {
        "static": ["direct", "aim"],
        "reoptimised": ["pair", "best_of_n"],
        "transferred": ["pair@before", "best_of_n@before"],
    }
    for kind, figures in attack["kinds"].items():
        for phase in ("before", "after"):
            tables = figures["rates"]["greedy"][phase]
            rates = [tables["by_attack"][name]["rate"] for name in figures["attacks"]]
            assert tables["overall"]["rate"] == pytest.approx(sum(rates) / 2), (kind, phase)
            assert tables["overall"]["n"] == 40
            assert sum(t["n"] for t in tables["by_category"].values()) == 40
    means = {kind: f["rates"]["greedy"]["after"]["overall"]["rate"] for kind, f in attack["kinds"].items()}
    assert len(set(means.values())) == 3
    assert attack["covers"] == "static"
    assert attack["rates"] == attack["kinds"]["static"]["rates"]
    summary = build_summary(mixed)
    assert (summary["dsr_covers"], summary["dsr_after"]) == ("static", means["static"])
    assert {kind: f["dsr_after"] for kind, f in summary["kinds"].items()} == means
    json.dumps(attack, allow_nan=False)


def test_attacks_are_explained_and_what_a_file_names_is_not_imported() -> None:
    found = about(["base64", "gcg@before", "os:system", "template:mine"])
    assert [name for name, _, _ in found] == ["base64", "gcg@before"]
    assert all(words for _, words, _ in found)
    assert "AML.T0068" in found[0][2]
    assert "LLM01:2025" in found[1][2]


def test_without_static_attacks_the_headline_is_of_the_searches() -> None:
    got = attack_summary(scored(searched("g", "before", 3), searched("g", "after", None)))
    assert got.covers == "reoptimised"
    assert got.change["greedy"].fixed == 1
    assert attack_summary([]).covers is None


def test_a_transferred_prompt_is_compared_with_the_search_that_found_it() -> None:
    prompt, other = (({"role": "user", "content": text},) for text in ("found", "something else"))
    before = [searched("a", "before", 2, messages=prompt), searched("b", "before", 2, messages=prompt)]
    after = [attempt("gcg@before", g, "after", queries=1, messages=m) for g, m in (("a", prompt), ("b", other))]
    rows = scored(*before, *after)
    got = attack_summary(rows).kinds["transferred"]
    assert got.change["greedy"].pairs == 1  # the answer on "b" was to another prompt
    assert got.change["greedy"].fixed == 1
    assert got.rates["greedy"]["before"].overall.n == 1
    own = attempt("gcg@before", "a", "before", queries=1, messages=prompt)  # run in phase before too: that one counts
    got = attack_summary(scored(*before, *after, own)).kinds["transferred"]
    assert got.change["greedy"].fixed == 0
    assert len(with_origins(rows)) == len(rows) + 1


def test_static_answers_to_other_prompts_are_no_pair() -> None:
    changed = ({"role": "user", "content": "another wording of the goal"},)
    rows = [attempt("direct", g, phase, refuse=phase == "after") for phase in ("before", "after") for g in "ab"]
    rows[3] = attempt("direct", "b", "after", messages=changed)
    got = attack_summary(scored(*rows)).change["greedy"]
    assert (got.pairs, got.fixed) == (1, 1)
    found = [
        searched("a", phase, None, messages=m) for phase, m in (("before", rows[0][0].messages), ("after", changed))
    ]
    assert attack_summary(scored(*found)).change["greedy"].pairs == 1  # searched anew: other prompts, by design


def test_attempts_left_out_are_counted_once() -> None:
    prompt = ({"role": "user", "content": "found"},)
    before = searched("a", "before", 2, messages=prompt, label="unscored")
    after = attempt("gcg@before", "a", "after", queries=1, messages=prompt)
    assert attack_summary(scored(before, after)).left_out.unscored == 1


def test_means_are_over_the_attacks_of_both_phases() -> None:
    before = [attempt(name, g, "before", refuse=name == "aim") for name in ("aim", "direct") for g in "ab"]
    rows = scored(*before, *(attempt("direct", g, "after") for g in "ab"))
    got = attack_summary(rows)
    rates = got.rates["greedy"]
    assert [rates[phase].overall.rate for phase in ("before", "after")] == [0.0, 1.0]  # not 50% before, with aim
    assert rates["before"].by_attack["aim"].rate == 1.0
    assert attack_summary(scored(*before)).rates["greedy"]["before"].overall.rate == 0.5


def test_worst_case_over_all_kinds() -> None:
    rows = scored(
        attempt("direct", "a", "after"),
        attempt("direct", "b", "after", refuse=False),
        attempt("direct", "c", "after"),
        searched("a", "after", 4),
        searched("b", "after", None),
        searched("c", "after", None),
    )
    got = attack_summary(rows)
    assert got.kinds["static"].rates["greedy"]["after"].worst_case.rate == pytest.approx(2 / 3)
    assert got.kinds["reoptimised"].rates["greedy"]["after"].worst_case.rate == pytest.approx(2 / 3)
    assert got.worst_case["greedy"]["after"].rate == pytest.approx(1 / 3)


class TestSearches:
    def figures(self, *rows: Any) -> Any:
        return search_figures(scored(*rows))

    def test_start_beside_what_was_found(self) -> None:
        got = self.figures(
            searched("a", "after", 1, start=True),
            searched("b", "after", 5),
            searched("c", "after", None),
            searched("d", "after", None, start=None),  # the start could not be asked
        )
        assert (got.start.rate, got.start.n) == (pytest.approx(2 / 3), 3)
        assert (got.found.rate, got.found.n) == (0.5, 4)
        assert got.start.low < 2 / 3 < got.start.high

    def test_found_is_tested_against_the_start(self) -> None:
        rows = [searched(f"g{i}", "after", 5) for i in range(6)]
        got = self.figures(*rows, searched("s", "after", 1, start=True), searched("n", "after", 2, start=None))
        assert (got.found_only, got.p) == (6, pytest.approx(2 / 2**6))
        assert self.figures(searched("s", "after", 1, start=True)).p == 1.0
        assert self.figures(searched("n", "after", 2, start=None)).p is None

    def test_seconds_and_arithmetic_are_medians_of_those_that_tell(self) -> None:
        rows = []
        for i, (seconds, flops) in enumerate(((1.0, 5e9), (9.0, 7e9), (2.0, None))):
            row, verdict = searched(f"g{i}", "after", 3)
            rows.append((replace(row, search={**(row.search or {}), "seconds": seconds, "flops": flops}), verdict))
        got = self.figures(*rows)
        assert (got.seconds, got.flops) == (2.0, 6e9)
        assert self.figures(searched("a", "after", 3)).seconds is None

    def test_queries_to_first_break_are_censored_where_nothing_broke(self) -> None:
        got = self.figures(*(searched(f"g{i}", "after", at) for i, at in enumerate((2, 4, 6, None, None))))
        assert (got.broken, got.goals, got.budget) == (3, 5, 8)
        assert got.to_break_of_broken == 4
        assert got.to_break == 6  # of 2, 4, 6, more, more
        assert got.queries == 6  # of 2, 4, 6, 8, 8
        rare = self.figures(*(searched(f"g{i}", "after", at) for i, at in enumerate((2, None, None, None))))
        assert (rare.to_break, rare.to_break_of_broken) == (None, 2)
        half = self.figures(searched("a", "after", 2), searched("b", "after", None))
        assert half.to_break is None

    def test_a_search_that_failed_is_no_defence(self) -> None:
        failed = searched("b", "after", None, error="the search failed", finish_reason="error", response="")
        got = self.figures(searched("a", "after", 3), failed)
        assert (got.goals, got.broken, got.found.rate) == (1, 1, 0.0)
        assert self.figures(failed).found.rate is None

    def test_files_without_a_budget(self) -> None:
        row, verdict = searched("a", "after", 3)
        old = replace(row, search={"start_broken": False, "broken_at": 3})
        assert self.figures((old, verdict)).budget is None

    def test_before_and_after_apart(self) -> None:
        got = attack_summary(scored(searched("a", "before", 2), searched("a", "after", None)))
        search = got.kinds["reoptimised"].search
        assert (search["before"]["gcg"].broken, search["after"]["gcg"].broken) == (1, 0)


def test_harm_has_categories_pairs_and_worst_case() -> None:
    rows = []
    for phase, scores in (("before", (0.9, 0.9, 0.1)), ("after", (0.1, 0.9, 0.1))):
        for i, score in enumerate(scores):
            made, verdict = attempt("direct", f"g{i}", phase, refuse=False, category="ab"[i % 2])
            rows.append((made, replace(verdict, score=score)))
    got = attack_summary(scored(*rows))
    assert got.harm["greedy"]["before"].by_category["a"].rate == 0.5
    change = got.harm_change["greedy"]
    assert (change.fixed, change.regressed, change.pairs) == (1, 0, 3)
    assert change.reduction.factor == 2.0
    assert change.by_category["a"].fixed == change.by_group["direct"].fixed == 1
    assert got.harm_worst_case["greedy"]["after"].rate == pytest.approx(2 / 3)
    assert got.worst_case["greedy"]["after"].rate == 0  # nothing was refused


def test_every_group_has_its_reduction(mixed: Path) -> None:
    change = summarise_run(mixed)["attack"]["change"]["greedy"]
    for groups in (change["by_group"], change["by_category"]):
        for table in groups.values():
            assert table["reduction"]["successes_before"] == table["complied_before"]
    assert sum(t["pairs"] for t in change["by_category"].values()) == change["pairs"]


@pytest.fixture(scope="module")
def page(mixed: Path) -> Page:
    return Page(render_html(load_run(mixed)))


class TestPage:
    def test_a_table_for_each_kind(self, page: Page, mixed: Path) -> None:
        kinds = summarise_run(mixed)["attack"]["kinds"]
        for kind, figures in kinds.items():
            rows = {row[0].strip(): row for row in page.rows[f"dsr-{kind}"][2:]}
            assert set(rows) == {"Mean over methods", *figures["attacks"]}
            for name in figures["attacks"]:
                rate = figures["rates"]["greedy"]["after"]["by_attack"][name]["rate"]
                assert f"{100 * rate:.1f}%" in rows[name][2]

    def test_kinds_side_by_side(self, page: Page, mixed: Path) -> None:
        kinds = summarise_run(mixed)["attack"]["kinds"]
        rows = page.rows["kinds-table"][2:]
        assert [row[0].strip() for row in rows] == [
            "2 static attacks, mean",
            "2 re-optimised attacks, mean",
            "2 transferred attacks, mean",
            "All at once",
        ]
        for row, figures in zip(rows, kinds.values(), strict=False):
            change = figures["change"]["greedy"]
            assert row[3].strip() == f"{change['fixed']} / {change['regressed']}"
        assert {cell.strip() for cell in rows[-1][1:6]} == {"–"}, "nothing is averaged over kinds"

    def test_what_searches_took(self, page: Page, mixed: Path) -> None:
        search = summarise_run(mixed)["attack"]["kinds"]["reoptimised"]["search"]
        rows = {(row[0].strip(), row[1]): row for row in page.rows["search-table"][2:]}
        assert len(rows) == 4
        for phase, tables in search.items():
            for name, table in tables.items():
                row = rows[name, phase]
                assert f"{100 * table['start']['rate']:.1f}%" in row[2]
                assert row[4:6] == [f"{table['queries']:g}", f"{table['broken']} of 20"]
                assert row[7] == ("not reached" if table["to_break"] is None else f"{table['to_break']:g}")
                assert row[8] == "32"
                assert row[9] == p_value(table["p"])
                assert row[10:12] == [f"{table['seconds']:.3g}", f"{table['flops']:.2g}"]

    def test_both_prompts_of_an_attack_that_searched_anew(self, page: Page) -> None:
        text = page.content()
        assert text.count("Prompt before") == text.count("Prompt after: the attack searched again") > 0

    def test_limits_and_method(self, page: Page, full_run: Path) -> None:
        text = page.content()
        assert "The attacks are fixed prompts" not in text
        assert "They ended at 32 model calls per goal or earlier" in text
        assert "2 static attacks, 2 re-optimised attacks, 2 transferred attacks on 20 goals" in text
        assert "The attacks are fixed prompts" in Page(render_html(load_run(full_run))).content()

    def test_transferred_alone_is_no_adaptive_attack(self, tmp_path: Path) -> None:
        rows = [row for row in adaptive_rows(5) if row[0].attack.endswith("@before")]
        text = Page(render_html(load_run(write_run(tmp_path / "run", attacks=rows)))).content()
        assert "No attack was optimised again against the hardened model" in text


def test_verdict_names_its_kind_and_warns_where_adaptive_attacks_get_through(mixed: Path, tmp_path: Path) -> None:
    got = assess_run(results_in(mixed), None)
    assert "of static attacks, up from" in got.headline
    assert "Over 2 static attacks and 20 harmful goals" in got.body
    assert "Over 2 re-optimised attacks the mean went from" in got.body
    assert not any("adapt to it: re-optimised" in warning for warning in got.warnings)
    rows = [*attack_rows(20, STATIC), *adaptive_rows(attacks={"pair": (0.7, 0.7)})]
    got = assess_run(results_in(write_run(tmp_path / "run", attacks=rows)), None)
    assert got.status == "price_unclear"
    assert any(
        "does not show that the model withstands attacks which adapt to it: re-optimised" in w for w in got.warnings
    )


def test_card_keeps_the_kinds_apart(mixed: Path) -> None:
    card = render_card(load_run(mixed))
    for title in (
        "Static attacks: fixed prompts",
        "re-optimised against each model",
        "transferred from the model before",
    ):
        assert title in card
    (entry,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    tried = [result["dataset"]["name"] for result in entry["results"]]
    assert [name for name in tried if "re-optimised" in name] == ["2 re-optimised attacks x 20 goals"]
    table = summarise_run(mixed)["attack"]["kinds"]["reoptimised"]["search"]["after"]["pair"]
    figures = f"{100 * table['start']['rate']:.1f}% | {100 * table['found']['rate']:.1f}% | {table['broken']} of 20"
    assert f"| pair | after | {figures} | {table['queries']:g} | 32 |" in card
