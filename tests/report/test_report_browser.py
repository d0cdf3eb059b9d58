"""The report in a real browser: numbers lead to conversations, filters and search work, hostile text does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report_render import HOSTILE

from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from report_runs import attack_rows, attempt, benign_rows, wrapped_rows, write_run
from sirl.report.render import render_report

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
SEEN = "return [...document.querySelectorAll('#pairs > details')].filter(d => !d.hidden).length"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = attack_rows(12, {"aim": (0.3, 0.7), "dan": (0.5, 0.9)})
    rest = {"benign": benign_rows(10), "wrapped": wrapped_rows(), "gap": None, "gap_samples": None}
    return render_report(write_run(tmp_path_factory.mktemp("runs") / "run", attacks=rows, **rest))


def test_a_number_leads_to_its_conversations(page: Browser, report: Path) -> None:
    page.open(report.as_uri())
    everything = page.run(SEEN)
    assert everything == 24 + 20 + 30
    fixed = page.run("""
        const row = [...document.querySelectorAll('#dsr-static tbody tr')].find(r => r.cells[0].innerText === 'aim');
        const link = row.querySelector('a[data-status=fixed]');
        link.click();
        return Number(link.innerText)""")
    assert fixed == page.run(SEEN) > 0
    assert page.run("return location.hash") == "#conversations"
    assert page.run("return document.getElementById('count').innerText") == f"{fixed} of {everything}"
    page.run("document.getElementById('reset').click()")
    assert page.run(SEEN) == everything
    page.run("const a = document.querySelector('a.to'); a.dataset.status = 'of no conversation'; a.click()")
    assert page.run(SEEN) == 0  # a number of 0 leads to nothing, not to everything
    page.run("document.getElementById('reset').click()")
    assert page.run(SEEN) == everything


def test_search_reads_what_is_folded(page: Browser, report: Path) -> None:
    page.open(report.as_uri())
    field = "const s = document.querySelector('#filters input');"
    search = f"{field} s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    page.run(search, "[DAN] explain how")
    assert page.run(SEEN) == 12 + 10  # as an attack, and in its wrapping
    last = "const d = [...document.querySelectorAll('#pairs > details')].filter(d => !d.hidden).pop();"
    page.run(f"{last} d.open = true")
    page.until(f"{last} return d.querySelectorAll('.answer').length === 2 && !d.querySelector('template')")
    page.run(search, "no such words")
    assert page.run(SEEN) == 0


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_in_light_and_dark(page: Browser, report: Path, width: int, dark: bool) -> None:
    page.resize(width, 900)
    page.emulate(dark)
    page.open(report.as_uri())
    assert page.run("return document.documentElement.scrollWidth") <= width
    shade = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (shade == "rgb(255, 255, 255)") is not dark
    assert page.errors() == []


def test_it_prints(page: Browser, report: Path) -> None:
    page.open(report.as_uri())
    assert page.pdf().startswith(b"%PDF-")


def test_hostile_text_does_nothing(page: Browser, tmp_path: Path) -> None:
    script = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
    rows = []
    for phase in ("before", "after"):
        made = {"response": script, "goal": script, "category": script, "tokens": (), "entropies": ()}
        made["messages"] = ({"role": script, "content": HOSTILE.replace("\ud800", "")},)
        rows += [attempt(script, f"{i}", phase, refuse=i % 2 == 0, **made) for i in range(12)]
    nothing = dict.fromkeys(("benign", "metrics", "gap", "gap_samples"))
    page.open(render_report(write_run(tmp_path / "run", attacks=rows, **nothing)).as_uri())
    page.run("document.getElementById('expand').click(); document.querySelector('a.to').click()")
    page.until("return document.querySelectorAll('#pairs template').length === 0")
    assert page.run("return document.title") == "sirl report: run"
    assert page.run("return [document.images.length, document.scripts.length]") == [0, 1]
    assert page.errors() == []
    page.run("const f = document.querySelector('#filters select[name=attack]'); f.selectedIndex = 1; f.onchange")
    page.run("document.querySelector('#filters select[name=attack]').dispatchEvent(new Event('change'))")
    assert page.run(SEEN) == 12


@pytest.mark.slow
def test_five_thousand_attempts_open_within_two_seconds(page: Browser, tmp_path: Path) -> None:
    rows = [row for row in attack_rows(313) if row[0].decoding == "greedy"]
    assert len(rows) > 5_000
    nothing = dict.fromkeys(("benign", "metrics", "gap", "gap_samples"))
    report = render_report(write_run(tmp_path / "run", attacks=rows, **nothing))
    taken = []
    for _ in range(3):
        page.open(report.as_uri())
        taken.append(page.run("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert page.run(SEEN) == 2_504
    assert min(taken) < 2_000  # milliseconds
