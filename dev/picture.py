"""README's picture: DSR against adversarial benign prompts refused, drawn from docs/results/ as SVG, light and dark.

    python -m dev.picture          needs matplotlib (extra `docs`)

Each file names the data that it was drawn from by a hash, so that a test notices a picture that is out of date.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dev.results import FOLDER, ROOT, read

RUNS = ("demo", "qwen2.5-coder-0.5b")
RIVALS = "compare"
THEMES = {
    "light": {"ink": "#1a1f24", "muted": "#5b6670", "rule": "#dfe3e7", "accent": "#0067a8", "second": "#c04f00"},
    "dark": {"ink": "#e6e9ec", "muted": "#9aa5b0", "rule": "#313840", "accent": "#56b4e9", "second": "#f08a4b"},
}
PLACES = {
    "Base model": (-9, 2),
    "DPO on its own refusals and answers": (-9, -11),
    "Self-reminder system prompt": (7, 3),
    "Best of 4 by entropy": (9, -4),
    "SFT on its own refusals": (5, -15),
    "GRPO with the judge as reward": (9, -4),
    "SIRL with retention, no pairs": (-9, -4),
    "SIRL as published": (8, -21),
}
"""Where a name stands from its point, so that none covers another."""
SHORT = {
    "DPO on its own refusals and answers": "DPO",
    "SFT on its own refusals": "SFT",
    "GRPO with the judge as reward": "GRPO with a judge",
    "Self-reminder system prompt": "system prompt",
    "Base model": "base model",
    "Best of 4 by entropy": "best of 4 by entropy",
    "SIRL with retention, no pairs": "SIRL without pairs",
}


def digest() -> str:
    """A short hash of the numbers that the picture shows."""
    return hashlib.sha256(json.dumps(points()).encode()).hexdigest()[:12]


def points() -> dict[str, Any]:
    """(adversarial benign refused, DSR) of each method, and before and after of each run."""
    rows = read(RIVALS)
    cost, dsr = rows["columns"].index("adversarial benign refused"), rows["columns"].index("DSR")
    found: dict[str, Any] = {row[0]: (row[cost], row[dsr][0]) for row in rows["rows"]}
    for name in RUNS:
        run = read(name)
        pair = [run["figures"][key] for key in ("adversarial_benign", "dsr")]
        found[run["title"]] = [[axis[phase][0] for axis in pair] for phase in ("before", "after")]
    return found


def draw(theme: str) -> Path:
    """Write one picture; returns its path."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "sirl", "font.family": "DejaVu Sans", "font.size": 10.5})
    import matplotlib.pyplot as plt

    colours = THEMES[theme]
    figure, axes = plt.subplots(figsize=(8.4, 4.7))
    figure.patch.set_alpha(0)
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(colours["rule"])
    axes.grid(color=colours["rule"], linewidth=0.8)
    axes.tick_params(colors=colours["muted"], length=0)
    axes.set_axisbelow(True)
    axes.set_xlim(-5, 103)
    axes.set_ylim(0, 105)
    axes.set_xticks(range(0, 101, 20))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}%")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0f}%")
    axes.set_xlabel("adversarial benign prompts refused: the price", color=colours["muted"])
    axes.set_ylabel("static attacks refused (DSR)", color=colours["muted"])
    axes.text(-4, 102, "↖ better", color=colours["muted"], va="top")
    key = "○ before   ● after\n■ bundled model, other methods,\n    older runs without pairs"
    axes.text(102, 3, key, color=colours["muted"], ha="right", fontsize=9.5, linespacing=1.5)
    for name, where in points().items():
        if isinstance(where, list):
            _run(axes, name, where, colours["accent" if name == read(RUNS[0])["title"] else "second"])
        else:
            _rival(axes, name, where, colours)
    path = ROOT / "docs" / f"tradeoff-{theme}.svg"
    figure.savefig(path, metadata={"Date": None, "Description": f"docs/results {digest()}"}, bbox_inches="tight")
    plt.close(figure)
    return path


def _run(axes: Any, name: str, where: list[list[float]], colour: str) -> None:
    """An arrow from the base model to the hardened one."""
    (x, y), (x2, y2) = ([100 * value for value in point] for point in where)
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 6, "shrinkB": 6}
    axes.annotate("", (x2, y2), (x, y), arrowprops=arrow)
    axes.plot(x, y, "o", color=colour, markerfacecolor="none", markersize=8, markeredgewidth=2)
    axes.plot(x2, y2, "o", color=colour, markersize=9)
    beside_the_start = y < 40  # where no other method is, and the picture has room
    axes.annotate(
        f"SIRL with pairs:\n{name}",
        (x, y) if beside_the_start else (x2, y2),
        (11, -5) if beside_the_start else (9, 2),
        textcoords="offset points",
        color=colour,
        fontweight="bold",
    )


def _rival(axes: Any, name: str, where: tuple[float, float], colours: dict[str, str]) -> None:
    x, y = (100 * value for value in where)
    axes.plot(x, y, "s", color=colours["muted"], markersize=6)
    right, up = PLACES[name]
    axes.annotate(
        SHORT.get(name, name), (x, y), (right, up), textcoords="offset points", color=colours["muted"],
        ha="left" if right > 0 and x < 95 else "right", fontsize=9.5,
    )  # fmt: skip


def main() -> None:
    """Draw both."""
    assert FOLDER.is_dir()
    for theme in THEMES:
        print(draw(theme).relative_to(ROOT))


if __name__ == "__main__":
    main()
