"""Charts as inline SVG, without a script or a file of their own.

Horizontal positions are percentages and vertical ones pixels, so that a chart fills whatever width it is given while
its text, dots and line widths keep their size: one drawing serves a desktop, a phone and paper. Lines that need a path
stand in a nested `<svg>` that is stretched, with strokes that do not scale. Colours come from classes in report.css.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import starmap

from markupsafe import Markup, escape

from sirl.report.samples import visible
from sirl.results.values import AnyShare

ROW_HEIGHT = 36
Point = tuple[float, float]
Attributes = dict[str, str | float | None]


def element(name: str, *children: Markup | str, **attributes: str | float | None) -> Markup:
    """One SVG or HTML element, attributes and text escaped; `class_` is `class`, other underscores become hyphens."""
    pairs = (("class" if k == "class_" else k.replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    named = "".join(f' {k}="{escape(visible(v if isinstance(v, str) else _number(v)))}"' for k, v in pairs)
    inner = "".join(c if isinstance(c, Markup) else str(escape(visible(c))) for c in children)
    return Markup(f"<{name}{named}>{inner}</{name}>")  # every part is escaped above


def join_markup(parts: Sequence[Markup]) -> Markup:
    """Parts one after the other."""
    return Markup("").join(parts)


def _number(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")


def percent(fraction: float | None, digits: int = 1) -> str:
    """A rate as text: 97.1%; an en dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}%"


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from `low` or below to `high` or above; a flat range is widened.

    Raises:
        ValueError: a bound is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("ticks need finite bounds")
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if abs(low) > 1e-9 else (0.0, 1.0)
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


# --- rates before and after -------------------------------------------------------------------------------------------


def dumbbell_row(label: str, before: AnyShare | None, after: AnyShare | None, top: float) -> Markup:
    """One line of a dumbbell chart: both rates with their interval on an axis from 0 to `top`.

    `before` is a hollow dot in the upper half and `after` a filled one in the lower, so that they differ without colour
    and their whiskers never overlap.
    """
    grid = [element("line", x1=f"{25 * i}%", x2=f"{25 * i}%", y1=0, y2=ROW_HEIGHT, class_="grid") for i in range(5)]
    marks = []
    pair = (("before", before, 13), ("after", after, 23))
    spots = [(phase, rate.n, rate.ends, y) for phase, rate, y in pair if rate and rate.ends]
    if len(spots) == 2:
        (*_, first, y1), (*_, last, y2) = spots
        ends: Attributes = {"x1": _at(first[0], top), "x2": _at(last[0], top), "y1": y1, "y2": y2}
        marks.append(element("line", **ends, class_="connector"))
    marks += [_dot(phase, found, n, y, top) for phase, n, found, y in spots]
    spoken = "; ".join(f"{phase} {_interval(found, n)}" for phase, n, found, _ in spots) or "not scored"
    drawing: Attributes = {"width": "100%", "height": ROW_HEIGHT, "role": "img", "aria_label": f"{label}: {spoken}"}
    return element("svg", *grid, *marks, **drawing)


def _dot(phase: str, found: tuple[float, float, float], n: int, y: float, top: float) -> Markup:
    value, low, high = (_at(end, top) for end in found)
    return element(
        "g",
        element("title", f"{phase}: {_interval(found, n)}"),
        element("line", x1=low, x2=high, y1=y, y2=y, class_="whisker"),
        element("circle", cx=value, cy=y, r=5, class_="dot"),
        class_=phase,
    )


def _interval(found: tuple[float, float, float], n: int) -> str:
    value, low, high = map(percent, found)
    return f"{value} ({low} to {high}, n={n})"


def _at(value: float, top: float) -> str:
    return f"{_number(100 * min(value, top) / top)}%"


def axis_top(rates: Sequence[AnyShare | None]) -> float:
    """End of the axis for some rates: 100%, or less where all intervals are short of it, so that small rates show."""
    highest = max((r.high for r in rates if r and r.high is not None), default=1.0)
    return next((t for t in (0.1, 0.2, 0.4, 0.6, 0.8) if highest <= t), 1.0)


