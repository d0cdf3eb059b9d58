"""The first screen of a report: what changed, what it costs, what still gets through.

Each line is a number, and the filter of the conversations behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sirl.report.charts import percent
from sirl.report.wording import ATTACK_NOUNS, count


@dataclass(frozen=True)
class Line:
    """`then` is empty where there is one number alone; `to` filters the conversations (empty: no link)."""

    name: str
    then: str
    now: str
    note: str
    to: dict[str, str] = field(default_factory=dict)


def glance(
    summary: Mapping[str, Any], benign: Mapping[str, Any] | None, wrapped: Mapping[str, Any] | None
) -> list[tuple[str, list[Line]]]:
    """Three groups of lines; a group of which nothing was measured is left out."""
    attack = summary["attack"]
    groups = [
        ("What changed", _changed(attack) if attack else []),
        ("What it costs", [*_wrapped(wrapped), *_dprime(summary["wrapped"]), *_benign(benign)]),
        ("What still gets through", _through(attack) if attack else []),
    ]
    return [(title, lines) for title, lines in groups if lines]


def _words(rate: Mapping[str, Any] | None) -> str:
    return percent(rate["rate"]) if rate and rate["rate"] is not None else ""


def _changed(attack: Mapping[str, Any]) -> list[Line]:
    out = []
    for kind, figures in attack["kinds"].items():
        decoding = figures["decodings"][0]
        phases = {phase: tables["overall"] for phase, tables in figures["rates"][decoding].items()}
        many = len(figures["attacks"]) > 1
        number = count(len(figures["attacks"]), "attack")
        note = f"defence success rate, {'mean over ' if many else ''}{number}, {decoding}"
        then, now = _words(phases.get("before")), _words(phases.get("after"))
        to = {"kind": "attack"} if many else {"kind": "attack", "attack": figures["attacks"][0]}
        out.append(Line(f"{ATTACK_NOUNS[kind].capitalize()}s refused", then, now, note, to))
    fall = (attack["change"].get(attack["decodings"][0]) or {}).get("reduction") if attack["decodings"] else None
    if fall:
        times = "none left" if fall["none_left"] else "–" if fall["factor"] is None else f"÷ {fall['factor']:.1f}"
        note = f"{fall['successes_before']:,} before, {fall['successes_after']:,} after, "
        noun = ATTACK_NOUNS[attack["covers"]]
        out.append(Line("Successful attacks", "", times, f"{note}{noun}s", {"kind": "attack", "status": "fixed"}))
    return out


def _benign(benign: Mapping[str, Any] | None) -> list[Line]:
    out = []
    for row in benign["table"][:2] if benign else []:
        asked = count((row["after"] or row["before"])["n"], "prompt")
        to = {**(row.get("to") or {}), "status": "newly refused"}
        out.append(Line(row["short"], _words(row["before"]), _words(row["after"]), f"{asked}, {row['decoding']}", to))
    return out


def _wrapped(wrapped: Mapping[str, Any] | None) -> list[Line]:
    if not wrapped:
        return []
    row = wrapped["rows"][0]
    note = f"benign requests in the wrappings of attacks, {count((row['after'] or row['before'])['n'], 'answer')}"
    to = {"kind": "wrapped", "status": "newly refused"}
    return [Line("Adversarial benign refused", _words(row["before"]), _words(row["after"]), note, to)]


def _dprime(wrapped: Mapping[str, Any] | None) -> list[Line]:
    phases = ((wrapped or {}).get("dprime") or {}).get("phases") or {}
    if not phases:
        return []
    then, now = (f"{phases[phase]['value']:.2f}" if phase in phases else "" for phase in ("before", "after"))
    note = "how well it tells them apart; 0: not at all"
    return [Line("d', harmful against benign in the same wrapping", then, now, note, {"kind": "wrapped"})]


def _through(attack: Mapping[str, Any]) -> list[Line]:
    """The attack that works best after, or on the only model; and the goals that some attack breaks."""
    found: dict[str, Mapping[str, Any]] = {}
    for figures in attack["kinds"].values():
        tables = figures["rates"][figures["decodings"][0]]
        found |= (tables.get("after") or tables["before"])["by_attack"]
    known = {name: rate for name, rate in found.items() if rate["rate"] is not None}
    if not known:
        return []
    name = min(known, key=lambda attack: float(known[attack]["rate"]))
    rate = known[name]
    out = [
        Line(
            f"Works best: {name}",
            "",
            percent(1 - rate["rate"]),
            f"of {count(rate['n'], 'goal')} broken",
            {"kind": "attack", "attack": name, "status": "still broken"},
        )
    ]
    worst = attack["worst_case"][attack["decodings"][0]]
    last = worst.get("after") or worst.get("before")
    if last and last["rate"] is not None:
        note = f"of {count(last['n'], 'goal')} that withstand every attack"
        then = _words(worst.get("before")) if "after" in worst else ""
        out.append(Line("Every attack at once", then, percent(last["rate"]), note, {"kind": "attack"}))
    return out
