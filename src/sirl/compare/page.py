"""`compare.html`: a comparison as one self-contained page, in the look of the report and as safe to open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sirl.compare.metrics import known_rates
from sirl.report.charts import Spot, axis_top, dumbbell_row, percent, percent_axis, scatter
from sirl.report.render import environment, frame
from sirl.results.values import Share

HERE = Path(__file__).parent
BARS = {"dsr": "Defence success rate", "over_refusal": "Benign prompts refused"}


def render_comparison(found: Mapping[str, Any]) -> str:
    """The page of what `compare.json` holds."""
    methods, model = found["methods"], found["model"]
    agree = [row["agrees"] for row in found["gap"] if row["agrees"] is not None]
    context = {
        **frame(),
        "found": found,
        "picture": _picture(found, "over_refusal", "on_front", "over-refusal"),
        "wrapped_picture": _picture(found, "wrapped", "on_wrapped_front", "refused in wrappings"),
        "bars": [_bars(found, name) for name in BARS],
        "rates": known_rates(methods),
        "front": [named(name, methods[name]) for name in found["front"]],
        "words": {name: standing(method, methods, model) for name, method in methods.items()},
        "others": [name for name, method in methods.items() if method["model"] != model],
        "agree": (sum(agree), len(agree)),
        "failed": [row for row in found["rows"] if row["status"] == "failed"],
        "rows": [row for row in found["rows"] if row["status"] == "done"],
    }
    return environment(HERE).get_template("compare.html.j2").render(**context).strip() + "\n"


def _picture(found: Mapping[str, Any], price: str, front: str, words: str) -> Markup | None:
    """DSR against a price, which `words` name; None where no method has both."""
    spots = [
        Spot(
            name,
            _percents(method[price]),
            _percents(method["dsr"]),
            [_seed(row, price) for row in found["rows"] if row["method"] == name and row.get("dsr") and row.get(price)],
            method[front],
        )
        for name, method in found["methods"].items()
        if method[front] is not None
    ]
    spoken = "; ".join(f"{s.name}: DSR {s.y[0]:.1f}%, {words} {s.x[0]:.1f}%" for s in spots)
    return scatter(spoken, spots, across=words) if spots else None


def _percents(figure: Mapping[str, float]) -> tuple[float, float, float]:
    return 100 * figure["mean"], 100 * figure["low"], 100 * figure["high"]


def _seed(row: Mapping[str, Any], price: str) -> tuple[float, float]:
    return 100 * row[price]["rate"], 100 * row["dsr"]["rate"]


def _bars(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Every method's rate with its interval, beside that of the model that its runs began with."""
    kept = {method: figures for method, figures in found["methods"].items() if figures[name]}
    rates = {method: _rate(figures[name]) for method, figures in kept.items()}
    starts = {m: _rate(f["start"][name]) if m != "none" and f["start"][name] else None for m, f in kept.items()}
    top = axis_top([*rates.values(), *starts.values()])
    rows = []
    for method, rate in rates.items():
        model = kept[method]["model"]
        label = method if model == found["model"] else f"{method}, from {model}"
        svg = dumbbell_row(label, starts[method], rate, top)
        rows.append({"label": label, "value": percent(rate.rate), "svg": svg})
    return {"title": BARS[name], "rows": rows, "axis": percent_axis(top)}


def _rate(figure: Mapping[str, Any]) -> Share:
    return Share(figure["mean"], figure["low"], figure["high"], figure["n"])


def named(name: str, method: Mapping[str, Any]) -> str:
    """A method's name; of one that refuses most benign prompts, which puts anybody on the front, with that said."""
    rate = method["over_refusal"]["mean"]
    return name if rate <= 0.5 else f"{name} (which refuses {percent(rate)} of the benign prompts)"


def standing(method: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], model: str) -> str:
    """Where a method stands among those that start from `model`, in words; a difference that the intervals leave open
    is said to be."""
    if method["on_front"] is None:
        away = f"not placed: starts from {method['model']}" if method["model"] != model else "not placed"
        return "failed" if method["failed"] and not method["dsr"] else away
    if method["on_front"]:
        return "on the front"
    return "dominated by " + ", ".join(
        other if _apart(methods[other], method) else f"{other} (intervals overlap)" for other in method["dominated_by"]
    )


def _apart(better: Mapping[str, Any], worse: Mapping[str, Any]) -> bool:
    """Whether the intervals of one of the two axes do not meet."""
    safer = better["dsr"]["low"] > worse["dsr"]["high"]
    return bool(safer or better["over_refusal"]["high"] < worse["over_refusal"]["low"])
