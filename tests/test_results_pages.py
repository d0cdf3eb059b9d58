"""README.md and docs/results.md show what docs/results/ holds, and docs/results/ what dev/LOG.md tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dev import picture, results
from report_runs import write_run

NAMES = sorted(path.stem for path in results.FOLDER.glob("*.json"))
LOG = (results.ROOT / "dev" / "LOG.md").read_text(encoding="utf-8")


def entry(place: str) -> str:
    """One entry of the log."""
    return LOG.partition(f'<a id="{place}"></a>')[2].partition("<a id=")[0]


def prose(page: Path) -> str:
    """A page without its tables and code."""
    text = re.sub(results.BLOCK, "", page.read_text(encoding="utf-8"))
    return re.sub(r"```.*?```|\]\([^)]*\)|`[^`]*`|^    .*$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", results.PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(results.BLOCK.findall(text)) == text.count("<!-- figures ") > 0
    assert text == results.refreshed(page), "run: python -m dev.results"


@pytest.mark.parametrize("page", results.PAGES, ids=lambda page: page.name)
def test_figures_in_prose_are_in_the_files(page: Path) -> None:
    """Percentages, and numbers with decimals or an interval; an aim that was missed is no figure."""
    known = set().union(*(results.values(results.read(name)) for name in NAMES))
    shares, plain = {f"{100 * value:.1f}" for value in known}, {f"{value:.2f}" for value in known}
    text = prose(page).replace("The goal was 92%", "")
    for said in re.findall(r"(\d+(?:\.\d+)?)%", text):
        assert f"{float(said):.1f}" in shares, f"{said}%"
    for said in re.findall(r"(?<![\w.])-?\d\.\d\d(?![\d%+])", text):
        assert said in plain, said


def test_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(results.PAGES[1].read_text(encoding="utf-8").replace("82.2% (", "83.2% ("), encoding="utf-8")
    assert results.refreshed(page) != page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_where_it_comes_from(name: str) -> None:
    data = results.read(name)
    assert data["status"] in ("current", "older")
    assert re.match(r"(sirl|make) ", data["command"])
    assert re.match(r"[0-9a-f]{7}\b", data["commit"])
    assert all(entry(place) for place in data["log"].split(","))
    shown = results.block(name, results.PAGES[1])
    assert shown.startswith("**Older configuration.**") is (data["status"] == "older")


@pytest.mark.parametrize("name", [name for name in NAMES if "figures" in results.read(name)])
def test_the_log_tells_the_same_figures(name: str) -> None:
    data = results.read(name)
    told = "".join(map(entry, data["log"].split(",")))
    for key in ("dsr", "adversarial_benign"):
        for phase in ("before", "after"):
            assert f"{100 * data['figures'][key][phase][0]:.1f}" in told, (key, phase)


@pytest.mark.parametrize("theme", picture.THEMES)
def test_the_picture_is_of_these_figures(theme: str) -> None:
    drawn = (results.ROOT / "docs" / f"tradeoff-{theme}.svg").read_text(encoding="utf-8")
    assert f"docs/results {picture.digest()}" in drawn, "run: python -m dev.picture"


def test_readme_is_short_and_shows_the_price() -> None:
    text = results.PAGES[0].read_text(encoding="utf-8")
    assert len(text.split()) < 1000
    lines = text.split("\n")
    assert next(i for i, line in enumerate(lines) if "<picture>" in line) < 15
    assert "Adversarial benign prompts refused" in text.partition("## Quick start")[0]


def test_a_run_folder_becomes_a_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    made = results.from_run(str(run), "Mine", "demo-pairs", "1234567", None)
    assert json.loads(json.dumps(made)) == made
    rate, low, high = made["figures"]["dsr"]["after"]
    assert 0 <= low < rate < high <= 1
    assert made["attacks"]["direct"][0] < made["attacks"]["direct"][1]
    assert made["command"].startswith("sirl ")
