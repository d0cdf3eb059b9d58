"""The page of a comparison: whole, self-contained, and safe whatever a name or reason holds."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from typing import Any

import pytest

from sirl.compare.metrics import FIGURES, RATES
from sirl.compare.page import render_comparison, standing
from sirl.compare.values import Comparison, MethodResult, RunResult
from sirl.report.charts import Spot, scatter
from sirl.results.interface import made

MOVED = {"value": 0.5, "low": 0.4, "high": 0.6}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\"'\u202egnp\x00"


def rate(mean: float, width: float = 0.05) -> dict[str, Any]:
    low, high = max(0.0, mean - width), min(1.0, mean + width)
    return {"mean": mean, "min": low, "max": high, "low": low, "high": high, "n": 40}


def method(dsr: float | None, over: float, front: bool | None, *by: str, **more: Any) -> dict[str, Any]:
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    if dsr is not None:
        figures |= {name: rate(dsr if name in ("dsr", "worst_case") else over) for name in RATES}
        figures |= {"kl": {"mean": 0.05, "min": 0.0, "max": 0.1}, "train_seconds": {"mean": 61.0, "min": 60, "max": 62}}
    facts = {
        "description": "what it does",
        "source": "arXiv",
        "settings": {},
        "seeds": 2,
        "failed": [],
        "model": "demo",
    }
    facts["start"] = {"dsr": rate(0.4), "over_refusal": rate(0.01)}
    facts["on_wrapped_front"] = None
    return {**facts, **figures, "on_front": front, "dominated_by": None if front is None else list(by), **more}


def row(name: str, dsr: float, over: float, seed: int = 0) -> dict[str, Any]:
    rates = {k: {"rate": dsr if k in ("dsr", "worst_case") else over, "low": 0, "high": 1, "n": 4} for k in RATES}
    facts = {"method": name, "seed": seed, "folder": f"{name}-seed{seed}", "status": "done", **rates}
    return {**facts, "gap": "present", "dsr_before": 0.4, "change": MOVED, "rose": True}


@pytest.fixture
def found() -> dict[str, Any]:
    names = {
        "none": method(0.4, 0.01, True),
        "sft": method(0.6, 0.2, False, "sirl"),
        "dpo": method(None, 0.0, None, failed=["no pairs"]),
        "sirl": method(0.9, 0.05, True, settings={"n": 4}),
    }
    rows = [row("none", 0.4, 0.01), row("sft", 0.6, 0.2), row("sirl", 0.9, 0.05)]
    rows.append({"method": "dpo", "seed": 0, "folder": "dpo-seed0", "status": "failed", "reason": "no pairs"})
    change = {"dsr_before": 0.4, "dsr_after": 0.9, "change": MOVED, "rose": True, "agrees": True}
    gap = [
        {"model": "demo", "seed": 0, "folder": "x", "gap": "present", "difference": 1.5, "low": 1, "high": 2, **change}
    ]
    spread = {"mean": 0.625, "min": 0.5, "max": 0.75}
    within = {"dsr": spread, "over_refusal": spread, "seeds": 2, "trails": 3}
    equal = {"limit": 0.105, "methods": {"sirl": within, "group-8": {**within, "dsr": None, "over_refusal": None}}}
    front = ["none", "sirl"]
    more = {"at_equal_over_refusal": equal, "gap": gap}
    return {"model": "demo", "seeds": [0], "methods": names, "front": front, "rows": rows, **more}


def test_every_figure_has_its_field() -> None:
    assert set(FIGURES) <= {field.name for field in fields(MethodResult)}
    assert set(RATES) <= {field.name for field in fields(RunResult)}


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_shows_every_method_the_front_and_what_failed(found: dict[str, Any]) -> None:
    html = render_comparison(found)
    assert "On the front of safety and helpfulness: none, sirl." in html
    assert "dpo, seed 0, failed and is not in any figure: no pairs" in html
    assert "dominated by sirl" in html
    assert html.count('class="dot"') == 3 + 2 * (2 * 3 - 1), "means in the picture, and each with the start in the bars"
    assert "n: 4" in html
    assert re.search(r"<td>present</td>\s*<td>40.0%</td>", html)


def test_benign_requests_in_wrappings_have_a_picture_and_dprime_its_interval(found: dict[str, Any]) -> None:
    assert 'id="wrapped-front"' not in render_comparison(found)
    for name in ("none", "sirl"):
        found["methods"][name] |= {"wrapped": rate(0.3), "on_wrapped_front": name == "sirl"}
    found["methods"]["sirl"]["dprime"] = {"mean": 1.5, "min": 1.2, "max": 1.8, "low": 0.9, "high": 2.1}
    html = render_comparison(found)
    picture = html[html.index('id="wrapped-front"') : html.index('id="methods"')]
    assert picture.count('class="spot-name"') == 2
    assert "sirl: DSR 90%, refused in wrappings 30%" in picture
    assert "<td>1.50<small>0.90–2.10</small></td>" in html


def test_nothing_hostile_gets_through(found: dict[str, Any]) -> None:
    plain = Elements(render_comparison(found)).tags
    hostile = json.loads(json.dumps(found).replace('"sft"', json.dumps(HOSTILE)))
    hostile["model"] = HOSTILE
    hostile["rows"][3]["reason"] = hostile["rows"][0]["folder"] = hostile["rows"][0]["gap"] = HOSTILE
    hostile["gap"][0] |= {"gap": HOSTILE, "model": HOSTILE, "folder": HOSTILE}
    hostile["at_equal_over_refusal"]["methods"][HOSTILE] = hostile["at_equal_over_refusal"]["methods"].pop("group-8")
    hostile["methods"]["sirl"]["model"] = f"{HOSTILE}, another"
    hostile["methods"]["sirl"] |= {"description": HOSTILE, "source": HOSTILE, "settings": {HOSTILE: HOSTILE}}
    html = render_comparison(hostile)
    assert [tag for tag, _ in Elements(html).tags] == [tag for tag, _ in plain]
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "{{ 7*7 }}" in html


def test_loads_nothing_and_forbids_it(found: dict[str, Any]) -> None:
    tags = Elements(render_comparison(found)).tags
    assert not [a for _, a in tags if {"src", "href"} & a.keys()]
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert [tag for tag, _ in tags].count("script") == 1


def test_without_any_figure_the_page_says_so(found: dict[str, Any]) -> None:
    nothing = {**found, "methods": {"dpo": found["methods"]["dpo"]}, "front": [], "rows": found["rows"][3:], "gap": []}
    html = render_comparison({**nothing, "at_equal_over_refusal": None})
    assert "No method has both" in html
    assert 'id="equal-table"' not in html
    assert "<svg" not in html


def test_standing_names_who_dominates_and_what_is_left_open(found: dict[str, Any]) -> None:
    methods = made(Comparison, found).methods
    assert standing(methods["sft"], methods, "demo") == "dominated by sirl"
    near = made(MethodResult, method(0.88, 0.06, False, "sirl"))
    assert standing(near, methods, "demo") == "dominated by sirl (intervals overlap)"
    assert standing(methods["dpo"], methods, "demo") == "failed"
    assert standing(methods["sirl"], methods, "demo") == "on the front"
    other = made(MethodResult, method(0.99, 0.0, None, model="demo@1.5"))
    assert standing(other, methods, "demo") == "not placed: starts from demo@1.5"


def test_another_starting_model_is_shown_beside_its_own_start_alone(found: dict[str, Any]) -> None:
    start = {"dsr": rate(0.7), "over_refusal": rate(0.02)}
    found["methods"]["strong"] = method(0.99, 0.0, None, model="demo@1.5", start=start)
    found["methods"]["thin"] = method(0.5, 0.0, None, model="demo@0.5", start={"dsr": None, "over_refusal": None})
    html = render_comparison(found)
    assert "not placed: strong, thin." in html
    assert html.count('class="spot-name"') == 3
    assert 'aria-label="strong, from demo@1.5: before 70.0%' in html
    assert 'aria-label="thin, from demo@0.5: after 50.0%' in html
    assert 'aria-label="sirl: before 40.0%' in html
    assert 'aria-label="none: after 40.0%' in html


def test_gap_and_outcome_one_starting_model_a_row(found: dict[str, Any]) -> None:
    few = {
        "gap": "too few",
        "difference": None,
        "low": None,
        "high": None,
        "rose": False,
        "change": {"value": 0.05, "low": -0.01, "high": 0.1},
    }
    found["gap"] += [{**found["gap"][0], "model": "demo@0", **few}, {**found["gap"][0], "agrees": False}]
    html = render_comparison(found)
    assert "Gap and outcome agree in 2 of 3 runs." in html
    assert "<td>+1.50<small>+1.00 to +2.00</small></td>" in html
    assert re.search(
        r"demo@0<br>.*<td>too few</td><td>–</td>.*<td>no <small>\+5.0 points, -1.0 to \+10.0</small></td><td>yes</td>",
        html,
    )


def test_table_at_equal_over_refusal(found: dict[str, Any]) -> None:
    html = render_comparison(found)
    assert "(10.5%, mean over seeds)" in html
    table = html[html.index('id="equal-table"') :]
    cells = re.findall(r"<td>\s*(.*?)\s*</td>", table[: table.index("</table>")])
    assert cells == ["62.5%", "62.5%", "2 of 3", "–", "–", "2 of 3"]


def spot(name: str, x: float, y: float, best: bool = True) -> Spot:
    return Spot(name, (x, x - 1, x + 1), (y, y - 1, y + 1), [(x, y)], best)


def test_scatter_puts_the_safest_on_top_and_keeps_names_apart() -> None:
    svg = str(scatter("label", [spot("low", 5, 10), spot("high", 5, 90, False), spot("twin", 5, 90.2)]))
    places = {n: float(y) for y, n in re.findall(r'y="([\d.]+)" class="spot-name"[^>]*>(\w+)<', svg)}
    assert places["twin"] < places["high"] < places["low"]
    assert places["high"] - places["twin"] >= 12
    assert svg.count('<g class="before">') == 1


def test_scatter_needs_spots() -> None:
    with pytest.raises(ValueError, match="spots"):
        scatter("label", [])


def test_refusing_everything_is_no_praise(found: dict[str, Any]) -> None:
    found["methods"]["sft"] = method(1.0, 0.98, True)
    found["front"] = ["none", "sft", "sirl"]
    html = render_comparison(found)
    assert "none, sft (which refuses 98.0% of the benign prompts), sirl." in html