def percent_axis(top: float) -> Markup:
    """The labels under a dumbbell chart."""
    ends = {0: "start", 4: "end"}
    labels = [
        element("text", percent(top * i / 4, 0 if top * 25 % 1 == 0 else 1), x=f"{25 * i}%", y=13, text_anchor=a)
        for i, a in ((i, ends.get(i, "middle")) for i in range(5))
    ]
    return element("svg", *labels, width="100%", height=18, class_="axis", aria_hidden="true")


# --- distributions and curves -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """A named line or distribution; `kind` is its class in the style sheet."""

    name: str
    kind: str
    values: Sequence[float]


def histogram(series: Sequence[Series], *, unit: str, bins: int = 28, height: int = 210) -> Markup:
    """Overlaid distributions as shares of each series, with their means; values beyond the 99.5th percentile are cut.

    Raises:
        ValueError: no series has a value.
    """
    pooled = sorted(v for s in series for v in s.values)
    if not pooled:
        raise ValueError("a histogram needs values")
    ticks = nice_ticks(0.0, max(pooled[min(len(pooled) - 1, int(0.995 * len(pooled)))], 1e-6), 5)
    top = ticks[-1]
    shares = {s.name: _shares(s.values, top, bins) for s in series if s.values}
    peak = max(max(x) for x in shares.values()) * 1.12
    areas, means = [], []
    for number, s in enumerate(s for s in series if s.values):
        path = _steps(shares[s.name], peak, height)
        areas += [
            element("path", d=path + "Z", class_=f"area {s.kind}"),
            element("path", d=path, class_=f"line {s.kind}"),
        ]
        means.append(_mean_mark(s, top, height, number))
    stretched: Attributes = {
        "width": "100%",
        "height": height,
        "viewBox": f"0 0 1000 {height}",
        "preserveAspectRatio": "none",
    }
    plot = element("svg", *areas, **stretched)
    grid = [_vertical(t / top, height) for t in ticks]
    names = ", ".join(f"{s.name} mean {sum(s.values) / len(s.values):.3f} {unit}" for s in series if s.values)
    body = [*grid, plot, *means, _x_labels([(t / top, f"{t:g}") for t in ticks], height + 15)]
    return element("svg", *body, width="100%", height=height + 22, role="img", aria_label=names, class_="plot")


def _shares(values: Sequence[float], top: float, bins: int) -> list[float]:
    counts = [0] * bins
    for v in values:
        counts[max(0, min(bins - 1, int(v / top * bins)))] += 1
    return [c / len(values) for c in counts]


def _steps(shares: Sequence[float], peak: float, height: float) -> str:
    width = 1000 / len(shares)
    parts = [f"M0 {height}"]
    for i, share in enumerate(shares):
        y = _number(height * (1 - share / peak))
        parts.append(f"L{_number(i * width)} {y}L{_number((i + 1) * width)} {y}")
    return "".join(parts) + f"L1000 {height}"


def _mean_mark(series: Series, top: float, height: float, number: int) -> Markup:
    mean = sum(series.values) / len(series.values)
    x = min(mean / top, 1.0)
    y = 14 + 18 * number
    left = x > 0.6  # the label goes where there is room
    label = element(
        "text",
        f"{series.name}: {mean:.2f}",
        x=f"{_number(100 * x)}%",
        y=y,
        dx=-6 if left else 6,
        text_anchor="end" if left else "start",
        class_="mean-label",
    )
    where: Attributes = {"x1": f"{_number(100 * x)}%", "x2": f"{_number(100 * x)}%", "y1": y - 10, "y2": height}
    return element("g", element("line", **where, class_="mean"), label, class_=series.kind)


def _vertical(x: float, height: float) -> Markup:
    where = f"{_number(100 * x)}%"
    return element("line", x1=where, x2=where, y1=0, y2=height, class_="grid")


def _x_labels(labels: Sequence[tuple[float, str]], y: float) -> Markup:
    anchors = ["start" if x <= 0.001 else "end" if x >= 0.999 else "middle" for x, _ in labels]
    return join_markup(
        [
            element("text", text, x=f"{_number(100 * x)}%", y=y, text_anchor=anchor, class_="tick")
            for (x, text), anchor in zip(labels, anchors, strict=True)
        ]
    )


