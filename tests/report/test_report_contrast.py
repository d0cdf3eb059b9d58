"""Contrast of the pages' colours, as WCAG 2.2 counts it (1.4.3 and 1.4.11), from the style sheets themselves.

A checker in a browser gives no answer where a text lies on a gradient or in a drawing, which most of ours do.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sirl

HERE = Path(sirl.__file__).parent
SHEETS = {name: (HERE / name).read_text(encoding="utf-8") for name in ("report/report.css", "view/view.css")}
RULES = [rule for css in SHEETS.values() for rule in re.findall(r"([^{}]+)\{([^{}]*)\}", css)]
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(
        r"--(\w+): light-dark\(#([0-9a-f]{6}), #([0-9a-f]{6})\)", SHEETS["report/report.css"]
    )
}
TONES = set(re.findall(r"--tone: var\(--(\w+)\)", SHEETS["report/report.css"]))
FILLS_OF_TEXT = re.compile(r"text\b|label\b|name\b")
Colour = tuple[float, float, float]


def colour(name: str, dark: bool) -> Colour:
    text = COLOURS[name][dark]
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def mixed(top: Colour, share: float, under: Colour) -> Colour:
    red, green, blue = (share * a + (1 - share) * b for a, b in zip(top, under, strict=True))
    return red, green, blue


def luminance(of: Colour) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in of)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: Colour, b: Colour) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def used(properties: str, only: re.Pattern[str] | None = None) -> set[str]:
    """The colours that rules give to some properties; `--tone` stands for several."""
    found = {
        name
        for selector, body in RULES
        if only is None or only.search(selector)
        for name in re.findall(rf"(?:^|[;\s])(?:{properties}):[^;]*var\(--(\w+)\)", body)
    }
    return (found - {"tone"} | TONES) if "tone" in found else found


def test_the_measure_itself() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    grey = 0x76 / 255
    assert contrast((grey, grey, grey), (1, 1, 1)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(dark: bool) -> None:
    texts = used("color") | used("fill", FILLS_OF_TEXT)
    assert {"ink", "muted", "after", "good", "bad", "safe", "unsafe"} <= texts
    found = {
        (text, ground): contrast(colour(text, dark), colour(ground, dark))
        for text in texts
        for ground in ("paper", "raised")
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("dark", [False, True])
def test_tokens_can_be_read_on_every_shade(dark: bool) -> None:
    shades = re.findall(
        r"\.e(\d) \{ background: color-mix\(in srgb, var\(--heat\) (\d+)%, transparent\)", SHEETS["report/report.css"]
    )
    assert [int(level) for level, _ in shades] == [1, 2, 3, 4, 5, 6, 7]
    ink = colour("ink", dark)
    for _, share in shades:
        shade = mixed(colour("heat", dark), int(share) / 100, colour("paper", dark))
        assert contrast(ink, shade) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_lines_dots_and_fields_can_be_seen(dark: bool) -> None:
    fields = {
        name
        for selector, body in RULES
        if re.search(r"select|input", selector)
        for name in re.findall(r"border:[^;]*var\(--(\w+)\)", body)
    }
    decoration = {"rule", "grid", "paper"}  # lines that only part one row from the next, and what hides what is behind
    seen = (used("stroke|fill") - decoration) | fields
    assert {"before", "after", "safe", "unsafe"} <= seen
    assert fields
    for name in seen:
        assert contrast(colour(name, dark), colour("paper", dark)) >= 3, name
