"""The entropy gap for people: in words, as a terminal table, as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from sirl.gap.types import (
    Basis,
    Comparison,
    GapConfig,
    GapResult,
    LengthCheck,
    PromptClass,
    Status,
    ToldApart,
    WithinPrompt,
)

if TYPE_CHECKING:
    from rich.table import Table

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 56, 44
COLOURS = {"refused": ("#1a7f6b", "#4fd1b3"), "answered": ("#c2512f", "#ff9470")}
"""Colour of each class on light and on dark ground; told apart by people who see no red or green too."""


def explain(
    verdict: Status,
    basis: Basis,
    overall: Comparison,
    length: LengthCheck,
    within: WithinPrompt,
    compared: PromptClass,
    config: GapConfig,
) -> str:
    """The verdict in a few sentences of plain words, with the difference that it rests on first."""
    n = f"{overall.n_refused} refused and {overall.n_answered} answered responses to {compared} prompts"
    if verdict == "too few" and compared == "unlabeled" and min(overall.n_refused, overall.n_answered) > 0:
        return (
            f"Too few to tell: {n}, but only {within.mixed} of {within.prompts} prompts got both kinds, and "
            f"{config.min_per_class} are needed. Of prompts that nobody has labelled, a difference between prompts "
            "says nothing: answers to the benign ones may make it. Use more prompts, a larger k, or harmful prompts."
        )
    if verdict == "too few":
        return (
            f"Too few to tell: {n}, and both classes need {config.min_per_class} from several prompts. "
            "Use more prompts or a larger k; a model that always or never refuses has nothing to compare."
        )
    rests, whole = (within, f"within the {within.mixed} prompts that got both") if basis == "within" else (overall, n)
    found = (
        f"answers are {rests.difference:+.3f} nats against refusals "
        f"({config.level:.0%} interval {rests.low:+.3f} to {rests.high:+.3f}; {whole})"
    )
    lead = {
        "present": "There is an instinct to train: ",
        "absent": "No clear gap, so confidence is a weak teacher here: ",
        "reversed": "The gap is reversed, so training on confidence would teach compliance: ",
    }[verdict]
    text = f"{lead}{found}."
    if basis == "within":
        text += f" This rests on what group-relative training sees. Between prompts: {overall.difference:+.3f} ({n})."
        if overall.low is not None and overall.low > 0 and verdict != "present":
            text += " That is a difference of the prompts, not of the responses to them."
    else:
        text += (
            f" This rests on the difference between prompts: only {within.mixed} got both kinds of response, and what "
            "training sees is the difference within them."
        )
    same = length.adjusted_difference
    if verdict != "absent" and same is not None and overall.difference and same * overall.difference <= 0:
        text += f" At equal length nothing of the difference is left ({same:+.3f}): it may be one of length."
    return text


def explain_told_apart(told: ToldApart) -> str:
    """What training can build on, in words."""
    return (
        f"The model's own refusals tell harmful from benign prompts with AUROC {told.auroc:.2f} ({told.low:.2f} to "
        f"{told.high:.2f}): it refuses {told.harmful_refused:.0%} of the harmful and {told.benign_refused:.0%} of the "
        "benign ones. This is the decision that training sharpens. The nearer to 0.5, the more benign prompts will be "
        "refused along with the harmful ones."
    )


def render_gap_table(result: GapResult) -> Table:
    """The figures as a table for a terminal of 80 columns. Names of categories are the user's, and shown as text."""
    from rich.table import Table
    from rich.text import Text

    length, within = result.length, result.within_prompt
    tokens = " and ".join(_number(x, ".0f") for x in (length.mean_refused, length.mean_answered))
    caption = (
        f"{result.explanation}\nMean token entropies in nats, answered minus refused. Refused and answered responses "
        f"have {tokens} tokens; correlation of entropy and length {_number(length.spearman, '+.2f')}."
    )
    if result.told_apart:
        caption += f"\n{explain_told_apart(result.told_apart)}"
    table = Table(
        title=Text(f"Entropy gap: {result.verdict}"),
        caption=Text(caption),
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for name in ("refused", "answered", "gap", "interval", "p", "AUROC"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, *cells: str) -> None:
        table.add_row(Text(name), *cells)

    add(result.compared, *_cells(result.overall))
    add(f"  first {result.config.prefix_tokens} tokens", *_cells(result.prefix))
    same_length = _interval(length.adjusted_low, length.adjusted_high)
    add("  at equal length", "", "", _number(length.adjusted_difference, "+.3f"), same_length)
    same_prompt = _interval(within.low, within.high)
    add(f"  same prompt ({within.mixed})", "", "", _number(within.difference, "+.3f"), same_prompt)
    for name, part in result.by_category.items():
        add(f"  {name}", *_cells(part))
    for kind, part in result.by_kind.items():
        if kind != result.compared:
            add(kind, *_cells(part))
    return table


def _cells(part: Comparison) -> list[str]:
    refused = f"{_number(part.mean_refused, '.3f')} ({part.n_refused})"
    answered = f"{_number(part.mean_answered, '.3f')} ({part.n_answered})"
    p = "" if part.p is None else "<0.001" if part.p < 0.001 else f"{part.p:.3f}"
    gap = _number(part.difference, "+.3f")
    return [refused, answered, gap, _interval(part.low, part.high), p, _number(part.auroc, ".2f")]


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, spec)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


