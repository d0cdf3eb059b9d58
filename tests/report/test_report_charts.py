"""Charts: positions by hand, and nothing that breaks the page."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from markupsafe import Markup

from sirl.report.charts import Series, axis_top, curve, dumbbell_row, element, histogram, nice_ticks, percent_axis
from sirl.results.values import Share


def rate(value: float | None, low: float | None = None, high: float | None = None) -> Share:
    return Share(value, low, high, 10)


def find(svg: Markup, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(str(svg)).iter(tag))


def test_element_escapes_text_and_attributes() -> None:
    got = element("text", '<b>"&\u202e', aria_label='"><script>')
    assert got == '<text aria-label="&#34;&gt;&lt;script&gt;">&lt;b&gt;&#34;&amp;⟨U+202E⟩</text>'


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1.0]), (0, 100, [0, 25, 50, 75, 100]), (-0.83, -0.21, [-1.0, -0.8, -0.6, -0.4, -0.2])],
)
def test_ticks_are_round_and_cover(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-9, 1e12])
def test_ticks_of_a_flat_line(value: float) -> None:
    ticks = nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1] or ticks[0] <= value <= ticks[-1]
    assert len(ticks) > 1


def test_ticks_need_finite_bounds() -> None:
    with pytest.raises(ValueError, match="finite"):
        nice_ticks(0, math.inf)


def test_dumbbell_places_dots_and_whiskers() -> None:
    svg = dumbbell_row("direct", rate(0.5, 0.4, 0.6), rate(0.9, 0.8, 1.0), top=1.0)
    assert [c.get("cx") for c in find(svg, "circle")] == ["50%", "90%"]
    whiskers = [e for e in find(svg, "line") if e.get("class") == "whisker"]
    assert [(e.get("x1"), e.get("x2")) for e in whiskers] == [("40%", "60%"), ("80%", "100%")]
    assert ET.fromstring(str(svg)).get("aria-label") == (
        "direct: before 50.0% (40.0% to 60.0%, n=10); after 90.0% (80.0% to 100.0%, n=10)"
    )


def test_dumbbell_without_a_rate() -> None:
    assert find(dumbbell_row("x", None, rate(None), top=1.0), "circle") == []
    assert len(find(dumbbell_row("x", None, rate(0.1, 0.0, 0.3), top=0.4), "circle")) == 1


def test_axis_ends_above_every_interval() -> None:
    assert axis_top([rate(0.02, 0.0, 0.09), None]) == 0.1
    assert axis_top([rate(0.2, 0.1, 0.61)]) == 0.8
    assert axis_top([rate(None)]) == axis_top([rate(0.9, 0.8, 0.95)]) == 1.0
    assert [t.text for t in find(percent_axis(0.4), "text")] == ["0%", "10%", "20%", "30%", "40%"]
    assert [t.text for t in find(percent_axis(0.1), "text")] == ["0.0%", "2.5%", "5.0%", "7.5%", "10.0%"]


def test_histogram_marks_means_and_survives_outliers() -> None:
    svg = histogram([Series("safe", "safe", [0.2] * 99 + [50.0]), Series("unsafe", "unsafe", [0.8, 1.0])], unit="nats")
    labels = [t.text for t in find(svg, "text") if t.get("class") == "mean-label"]
    assert labels == ["safe: 0.70", "unsafe: 0.90"]
    assert (
        len(find(histogram([Series("safe", "safe", []), Series("unsafe", "unsafe", [0.0])], unit="nats"), "path")) == 2
    )
    with pytest.raises(ValueError, match="values"):
        histogram([Series("safe", "safe", [])], unit="nats")


def test_curve_spans_its_axes() -> None:
    html = curve("loss", [("main", [(1, 0.0), (2, math.nan), (3, 1.0)])], height=100)
    (path,) = find(html, "path")
    assert path.get("d") == "M0 94L1000 6"  # 6 px of room at either end; the NaN is left out
    assert [t.text for t in find(html, "text")] == ["0", "0.5", "1", "1", "3"]


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 2.0), (2, 2.0)], [(5, 1e9), (6, -1e9)]])
def test_curve_of_few_or_flat_points(points: list[tuple[float, float]]) -> None:
    assert "nan" not in curve("x", [("main", points)])
    assert len(find(curve("x", [("main", points)]), "circle")) == 1


def test_curve_of_nothing() -> None:
    with pytest.raises(ValueError, match="points"):
        curve("x", [("main", [(1, math.nan)])])
