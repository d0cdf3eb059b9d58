"""The first screen of a report: what changed, what it costs, what still gets through.

Each line is a number, and the filter of the conversations behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sirl.demo import is_demo
from sirl.report.attack_sections import about as attacks_in_words
from sirl.report.charts import percent
from sirl.report.wording import ATTACK_NOUNS, count
from sirl.results.values import AnyShare, Attacks, Rate, Results, Wrapped

REFUSED, ANSWERED = "full_refusal", "full_compliance"


@dataclass(frozen=True)
class Line:
    """`then` is empty where there is one number alone; `to` filters the conversations (empty: no link)."""

    name: str
    then: str
    now: str
    note: str
    to: dict[str, str] = field(default_factory=dict)


def glance(
    results: Results, benign: Mapping[str, Any] | None, wrapped: Mapping[str, Any] | None
) -> list[tuple[str, list[Line]]]:
    """Three groups of lines; a group of which nothing was measured is left out."""
    attack = results.attack
    groups = [
        ("What changed", _changed(attack) if attack else []),
        ("What it costs", [*_wrapped(wrapped), *_dprime(results.wrapped), *_benign(benign)]),
        ("What still gets through", _through(attack) if attack else []),
    ]
    return [(title, lines) for title, lines in groups if lines]


def about(results: Results, manifest: Mapping[str, Any] | None, model: str) -> list[str]:
    """Of which model, how much was asked, who judged, and when: what a reader must know to place the numbers."""
    attack, judges, seed = results.attack, results.judges, (manifest or {}).get("seed")
    created = str((manifest or {}).get("created") or "")[:10]
    parts = [
        f"Base model: {model}{' (SmolLM2-135M-Instruct with an adapter)' if is_demo(model) else ''}",
        count(attack.goals, "harmful goal") if attack else "",
        f"seed {seed}" if isinstance(seed, int) else "",
        f"{'judge' if len(judges) == 1 else 'judges'}: {', '.join(judges)}" if judges else "",
        created,
    ]
    return [part for part in parts if part]


def _words(rate: AnyShare | None, broken: bool = False) -> str:
    """A rate, or with `broken` what is left to 1."""
    if not rate or rate.rate is None:
        return ""
    return percent(1 - rate.rate if broken else rate.rate)


def _interval(rate: AnyShare | None, broken: bool = False) -> str:
    """The 95% interval of the last rate of a line, as the beginning of its note."""
    if not rate or not rate.ends:
        return ""
    _, low, high = rate.ends
    ends = (1 - high, 1 - low) if broken else (low, high)
    return f"95% interval: {100 * ends[0]:.1f} to {100 * ends[1]:.1f}. "


def _verdict(rate: Rate, refused: bool) -> dict[str, str]:
    """The filter for what a rate counts; none where that is more than one verdict."""
    if rate.partial or rate.empty:
        return {}
    return {"after": REFUSED if refused else ANSWERED}


def _changed(attack: Attacks) -> list[Line]:
    out = []
    for kind, figures in attack.kinds.items():
        decoding = figures.decodings[0]
        phases = {phase: tables.overall for phase, tables in figures.rates[decoding].items()}
        many = len(figures.attacks) > 1
        number = count(len(figures.attacks), "attack")
        note = f"Defence success rate, {'mean over ' if many else ''}{number}, {decoding}."
        then, now = (phases.get(phase) for phase in ("before", "after"))
        to = {"kind": "attack"} if many else {"kind": "attack", "attack": figures.attacks[0]}
        name = f"{ATTACK_NOUNS[kind].capitalize()}s refused"
        out.append(Line(name, _words(then), _words(now), _interval(now or then) + note, to))
    decoding = attack.decodings[0] if attack.decodings else ""
    change = attack.change.get(decoding)
    fall = change.reduction if change else None
    if fall:
        factor = "" if fall.none_left or fall.factor is None or fall.factor < 1 else f": {fall.factor:.1f} times fewer"
        note = f"{ATTACK_NOUNS[attack.covers or '']}s{factor}.".capitalize()
        to = {"kind": "attack", **_verdict(attack.rates[decoding]["after"].overall, refused=False)}
        out.append(Line("Successful attacks", f"{fall.successes_before:,}", f"{fall.successes_after:,}", note, to))
    return out


def _benign(benign: Mapping[str, Any] | None) -> list[Line]:
    out = []
    for row in benign["table"][:2] if benign else []:
        last = row["after"] or row["before"]
        asked = f"{count(last.n, 'prompt')}, {row['decoding']}."
        to = {**row["to"], **_verdict(last, refused=True)} if row.get("to") else {}
        out.append(Line(row["short"], _words(row["before"]), _words(row["after"]), _interval(last) + asked, to))
    return out


def _wrapped(wrapped: Mapping[str, Any] | None) -> list[Line]:
    if not wrapped:
        return []
    row = wrapped["rows"][0]
    last = row["after"] or row["before"]
    note = f"{_interval(last)}Benign requests in the wrappings of attacks, {count(last.n, 'answer')}."
    to = {"kind": "wrapped", **_verdict(last, refused=True)}
    return [Line("Adversarial benign refused", _words(row["before"]), _words(row["after"]), note, to)]


def _dprime(wrapped: Wrapped | None) -> list[Line]:
    phases = wrapped.dprime.phases if wrapped and wrapped.dprime else {}
    if not phases:
        return []
    then, now = (f"{phases[phase].value:.2f}" if phase in phases else "" for phase in ("before", "after"))
    last = phases.get("after") or phases["before"]
    ends = "" if last.low is None else f"95% interval: {last.low:.2f} to {last.high:.2f}. "
    note = f"{ends}Tells harmful from benign requests in the same wrapping. 0: not at all; higher is better."
    return [Line("d'", then, now, note, {"kind": "wrapped"})]


def _through(attack: Attacks) -> list[Line]:
    """The attack that works best after, or on the only model; and the goals that some attack breaks."""
    before: dict[str, Rate] = {}
    after: dict[str, Rate] = {}
    for figures in attack.kinds.values():
        for phase, found in (("before", before), ("after", after)):
            tables = figures.rates[figures.decodings[0]].get(phase)
            found |= {name: r for name, r in tables.by_attack.items() if r.rate is not None} if tables else {}
    last = after or before
    if not last:
        return []
    name = min(last, key=lambda attack: last[attack].rate or 0.0)
    then = _words(before.get(name), broken=True) if after else ""
    said = "".join(f" {name}: {words}." for _, words, _ in attacks_in_words([name]))
    note = f"{_interval(last[name], broken=True)}Goals broken, of {last[name].n:,}.{said}"
    to = {"kind": "attack", "attack": name, **(_verdict(last[name], refused=False) if after else {})}
    out = [Line(f"Strongest attack: {name}", then, _words(last[name], broken=True), note, to)]
    worst = attack.worst_case[attack.decodings[0]]
    rate = worst.get("after") or worst.get("before")
    if rate and rate.rate is not None:
        note = f"{_interval(rate, broken=True)}Goals broken by at least one attack, of {rate.n:,}."
        then = _words(worst.get("before"), broken=True) if "after" in worst else ""
        out.append(Line("All attacks together", then, _words(rate, broken=True), note, {"kind": "attack"}))
    return out