def gap_svg(result: GapResult) -> str:
    """Distribution of the mean entropies of both classes, as a standalone SVG for light and dark pages.

    Heights are shares of a class, so that classes of different sizes compare; dashed lines are the class means.
    """
    edges = result.histogram["edges"]
    shares = {name: _shares(result.histogram[name]) for name in COLOURS}
    top = max((max(values, default=0.0) for values in shares.values()), default=0.0) or 1.0
    means = {"refused": result.overall.mean_refused, "answered": result.overall.mean_answered}
    counts = {"refused": result.overall.n_refused, "answered": result.overall.n_answered}
    parts = [_outline(name, edges, values, top) for name, values in shares.items()]
    for i, (name, mean) in enumerate(means.items()):
        if mean is not None:
            x = _x(mean, edges)
            parts.append(f'<line class="{name} mean" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        label = f"{name}: mean {_number(mean, '.3f')} (n {counts[name]})"
        parts.append(f'<rect class="{name}" x="{LEFT + i * 250}" y="32" width="12" height="12"/>')
        parts.append(f'<text x="{LEFT + i * 250 + 18}" y="42">{escape(label)}</text>')
    title = f"Entropy gap on {result.compared} prompts: {result.verdict}"
    return "\n".join([_head(title, result.explanation), _axes(edges, top), *parts, "</svg>"])


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _x(value: float, edges: Sequence[float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - edges[0]) / (edges[-1] - edges[0])


def _y(share: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share / top


def _outline(name: str, edges: Sequence[float], shares: Sequence[float], top: float) -> str:
    """One class as a filled staircase."""
    points = [f"M{_x(edges[0], edges):.1f} {_y(0, top):.1f}"]
    for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True):
        points.append(f"L{_x(left, edges):.1f} {_y(share, top):.1f}L{_x(right, edges):.1f} {_y(share, top):.1f}")
    points.append(f"L{_x(edges[-1], edges):.1f} {_y(0, top):.1f}Z")
    return f'<path class="{name}" d="{"".join(points)}"/>'


def _axes(edges: Sequence[float], top: float) -> str:
    """Baseline, ticks in nats below, shares at the left."""
    base = HEIGHT - BOTTOM
    lines = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for i in range(6):
        value = edges[0] + (edges[-1] - edges[0]) * i / 5
        lines.append(
            f'<text class="tick" text-anchor="middle" x="{_x(value, edges):.1f}" y="{base + 17}">{value:.2f}</text>'
        )
    for share in (top / 2, top):
        y = _y(share, top)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{share:.0%}</text>')
    place = f'text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}"'
    lines.append(f'<text class="tick" {place}>mean token entropy of a response, nats</text>')
    return "\n".join(lines)


def _head(title: str, description: str) -> str:
    """The opening tag with a style that follows the page: text in its colour, marks by its colour scheme."""
    light = "".join(f".gap .{name}{{fill:{shade};stroke:{shade}}}" for name, (shade, _) in COLOURS.items())
    dark = "".join(f".gap .{name}{{fill:{shade};stroke:{shade}}}" for name, (_, shade) in COLOURS.items())
    style = (
        ".gap{color-scheme:light dark;color:#222}.gap text{font:13px system-ui,sans-serif;fill:currentColor}"
        ".gap .title{font-weight:600;font-size:15px}.gap .tick{font-size:12px;opacity:.75}"
        ".gap .axis{stroke:currentColor;opacity:.6}.gap .grid{stroke:currentColor;opacity:.12}"
        ".gap path{fill-opacity:.32;stroke-width:1.5}.gap .mean{stroke-dasharray:5 4;stroke-width:2}"
        f"{light}@media(prefers-color-scheme:dark){{.gap{{color:#e6e6e6}}{dark}}}"
    )
    label = f'role="img" aria-label="{escape(title)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gap" viewBox="0 0 {WIDTH} {HEIGHT}" {label}>\n'
        f"<desc>{escape(description)}</desc>\n<style>{style}</style>\n"
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>'
    )
