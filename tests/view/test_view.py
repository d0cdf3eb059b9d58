"""`sirl view`: what it serves, and what it refuses."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from browser import CHROMIUM, DRIVER, MISSING, browser
from report_runs import attack_rows, attempt, benign_rows, manifest, metrics, wrapped_rows, write_run
from sirl.records import append_jsonl, write_json
from sirl.results.summary import build_summary
from sirl.view import folders, pages
from sirl.view.folders import Cache, find_runs
from sirl.view.server import ROUTES, View

HOSTILE = "<script>document.title='broken'</script>&\"'<img src=x onerror=alert(1)>"
NOTHING = dict.fromkeys(("metrics", "gap", "gap_samples"))


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


class Client:
    """Asks a server as a browser would."""

    def __init__(self, server: View) -> None:
        self.server = server

    def __call__(self, path: str, host: str | None = None, method: str = "GET", **query: object) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        target = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        connection.request(method, target, headers={"Host": host or f"127.0.0.1:{self.server.server_port}"})
        answer = connection.getresponse()
        found = Answer(answer.status, answer.headers, answer.read().decode())
        connection.close()
        return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of them a level down, next to a secret."""
    top = tmp_path_factory.mktemp("view")
    (top / "secret.json").write_text('{"secret": 1}')
    rows = attack_rows(8, {"aim": (0.3, 0.7), "dan": (0.5, 0.9)})
    parts = {"benign": benign_rows(4), "wrapped": wrapped_rows(3), "gap": None, "gap_samples": None}
    for name in ("one", "deep/two"):
        folder = write_run(top / "runs" / name, attacks=rows, **parts)
        write_json(folder / "summary.json", build_summary(folder))
    write_run(top / "runs" / "one" / "model", attacks=rows, benign=None, **NOTHING)  # no run: weights lie there
    (top / "runs" / "linked").symlink_to(top)
    return top / "runs"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[View]:
    with View(root) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def ask(server: View) -> Client:
    return Client(server)


def test_runs_are_found_and_links_are_not_followed(root: Path) -> None:
    assert set(find_runs(root)) == {"one", "deep/two"}
    assert set(find_runs(root / "one")) == {"."}


def test_it_listens_on_the_loopback_alone(server: View) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_the_table_of_runs(ask: Client, root: Path) -> None:
    page = ask("/").body
    summary = json.loads((root / "one" / "summary.json").read_text())
    assert f"{100 * summary['dsr_before']:.1f}% → {100 * summary['dsr_after']:.1f}%" in page
    assert "/report?run=deep%2Ftwo" in page
    assert page.count('type="checkbox"') == 2


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_every_page_answers_with_its_policy(ask: Client, path: str) -> None:
    query = (
        {"run": ["one", "deep/two"]}
        if path == "/compare"
        else {}
        if path.endswith((".css", ".js"))
        else {"run": "deep/two"}
    )
    answer = ask(path, **query)
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "http://" not in answer.body.replace("http://www.w3.org", "")
    head = ask(path, method="HEAD", **query)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, "", answer.headers["Content-Length"])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example:1", "0.0.0.0"]
)
def test_other_hosts_are_refused(ask: Client, host: str) -> None:
    answer = ask("/", host=host)
    assert answer.status == 403
    assert "deep/two" not in answer.body
    assert ask("/", host=f"localhost:{ask.server.server_port}").status == 200


@pytest.mark.parametrize(
    "name", ["../secret", "..", "/etc", "one/../one", "one/model", "linked", "linked/runs/one", "one\0", "./one", ""]
)
@pytest.mark.parametrize("page", ["/report", "/conversations", "/training"])
def test_no_request_names_a_path(ask: Client, page: str, name: str) -> None:
    answer = ask(page, run=name)
    assert answer.status == 404
    assert "secret" not in answer.body.replace(quote(name), "").replace("../secret", "")