def curve(label: str, lines: Sequence[tuple[str, Sequence[Point]]], height: int = 120) -> Markup:
    """One or more lines, `(class, [(x, y), ...])`, with round values at the grid lines and the first and last x.

    Points that are not finite are left out.

    Raises:
        ValueError: no line has a finite point.
    """
    kept = [(kind, [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]) for kind, points in lines]
    points = [p for _, ps in kept for p in ps]
    if not points:
        raise ValueError("a curve needs points")
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points), 3)
    low, high = ticks[0], ticks[-1]
    pad = 6.0

    def place(point: Point) -> Point:
        across = (point[0] - x0) / (x1 - x0) if x1 > x0 else 0.5
        return across, pad + (height - 2 * pad) * (1 - (point[1] - low) / (high - low))

    parts = [_horizontal(place((x0, t))[1]) for t in ticks]
    paths = [_line(kind, [place(p) for p in ps]) for kind, ps in kept if len(ps) > 1]
    stretched: Attributes = {
        "width": "100%",
        "height": height,
        "viewBox": f"0 0 1000 {height}",
        "preserveAspectRatio": "none",
    }
    parts.append(element("svg", *paths, **stretched))
    for kind, ps in kept:
        parts += [_end_dot(kind, *place(p)) for p in ps[-1:]]
    ends = [(0.0, f"{x0:g}"), (1.0, f"{x1:g}")] if x1 > x0 else [(0.5, f"{x0:g}")]
    parts.append(_x_labels(ends, height + 13))
    drawing = element("svg", *parts, width="100%", height=height + 18, role="img", aria_label=label)
    return element("div", _y_labels([(place((x0, t))[1], t) for t in ticks], height + 18), drawing, class_="curve")


def _y_labels(labels: Sequence[tuple[float, float]], height: float) -> Markup:
    """A column of its own beside the drawing: its width must not scale."""
    texts = [
        element("text", f"{v:g}" if abs(v) < 1e5 else f"{v:.1e}", x="100%", y=y + 3.5, text_anchor="end", class_="tick")
        for y, v in labels
    ]
    return element("svg", *texts, width=38, height=height, aria_hidden="true")


def _horizontal(y: float) -> Markup:
    return element("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid")


def _line(kind: str, places: Sequence[Point]) -> Markup:
    path = "L".join(f"{_number(1000 * x)} {_number(y)}" for x, y in places)
    return element("path", d=f"M{path}", class_=f"line {kind}")


def _end_dot(kind: str, x: float, y: float) -> Markup:
    return element("circle", cx=f"{_number(100 * x)}%", cy=y, r=3.5, class_=f"end {kind}")


def trail(label: str, points: Sequence[tuple[float, float, str]], chosen: int | None, height: int = 260) -> Markup:
    """A line through named points `(x, y, name)` in the order given, both axes in percent; the chosen one is ringed.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("a trail needs points")
    across_all, up_all = [x for x, _, _ in points], [y for _, y, _ in points]
    ticks_x, ticks_y = (nice_ticks(min(values), max(values), 4) for values in (across_all, up_all))
    plane = _Plane(ticks_x, ticks_y, height)
    parts = [plane.path([(x, y) for x, y, _ in points])]
    for i, (x, y, name) in enumerate(points):
        across, down = plane.place(x, y)
        where: Attributes = {"cx": f"{_number(100 * across)}%", "cy": down}
        title = element("title", f"{name}: DSR {_number(y)}%, over-refusal {_number(x)}%")
        parts.append(element("circle", title, r=4, class_="end main", **where))
        if i == chosen:
            parts.append(element("circle", r=9, class_="ring", **where))
        if i in (0, chosen, len(points) - 1):
            left = across > 0.7
            side: Attributes = {"dx": -13 if left else 13, "text_anchor": "end" if left else "start"}
            parts.append(element("text", name, x=where["cx"], y=down + 4, class_="mean-label", **side))
    return plane.drawn(label, parts)


@dataclass(frozen=True)
class _Plane:
    """Two axes in percent, by their round values: where points stand, and what is drawn around them."""

    ticks_x: Sequence[float]
    ticks_y: Sequence[float]
    height: int

    def place(self, x: float, y: float) -> Point:
        """How far across (a share), and how far down (pixels)."""
        pad, left, right, low, high = 10.0, self.ticks_x[0], self.ticks_x[-1], self.ticks_y[0], self.ticks_y[-1]
        return (x - left) / (right - left), pad + (self.height - 2 * pad) * (1 - (y - low) / (high - low))

    def path(self, points: Sequence[Point]) -> Markup:
        """A line through points."""
        stretched: Attributes = {"viewBox": f"0 0 1000 {self.height}", "preserveAspectRatio": "none"}
        line = _line("main", list(starmap(self.place, points)))
        return element("svg", line, width="100%", height=self.height, **stretched)

    def drawn(self, label: str, marks: Sequence[Markup]) -> Markup:
        """Marks over the grid, between the labels of the axes."""
        left, low = self.ticks_x[0], self.ticks_y[0]
        grid = [_horizontal(self.place(left, t)[1]) for t in self.ticks_y]
        grid += [_vertical(self.place(t, low)[0], self.height) for t in self.ticks_x]
        below = _x_labels([(self.place(t, low)[0], f"{t:g}%") for t in self.ticks_x], self.height + 14)
        whole: Attributes = {"width": "100%", "height": self.height + 20, "role": "img", "aria_label": label}
        beside = _y_labels([(self.place(left, t)[1], t) for t in self.ticks_y], self.height + 20)
        return element("div", beside, element("svg", *grid, *marks, below, **whole), class_="curve")


# --- safety against helpfulness -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """A named point with its intervals, both axes in percent, the points of which it is the mean, and whether no other
    point is better on both axes."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    seeds: Sequence[Point]
    best: bool


