"""`compare.html`: a comparison as one self-contained page, in the look of the report and as safe to open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sirl.compare.metrics import known_rates
from sirl.compare.values import Comparison, Mean, MethodResult, RunResult
from sirl.report.charts import Spot, axis_top, dumbbell_row, percent, percent_axis, scatter
from sirl.report.render import environment, frame
from sirl.results.interface import made
from sirl.results.values import Share

HERE = Path(__file__).parent
BARS = {"dsr": "Defence success rate", "over_refusal": "Benign prompts refused"}


def render_comparison(content: Mapping[str, Any]) -> str:
    """The page of what `compare.json` holds."""
    found = made(Comparison, content)
    methods, model = found.methods, found.model
    agree = [row.agrees for row in found.gap if row.agrees is not None]
    context = {
        **frame(),
        "found": found,
        "picture": _picture(found, "over_refusal", "on_front", "over-refusal"),
        "wrapped_picture": _picture(found, "wrapped", "on_wrapped_front", "refused in wrappings"),
        "bars": [_bars(found, name) for name in BARS],
        "rates": known_rates(methods),
        "front": [named(name, methods[name]) for name in found.front],
        "words": {name: standing(method, methods, model) for name, method in methods.items()},
        "others": [name for name, method in methods.items() if method.model != model],
        "agree": (sum(agree), len(agree)),
        "failed": [row for row in found.rows if row.status == "failed"],
        "rows": [row for row in found.rows if row.status == "done"],
    }
    return environment(HERE).get_template("compare.html.j2").render(**context).strip() + "\n"


def _picture(found: Comparison, price: str, front: str, words: str) -> Markup | None:
    """DSR against a price, which `words` name; None where no method has both."""
    spots = [
        Spot(
            name,
            _percents(cost.share),
            _percents(method.dsr.share),
            [_seed(row, price) for row in found.rows if row.method == name and row.dsr and getattr(row, price)],
            getattr(method, front),
        )
        for name, method in found.methods.items()
        if getattr(method, front) is not None and method.dsr and (cost := getattr(method, price))
    ]
    spoken = "; ".join(f"{s.name}: DSR {s.y[0]:.1f}%, {words} {s.x[0]:.1f}%" for s in spots)
    return scatter(spoken, spots, across=words) if spots else None


def _percents(figure: Share) -> tuple[float, float, float]:
    value, low, high = figure.ends or (0.0, 0.0, 0.0)
    return 100 * value, 100 * low, 100 * high


def _seed(row: RunResult, price: str) -> tuple[float, float]:
    return 100 * getattr(row, price).rate, 100 * (row.dsr.rate or 0.0 if row.dsr else 0.0)


def _bars(found: Comparison, name: str) -> dict[str, Any]:
    """Every method's rate with its interval, beside that of the model that its runs began with."""
    kept = {method: figures for method, figures in found.methods.items() if getattr(figures, name)}
    rates: dict[str, Share] = {method: getattr(figures, name).share for method, figures in kept.items()}
    began = {method: getattr(figures.start, name) for method, figures in kept.items() if method != "none"}
    starts: dict[str, Share | None] = {m: began[m].share if began.get(m) else None for m in kept}
    top = axis_top([*rates.values(), *starts.values()])
    rows = []
    for method, rate in rates.items():
        model = kept[method].model
        label = method if model == found.model else f"{method}, from {model}"
        svg = dumbbell_row(label, starts[method], rate, top)
        rows.append({"label": label, "value": percent(rate.rate), "svg": svg})
    return {"title": BARS[name], "rows": rows, "axis": percent_axis(top)}


def named(name: str, method: MethodResult) -> str:
    """A method's name; of one that refuses most benign prompts, which puts anybody on the front, with that said."""
    rate = method.over_refusal.mean if method.over_refusal else 0.0
    return name if rate <= 0.5 else f"{name} (which refuses {percent(rate)} of the benign prompts)"


def standing(method: MethodResult, methods: Mapping[str, MethodResult], model: str) -> str:
    """Where a method stands among those that start from `model`, in words; a difference that the intervals leave open
    is said to be."""
    if method.on_front is None:
        away = f"not placed: starts from {method.model}" if method.model != model else "not placed"
        return "failed" if method.failed and not method.dsr else away
    if method.on_front:
        return "on the front"
    above = method.dominated_by or []
    names = [name if _apart(methods[name], method) else f"{name} (intervals overlap)" for name in above]
    return f"dominated by {', '.join(names)}"


def _apart(better: MethodResult, worse: MethodResult) -> bool:
    """Whether the intervals of one of the two axes do not meet."""
    return _above(better.dsr, worse.dsr) or _above(worse.over_refusal, better.over_refusal)


def _above(one: Mean | None, other: Mean | None) -> bool:
    """Whether the whole interval of one lies above that of the other."""
    return bool(one and other and one.low is not None and other.high is not None and one.low > other.high)