@pytest.mark.parametrize(
    "path", ["/secret.json", "/../secret.json", "/%2e%2e/secret.json", "/one/manifest.json", "//x", "/view.py"]
)
def test_there_are_no_files(ask: Client, path: str) -> None:
    assert ask(path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_is_read_only(ask: Client, method: str) -> None:
    assert ask("/", method=method).status == 501


def test_runs_side_by_side(ask: Client) -> None:
    page = ask("/compare", run=["one", "deep/two"]).body
    assert page.count('<th scope="col">') == 3
    assert "adversarial_benign_rise" in page
    assert "Choose 2 to 8 runs" in ask("/compare", run="one").body
    assert ask("/compare", run=["one", "../secret"]).status == 404


def test_conversations_are_filtered_searched_and_paged(ask: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ask("/conversations", run="one").body
    total = 2 * 8 * 2 + 2 * 4 * 2 + 3 * 3
    assert f"{total} of {total}" in everything
    aim = ask("/conversations", run="one", attack="aim", kind="attack").body
    assert f"16 of {total}" in aim
    assert '<option value="aim" selected>' in aim
    assert 'data-attack="dan"' not in aim
    assert f"9 of {total}" in ask("/conversations", run="one", q="PENCIL", kind="wrapped").body
    assert f"0 of {total}" in ask("/conversations", run="one", attack="nothing").body
    link = re.search(r'href="(/conversations\.csv\?[^"]+)" download', aim)
    assert link
    assert "attack=aim" in link[1]
    rows = list(csv.DictReader(io.StringIO(ask("/conversations.csv", run="one", attack="aim", kind="attack").body[1:])))
    assert len(rows) == 16
    assert {row["attack"] for row in rows} == {"aim"}
    assert {row["decoding"] for row in rows} == {"greedy", "sample"}
    assert all(row["goal"] and row["goal"] in row["prompt"] and row["answer_before"] for row in rows)
    monkeypatch.setattr(pages, "EACH", 10)
    last = ask("/conversations", run="one", page="99").body
    assert "Page 6 of 6" in last
    assert last.count("<details") == total - 50
    assert "Page 1 of 6" in ask("/conversations", run="one", page="-1").body


def test_curves_follow_a_training(tmp_path: Path) -> None:
    lines = metrics(6)
    folder = write_run(tmp_path / "run", attacks=None, benign=None, gap=None, gap_samples=None, metrics=lines[:3])
    with View(tmp_path) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        ask = Client(made)
        first = ask("/training", run="run").body
        assert "Update 3." in first
        assert 'data-live="yes"' in first
        append_jsonl(folder / "metrics.jsonl", lines[3:])
        assert "Update 6." in ask("/training", run="run").body
        old = time.time() - 3_600
        os.utime(folder / "metrics.jsonl", (old, old))
        assert 'data-live="yes"' not in ask("/training", run="run").body
        made.shutdown()


def test_a_broken_run_is_one_page(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "attempts.jsonl").write_text("no json\n{}\n")
    with View(tmp_path) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        ask = Client(made)
        assert ask("/").status == 200
        answer = ask("/report", run="bad")
        assert answer.status == 422
        assert "attempts.jsonl" in answer.body
        made.shutdown()


def test_runs_are_read_once_while_they_stay_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    load = folders.load_run
    monkeypatch.setattr(folders, "load_run", lambda path: (read.append(path), load(path))[1])
    cache = Cache()
    for _ in range(3):
        cache.get(root / "one")
    assert len(read) == 1
    (root / "one" / "chosen.json").write_text("{}")
    cache.get(root / "one")
    (root / "one" / "chosen.json").unlink()
    assert len(read) == 2


def hostile_root(folder: Path) -> Path:
    rows = []
    for phase in ("before", "after"):
        made = {"response": HOSTILE, "goal": HOSTILE, "category": HOSTILE, "tokens": (), "entropies": ()}
        made["messages"] = ({"role": HOSTILE, "content": HOSTILE},)
        rows += [attempt(HOSTILE, str(i), phase, **made) for i in range(2)]
    about = {**manifest(), "status": HOSTILE, "created": HOSTILE, "stages": {HOSTILE: {"status": HOSTILE}}}
    name = "<img src=x onerror=alert(1)>&\"'"
    write_run(folder / name, attacks=rows, benign=None, manifest=about, **NOTHING)
    return folder


def test_hostile_text_and_names_stay_text(tmp_path: Path) -> None:
    root = hostile_root(tmp_path)
    name = next(iter(find_runs(root)))
    with View(root) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        ask = Client(made)
        asked = [ask("/"), ask("/report", run=name), ask("/training", run=name), ask("/report", run=HOSTILE)]
        asked.append(ask("/conversations", run=name, q=HOSTILE, attack=HOSTILE))
        for answer in asked:
            assert "<img" not in answer.body
            assert "<script>document" not in answer.body
        assert "2 of 2" in asked[-1].body
        table = ask("/conversations.csv", run=name)
        assert table.headers["Content-Type"].startswith("text/csv")
        assert len(list(csv.reader(io.StringIO(table.body[1:])))) == 3
        made.shutdown()


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    rows = [attempt("aim", "0", "before", response="=HYPERLINK(1)", goal="@SUM(1)", tokens=(), entropies=())]
    write_run(tmp_path / "run", attacks=rows, benign=None, **NOTHING)
    with View(tmp_path) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        (row,) = csv.DictReader(io.StringIO(Client(made)("/conversations.csv", run="run").body[1:]))
        made.shutdown()
    assert (row["goal"], row["answer_before"], row["answer_after"]) == ("'@SUM(1)", "'=HYPERLINK(1)", "")


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
def test_in_a_real_browser(root: Path, tmp_path: Path) -> None:
    hostile = hostile_root(tmp_path / "hostile")
    with View(root) as made, View(hostile) as other, browser(tmp_path) as page:
        for server in (made, other):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(made.url)
        page.run("document.querySelectorAll('input[type=checkbox]').forEach(box => { box.checked = true })")
        page.run("document.querySelector('form').submit()")
        page.until("return location.pathname === '/compare' && document.getElementById('compared') !== null")
        page.open(made.url)
        assert page.run("return document.querySelectorAll('#runs thead button').length") == 8
        runs = "return [...document.querySelectorAll('#runs tbody tr')].map(r => Number(r.cells[5].dataset.sort))"
        page.run("document.querySelector('#runs thead th:nth-child(6) button').click()")
        assert page.run(runs) == sorted(page.run(runs), reverse=True)
        page.open(f"{made.url}compare?run=one&run=deep/two")
        assert page.run("return document.querySelectorAll('button a, a button').length") == 0
        page.open(f"{made.url}conversations?run=one&attack=aim")
        page.run("document.querySelector('#pairs summary').click()")
        assert page.run("return document.querySelectorAll('#pairs details[open] .answer').length") == 2
        page.open(f"{other.url}conversations?{urlencode({'run': next(iter(find_runs(hostile)))})}")
        assert page.run("return [document.title.startsWith('sirl view'), document.images.length]") == [True, 0]
        for width, dark in ((390, True), (1400, False)):
            page.resize(width, 900)
            page.emulate(dark)
            for path in (
                "",
                "compare?run=one&run=deep/two",
                "conversations?run=one",
                "training?run=one",
                "report?run=one",
            ):
                page.open(made.url + path)
                assert page.run("return document.documentElement.scrollWidth") <= width, path
        page.open(f"{made.url}training?run=one")
        assert page.run("return document.querySelector('#live [role=status]').innerText").startswith("Update 30.")
        append_jsonl(root / "one" / "metrics.jsonl", [{**metrics(1)[0], "step": 31}])
        page.until("return document.querySelector('#live [role=status]').innerText.startsWith('Update 31.')")
        assert page.errors() == []
        made.shutdown()
        other.shutdown()