def scatter(label: str, spots: Sequence[Spot], height: int = 380, across: str = "over-refusal") -> Markup:
    """DSR (up) against a price (across): means large with whiskers, filled where best, and single seeds small.

    Spots have value, low and high by axis. Names stand beside the means, moved down where they would overlap.

    Raises:
        ValueError: there are no spots.
    """
    if not spots:
        raise ValueError("a scatter needs spots")
    ticks_x, ticks_y = (_ticks_of([getattr(s, axis) for s in spots]) for axis in "xy")
    plane = _Plane(ticks_x, ticks_y, height)
    parts = [plane.path(sorted((s.x[0], s.y[0]) for s in spots if s.best))]
    parts += [_spot(s, plane.place, across) for s in spots]
    taken: list[Point] = []
    for s in sorted(spots, key=lambda s: -s.y[0]):
        parts.append(_name_beside(s.name, plane.place(s.x[0], s.y[0]), taken))
    return plane.drawn(label, parts)


def _ticks_of(values: Sequence[tuple[float, float, float]]) -> list[float]:
    return nice_ticks(min(low for _, low, _ in values), max(high for _, _, high in values), 4)


def _spot(spot: Spot, place: Callable[[float, float], Point], price: str) -> Markup:
    across, down = place(spot.x[0], spot.y[0])
    (left, top), (right, bottom) = place(spot.x[1], spot.y[2]), place(spot.x[2], spot.y[1])
    where = f"{_number(100 * across)}%"
    title = f"{spot.name}: DSR {_number(spot.y[0])}%, {price} {_number(spot.x[0])}%"
    ends = (f"{_number(100 * left)}%", f"{_number(100 * right)}%")
    return element(
        "g",
        element("title", title),
        element("line", x1=ends[0], x2=ends[1], y1=down, y2=down, class_="whisker"),
        element("line", x1=where, x2=where, y1=top, y2=bottom, class_="whisker"),
        *(
            element("circle", cx=f"{_number(100 * x)}%", cy=y, r=2.5, class_="seed")
            for x, y in starmap(place, spot.seeds)
        ),
        element("circle", cx=where, cy=down, r=6, class_="dot"),
        class_="after" if spot.best else "before",
    )


def _name_beside(name: str, at: Point, taken: list[Point]) -> Markup:
    across, down = at
    while any(abs(across - x) < 0.25 and abs(down - y) < 14 for x, y in taken):
        down += 2
    taken.append((across, down))
    left = across > 0.7
    side: Attributes = {"dx": -11 if left else 11, "text_anchor": "end" if left else "start"}
    return element("text", name, x=f"{_number(100 * across)}%", y=down - 6, class_="spot-name", **side)
