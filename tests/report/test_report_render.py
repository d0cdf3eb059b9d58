"""The page: self-contained, escaped, complete, and in step with the aggregate."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import time
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report_runs import attempt, gap_json, gap_samples, manifest, write_run
from sirl.errors import UserError
from sirl.gap import GapConfig, analyse_gap
from sirl.records import write_json, write_jsonl
from sirl.report.render import render_html, render_report
from sirl.report.samples import MAX_CHARS
from sirl.results.load import load_run
from sirl.results.summary import summarise_run

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}\"'>\u202egnp\x00\x1b[31m\ud800"
)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements, text and nesting of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.table = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = dict(attrs).get("id") or ""
        if tag == "tr":
            self.rows.setdefault(self.table, []).append([])
        if tag in ("td", "th"):
            self.rows[self.table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[self.table][-1][-1] += data

    def content(self) -> str:
        return "".join(self.text)


def rendered(run: Path) -> str:
    return render_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(full_run: Path) -> str:
    return rendered(full_run)


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "use", "image"}
        assert not {"src", "srcset", "style", "action", "xlink:href"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_the_policy_allows_this_style_and_script_alone(html: str) -> None:
    policy = next(a["content"] for t, a in Page(html).elements if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(contents) == 1
        digest = base64.b64encode(hashlib.sha256(contents[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_elements_are_closed_and_ids_unique(html: str) -> None:
    page = Page(html)  # asserts the nesting
    assert page.open == []
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids


def test_figures_are_those_of_the_aggregate(html: str, full_run: Path) -> None:
    attack = summarise_run(full_run)["attack"]
    rows = {row[0].strip(): row for row in Page(html).rows["dsr-static"][2:]}
    assert set(rows) == {"Mean over methods", *attack["attacks"]}
    for name, row in rows.items():
        cells = []
        for decoding in ("greedy", "sample"):
            for phase in ("before", "after"):
                tables = attack["rates"][decoding][phase]
                cells.append(tables["overall"] if name == "Mean over methods" else tables["by_attack"][name])
        for cell, text in zip(cells, row[1:5], strict=True):
            expected = f"{100 * cell['rate']:.1f}%{100 * cell['low']:.1f}–{100 * cell['high']:.1f}"
            assert "".join(text.split()) == expected
        change = attack["change"]["greedy"]
        change = change if name == "Mean over methods" else change["by_group"][name]
        assert row[5].strip() == f"{change['fixed']} / {change['regressed']}"


def test_benign_figures_are_those_of_the_aggregate(html: str, full_run: Path) -> None:
    rates = summarise_run(full_run)["benign"]["rates"]
    rows = Page(html).rows["benign-table"][1:]
    expected = [
        [rates[d][p][kind] for p in ("before", "after")]
        for d in ("greedy", "sample")
        for kind in ("plain", "sounds_harmful")
    ]
    totals = summarise_run(full_run)["benign"]["overall"]
    expected += [[totals[d][p] for p in ("before", "after")] for d in ("greedy", "sample")]
    assert len(rows) == len(expected)
    for row, cells in zip(rows, expected, strict=True):
        for text, cell in zip(row[1:3], cells, strict=True):
            assert "".join(text.split()).startswith(f"{100 * cell['rate']:.1f}%")
        for text, cell in zip(row[3:5], cells, strict=True):
            bounds = f"{100 * cell['partial_low']:.1f}–{100 * cell['partial_high']:.1f}"
            assert "".join(text.split()) == f"{100 * cell['partial_rate']:.1f}%{bounds}"


def test_many_categories_are_folded_away(tmp_path: Path) -> None:
    kinds = ("history", "law", "medicine", "privacy", "figures_of_speech")
    asked = [(kind, f"{kind}-{i}", phase) for kind in kinds for i in range(3) for phase in ("before", "after")]
    benign = [attempt("benign", name, phase, category=kind) for kind, name, phase in asked]
    html = rendered(write_run(tmp_path / "run", attacks=None, benign=benign))
    page = Page(html)
    assert [row[0].split()[:3] for row in page.rows["benign-table"][1:]] == [["All", "benign", "prompts"]]
    assert len(page.rows["benign-categories"][1:]) == len(kinds)
    assert html.index("By category (5)") < html.index("benign-categories")
    assert "Figures of speech" in html


def test_it_says_how_it_was_made(html: str) -> None:
    text = Page(html).content()
    for fact in ("sirl demo", manifest()["git_commit"], "torch 2.13.0", "train.learning_rate", "0.0001", "train 213 s"):
        assert fact in text
    assert "model organism" in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    rows = []
    for phase in ("before", "after"):
        for number, refuse in enumerate((True, False)):
            made = {
                "response": HOSTILE,
                "goal": HOSTILE,
                "category": HOSTILE,
                "messages": ({"role": HOSTILE, "content": HOSTILE},),
            }
            tokens = (
                {"tokens": (HOSTILE, HOSTILE), "entropies": (0.1, 9.0)} if number else {"tokens": (), "entropies": ()}
            )
            rows.append(attempt(HOSTILE, f"{HOSTILE}{number}", phase, refuse=refuse, **made, **tokens))
    benign = [
        attempt("benign", "b", p, category=HOSTILE, response=HOSTILE, tokens=(), entropies=())
        for p in ("before", "after")
    ]
    made_by = {
        "command": [HOSTILE],
        "config": {HOSTILE: HOSTILE, "model_name_or_path": HOSTILE},
        "versions": {HOSTILE: HOSTILE},
    }
    run = tmp_path / "run"
    # JSON written by hand may hold a lone surrogate as an escape; the package's own writer cannot
    write_run(run, attacks=[], benign=[], manifest=None, gap=None, gap_samples=None)
    for stem, made_rows in (("", rows), ("benign_", benign)):
        (run / f"{stem}attempts.jsonl").write_text("".join(json.dumps(asdict(a)) + "\n" for a, _ in made_rows))
        (run / f"{stem}verdicts.jsonl").write_text("".join(json.dumps(asdict(v)) + "\n" for _, v in made_rows))
    (run / "manifest.json").write_text(json.dumps(made_by))
    (run / "gap.json").write_text(json.dumps({"verdict": HOSTILE}))
    page_html = rendered(run)
    page = Page(page_html)
    assert [t for t, _ in page.elements].count("script") == 1
    assert "img" not in [t for t, _ in page.elements]
    assert "{{ 7*7 }}" in page.content()
    assert not set(page_html) & {"\x00", "\x1b", "\u202e", "\ud800"}
    assert "␀␛[31m" in page.content()


def test_an_endless_response_is_cut(tmp_path: Path) -> None:
    rows = [attempt("a", "g", p, response="word " * 20_000, tokens=(), entropies=()) for p in ("before", "after")]
    run = write_run(tmp_path / "run", attacks=rows, benign=None)
    page = rendered(run)
    assert f"{100_000 - MAX_CHARS:,} more characters not shown" in Page(page).content()
    assert len(page) < 120_000


PARTS = ("attacks", "benign", "metrics", "gap", "gap_samples", "manifest")


@pytest.mark.parametrize("missing", [PARTS, *[(p,) for p in PARTS], ("attacks", "benign"), ("metrics", "manifest")])
def test_stages_that_were_not_run(tmp_path: Path, missing: tuple[str, ...]) -> None:
    small = {"attacks": [attempt("a", f"g{i}", p) for i in range(3) for p in ("before", "after")]}
    small["benign"] = [attempt("benign", f"b{i}", p, category="plain") for i in range(3) for p in ("before", "after")]
    page = Page(rendered(write_run(tmp_path / "run", **(small | dict.fromkeys(missing)))))
    sections = sum(part in missing for part in ("attacks", "benign", "metrics", "gap", "manifest"))
    sections += "attacks" in missing and "benign" in missing  # no conversations either
    assert page.content().count("Not run:") == sections


def test_one_phase_and_nothing_scored(tmp_path: Path) -> None:
    before = [attempt("a", f"g{i}", "before") for i in range(3)]
    assert "There is nothing to compare yet" in rendered(write_run(tmp_path / "one", attacks=before, benign=None))
    after = [attempt("a", f"g{i}", p, label="unscored") for i in range(3) for p in ("before", "after")]
    text = Page(rendered(write_run(tmp_path / "two", attacks=after, benign=None))).content()
    assert "6 the judge could not decide" in text


def test_attempts_without_verdicts_or_answers(tmp_path: Path) -> None:
    rows = [
        attempt("a", f"g{i}", p, error="no memory", finish_reason="error", response="", tokens=(), entropies=())
        for i in range(2)
        for p in ("before", "after")
    ]
    text = Page(rendered(write_run(tmp_path / "run", attacks=rows, benign=None))).content()
    assert "4 ended in an error" in text


def test_another_place(full_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert render_report(full_run, out) == out
    assert out.is_file()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        render_report(tmp_path / "absent")


def test_it_is_quick(full_run: Path) -> None:
    start = time.process_time()  # of this process: a busy machine is not a slow report
    render_report(full_run)  # 3,200 attempts under attack, 600 benign
    assert time.process_time() - start < 2.0


def test_gap_figures_and_distributions(html: str) -> None:
    gap = gap_json()
    samples = [s for s in gap_samples() if s.kind == "harmful"]  # benign ones are no part of the verdict
    safe = [s.mean_entropy for s in samples if s.refused]
    unsafe = [s.mean_entropy for s in samples if not s.refused]
    text = Page(html).content()
    assert gap["explanation"] in text
    assert f"safe: refused (n={len(safe)})" in text
    assert f"unsafe: answered (n={len(unsafe)})" in text
    assert f"safe: {sum(safe) / len(safe):.2f}" in text
    assert f"unsafe: {sum(unsafe) / len(unsafe):.2f}" in text
    overall = gap["overall"]
    assert f"{overall['difference']:+.3f} nats ({overall['low']:+.3f} to {overall['high']:+.3f})" in text
    assert f"AUROC {overall['auroc']:.2f}" in text


def test_a_gap_that_could_not_be_measured(tmp_path: Path) -> None:
    few = analyse_gap(gap_samples()[:3], GapConfig(n_bootstrap=10)).to_dict()
    run = write_run(tmp_path / "run", attacks=None, benign=None, gap=few, gap_samples=None)
    text = Page(rendered(run)).content()
    assert "Too few to tell" in text
    assert "None" not in text


def test_the_way_of_the_policy(full_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    rows = [{"step": s, "dsr": d, "over_refusal": o} for s, d, o in ((0, 0.5, 0.02), (5, 0.9, 0.04), (10, 0.95, 0.2))]
    write_jsonl(run / "development.jsonl", rows)
    write_json(run / "chosen.json", {"rule": "the best <b>", "chosen": rows[1], "start": rows[0], "last": rows[2]})
    page = render_html(load_run(run))
    assert "Deployed: <b>update 5</b>" in page
    assert "the best &lt;b&gt;" in page
    assert "update 5 (deployed)" in page
    assert page.count('class="ring"') == 1
    assert "Training was ended early" not in page
    table = page.partition('aria-label="Development set"')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="col">([^<]+)', table) == ["policy", "DSR", "over-refusal"], "as of older runs"
    assert "Deployed:" not in render_html(load_run(full_run))


def test_health_of_the_policy_on_its_way(full_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    rows = [
        {"step": 0, "dsr": 0.5, "over_refusal": 0.02, "distinct": 0.25, "repetition": 0.031, "kl": 0.0},
        {"step": 5, "dsr": 0.9, "over_refusal": 0.04, "repetition": 0.62},
    ]
    write_jsonl(run / "development.jsonl", rows)
    facts = {"rule": "", "ended_by": "max_repetition", "chosen": rows[0], "start": rows[0], "last": rows[1]}
    write_json(run / "chosen.json", facts)
    page = render_html(load_run(run))
    assert "Training was ended early by <code>development.max_repetition</code>." in page
    table = page.partition('aria-label="Development set"')[2].partition("</table>")[0]
    heads = re.findall(r'<th scope="col">([^<]+)', table)
    assert heads[3:] == ["different refusals", "repetition", "KL to the base model (nats per token)"]
    cells = re.findall(r"<td>([^<]+)", table)
    assert cells == ["50.0%", "2.0%", "25%", "3.1%", "0.000", "90.0%", "4.0%", "–", "62.0%", "–"]


def test_what_else_has_changed(full_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    bounds = {"value": 0.021, "low": 0.015, "high": 0.03}
    drift = {"answers": 5, "tokens": 1234, "kl": bounds, "perplexity_before": 1.5, "perplexity_after": 1.53}
    choices = {"before": [True, False], "after": [True, True]}
    write_json(run / "capability.json", {"drift": {**drift, "perplexity_rise": bounds}, "choices": choices})
    page = render_html(load_run(run))
    assert "0.021 nats per token (0.015 to 0.030), 1,234 tokens of 5 answers" in page
    assert "1.500 before, 1.530 after: +2.1% (+1.5 to +3.0)" in page
    assert "0 lost, 1 gained (p = 1.000)" in page
    assert "What else has changed" not in render_html(load_run(full_run))


def test_benchmarks_of_sirl_eval(full_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    before, after = {"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.48, "low": 0.38, "high": 0.58}
    difference = {"value": -0.02, "low": -0.05, "high": 0.01}
    figure = {"n": 90, "before": before, "after": after, "difference": difference}
    found = {"figures": {"exact_match": figure}, "statement": "within the noise"}
    write_json(run / "benchmarks.json", {"benchmarks": {"gsm8k": found}})
    page = render_html(load_run(run))
    assert "Benchmark gsm8k, exact match, 90 rows" in page
    assert "50.0% before, 48.0% after: -2.0 points (-5.0 to +1.0); within the noise" in page
