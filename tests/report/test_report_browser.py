"""The report in a real browser: numbers lead to conversations, filters and search work, hostile text does nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report_render import HOSTILE

from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from report_runs import adaptive_rows, attack_rows, attempt, benign_rows, wrapped_rows, write_run
from sirl.report.render import HERE, render_report
from sirl.view.pages import CSV_COLUMNS

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
SORTER = (HERE / "tables.js").read_text(encoding="utf-8")
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


def test_tables_are_sorted_by_their_headings(page: Browser, report: Path) -> None:
    page.open(report.as_uri())
    rows = "[...document.querySelectorAll('#dsr-static tbody tr')]"
    after = f"return {rows}.map(r => [r.cells[0].innerText, parseFloat(r.cells[2].innerText)])"
    head = "document.querySelector('#dsr-static thead tr:last-child').cells[2]"
    first = page.run(after)
    assert first[0][0] not in ("aim", "dan"), "the mean stays where it is"
    orders = []
    for _ in range(3):
        page.run(f"{head}.querySelector('button').focus(); {head}.querySelector('button').click()")
        orders.append((page.run(f"return {head}.getAttribute('aria-sort')"), page.run(after)))
    falling = [first[0], *sorted(first[1:], key=lambda row: -row[1])]
    rising = [first[0], *sorted(first[1:], key=lambda row: row[1])]
    assert falling != rising
    assert orders == [("descending", falling), ("ascending", rising), (None, first)]
    name = "document.querySelector('#dsr-static thead tr:last-child').cells[0]"
    page.run(f"{name}.querySelector('button').click()")
    assert page.run(f"return {name}.getAttribute('aria-sort')") == "ascending"
    assert [row[0] for row in page.run(after)] == [first[0][0], *sorted(row[0] for row in first[1:])]
    assert page.run("return document.activeElement.className") == "sort"


def test_a_search_again_is_a_prompt_of_its_own_in_csv(page: Browser, tmp_path: Path) -> None:
    rest = dict.fromkeys(("benign", "metrics", "gap", "gap_samples"))
    page.open(render_report(write_run(tmp_path / "run", attacks=adaptive_rows(), **rest)).as_uri())
    page.run("URL.createObjectURL = b => { b.text().then(t => { window.saved = t }); return '#' }")
    page.run("document.getElementById('csv').click()")
    rows = list(csv.DictReader(io.StringIO(page.until("return window.saved"))))
    again = [row for row in rows if row["prompt_after"]]
    assert again
    assert all(row["prompt"] != row["prompt_after"] for row in again)
    labels = "return [...document.querySelectorAll('[role=region]')].map(r => r.getAttribute('aria-label'))"
    named = page.run(labels)
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("cells", "falling"),
    [
        (["9.5%", "–", "100.0%", "12.0%"], ["100.0%", "12.0%", "9.5%", "–"]),
        (["p < 0.001", "p = 0.023", "–"], ["p = 0.023", "p < 0.001", "–"]),
        (["÷ 3.4", "none left", "÷ 12.0"], ["÷ 12.0", "÷ 3.4", "none left"]),
        (["-0.50", "+1.20", "−2.00"], ["+1.20", "-0.50", "−2.00"]),
        (["1,200 of 3", "90 of 100"], ["1,200 of 3", "90 of 100"]),
        (["2026-11-28 10:00", "2026-02-01 09:00"], ["2026-02-01 09:00", "2026-11-28 10:00"]),
    ],
)
def test_what_a_cell_is_sorted_by(page: Browser, report: Path, cells: list[str], falling: list[str]) -> None:
    """Numbers fall at the first click, words (dates among them) rise; what is missing comes last."""
    page.open(report.as_uri())
    found = page.run(
        """
        const body = document.querySelector('#dsr-static').tBodies[0], model = body.rows[1];
        [...body.rows].forEach(row => row.remove());
        for (const text of arguments[0]) {
            const row = model.cloneNode(true);
            row.cells[1].textContent = text;
            body.append(row);
        }
        """
        + SORTER
        + """
        document.querySelector('#dsr-static thead tr:last-child').cells[1].firstElementChild.click();
        return [...body.rows].map(row => row.cells[1].textContent)""",
        cells,
    )
    assert found == falling


def test_what_the_filters_leave_is_saved_as_csv(page: Browser, report: Path) -> None:
    page.open(report.as_uri())
    page.run("""
        URL.createObjectURL = blob => { blob.text().then(text => { window.saved = text }); return '#' };
        const attack = document.querySelector('#filters select[name=attack]');
        attack.value = 'aim';
        attack.dispatchEvent(new Event('change'));
        document.getElementById('csv').click()""")
    rows = list(csv.DictReader(io.StringIO(page.until("return window.saved"))))
    assert len(rows) == page.run(SEEN)
    assert tuple(rows[0]) == CSV_COLUMNS
    assert {row["attack"] for row in rows} == {"aim"}
    assert {row["decoding"] for row in rows} == {"greedy"}
    attacks = [row for row in rows if row["kind"] == "attack"]
    assert len(attacks) == 12
    assert all(row["goal"] in row["prompt"] and row["answer_before"] and row["answer_after"] for row in attacks)
    outcomes = {(row["before"], row["status"]) for row in attacks}
    assert ("full_compliance", "fixed") in outcomes


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
    page.run("URL.createObjectURL = b => { b.text().then(t => { window.saved = t }); return '#' }")
    page.run("document.getElementById('csv').click()")
    assert len(list(csv.reader(io.StringIO(page.until("return window.saved"))))) == 1 + 12
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
