"""The pictures of docs/tutorial.md: a finished run's report and `sirl view`, by headless Chromium.

    python -m dev.pictures runs/demo          needs Chromium (Debian: chromium) and pillow (extra `docs`)

The run's conversations are harmful, and a picture is looked at by people who did not ask for them. So each letter of
what was asked and answered is replaced before a page is made of it, and blurred. Numbers are as a reader meets them.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from dev.results import ROOT
from sirl.report import render_report
from sirl.report.render import HERE as REPORT
from sirl.view import pages
from sirl.view.folders import NOT_RUNS, find_runs

FOLDER = ROOT / "docs" / "pictures"
LARGEST = 150_000
"""Bytes of a picture."""
COLOURS = 160
NAMES = ("chromium", "chromium-browser", "google-chrome")
FILLING = "etaoinshrdlucmfwypvbgk"
TEXTS = ("goal", "response")
BLURRED = "#pairs .text { filter: blur(4px); }"
ALONE = (
    "section, nav, footer, .verdict { display: none !important; } section#%s { display: block !important; margin: 0; }"
)
SHOTS = {"report": ("", 960), "attacks": ("attacks", 640), "conversations": ("conversations", 900)}
"""Parts of the report: the only section that is left (empty: the first screen), and the height in pixels."""
WIDTH = 1200


def filled(text: str, letters: Iterator[str]) -> str:
    """The same shape of text, of other letters."""
    return re.sub(r"[^\W\d_]", lambda _: next(letters), text)


def unreadable(row: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt without a word of what was asked and said; its tokens still add up to its response."""
    out = dict(row)
    for name in TEXTS:
        out[name] = filled(out[name], cycle(FILLING))
    letters = cycle(FILLING)
    out["tokens"] = [filled(token, letters) for token in out["tokens"]]
    out["messages"] = [{**m, "content": filled(m["content"], cycle(FILLING))} for m in out["messages"]]
    return out


def without_words(run: Path, target: Path) -> Path:
    """A copy of a run folder's results in which no conversation can be read."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns(*NOT_RUNS))
    for path in target.glob("*attempts.jsonl"):
        rows = [unreadable(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return target


def alone(page: str, section: str) -> str:
    """A report with one section alone, conversations blurred, without the policy that forbids other styles."""
    page, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    if policies != 1 or "</head>" not in page:
        raise ValueError("this is no report")
    style = BLURRED + (ALONE % section if section else "")
    return page.replace("</head>", f"<style>{style}</style></head>", 1)


def runs_page(root: Path) -> str:
    """The first page of `sirl view`, with its styles in it."""
    page = pages.index(root, find_runs(root))
    for sheet in (REPORT / "report.css", pages.HERE / "view.css"):
        page = page.replace(f'<link rel="stylesheet" href="/{sheet.name}">', f"<style>{sheet.read_text()}</style>")
    return page


def shoot(page: str, height: int, work: Path) -> bytes:
    """A page as PNG."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        raise SystemExit(f"needs one of {', '.join(NAMES)}")
    source, target = work / "page.html", work / "page.png"
    source.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={work / 'profile'}"]
    size = [f"--window-size={WIDTH},{height}", f"--screenshot={target}"]
    subprocess.run([browser, *flags, *size, source.as_uri()], check=True, capture_output=True, timeout=300)
    return target.read_bytes()


def small(picture: bytes) -> bytes:
    """The same with few colours."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(out, "PNG", optimize=True)
    if len(out.getvalue()) > LARGEST:
        raise SystemExit(f"a picture of {len(out.getvalue()):,} bytes; at most {LARGEST:,}")
    return out.getvalue()


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder")
    run = parser.parse_args().run
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        figures, talk = (
            render_report(folder, work / f"{folder.name}.html").read_text(encoding="utf-8")
            for folder in (run, without_words(run, work / "unreadable" / run.resolve().name))
        )
        made = {
            part: (alone(talk if part == "conversations" else figures, section), height)
            for part, (section, height) in SHOTS.items()
        }
        made["view"] = (runs_page(run.resolve().parent), 480)
        for part, (page, height) in made.items():
            (FOLDER / f"{part}.png").write_bytes(small(shoot(page, height, work)))
            print(FOLDER / f"{part}.png")


if __name__ == "__main__":
    main()
