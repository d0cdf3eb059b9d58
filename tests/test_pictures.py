"""The tutorial's pictures: there, small, and made of pages on which no conversation can be read."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from dev import pictures
from report_runs import attack_rows, benign_rows, wrapped_rows, write_run
from sirl.report import render_report

TUTORIAL = pictures.ROOT / "docs" / "tutorial.md"


def shown(page: Path) -> str:
    """The text of a page, that of templates too."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_tutorial_shows_every_picture() -> None:
    shown = set(re.findall(r"\]\(pictures/(\w+)\.png\)", TUTORIAL.read_text(encoding="utf-8")))
    assert shown == {*pictures.SHOTS, "view"} == {path.stem for path in pictures.FOLDER.iterdir()}


@pytest.mark.parametrize("path", sorted(pictures.FOLDER.glob("*.png")), ids=lambda path: path.stem)
def test_pictures_are_small(path: Path) -> None:
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size <= pictures.LARGEST


def test_no_conversation_can_be_read(tmp_path: Path) -> None:
    rows = attack_rows(4, {"aim": (0.3, 0.7)})
    nothing = dict.fromkeys(("metrics", "gap", "gap_samples"))
    run = write_run(tmp_path / "run", attacks=rows, benign=benign_rows(2), wrapped=wrapped_rows(1), **nothing)
    words = [row[0] for row in rows]
    copy = pictures.without_words(run, tmp_path / "copy")
    before, page = (shown(render_report(folder)) for folder in (run, copy))
    assert words[0].response in before
    for attempt in words:
        assert attempt.response not in page
        assert attempt.goal not in page
        assert all(m["content"] not in page for m in attempt.messages)
    for line in (copy / "attempts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert not row["tokens"] or "".join(row["tokens"]).startswith(row["response"][:10])


def test_only_a_report_is_taken() -> None:
    with pytest.raises(ValueError, match="no report"):
        pictures.alone("<html><head></head></html>", "attacks")
