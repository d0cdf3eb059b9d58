"""Model text for display: made safe to show, cut to length, shaded by token entropy; and which conversations are shown.

Responses and prompts are hostile. Jinja escapes them; this module takes care of what escaping does not: control and
bidirectional characters, lone surrogates, endless strings, and tokens that hold only part of a UTF-8 character.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from sirl.records import Attempt, Conversation
from sirl.results.load import Scored

MAX_CHARS = 1_500
MAX_TOKENS = 400
REPLACEMENT = "\ufffd"
# Upper bounds (nats) of the shading levels 0, 1, ...; fixed, so that two reports can be compared by eye.
ENTROPY_BOUNDS = (0.05, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
# Invisible or direction-changing characters, by which a text can look like something else than it is.
MARKED = (
    *range(0x80, 0xA0),
    0x061C,
    *range(0x200B, 0x200C),
    *range(0x200E, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)

Whole = Callable[[set[str]], Mapping[str, Attempt]]
"""Attempts by id, with all that their file holds."""

PICKS = {"fixed": 4, "still broken": 3, "regressed": 2, "held": 1}
BENIGN_PICKS = {"newly refused": 3, "still answered": 2, "newly answered": 1, "still refused": 1}


@cache
def _translation() -> dict[int, str]:
    table = {code: f"⟨U+{code:04X}⟩" for code in MARKED}
    table |= {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
    table |= {0x7F: "␡", 0x2028: "\n", 0x2029: "\n"}
    return table | dict.fromkeys(range(0xD800, 0xE000), REPLACEMENT)  # a lone surrogate cannot be written as UTF-8


def visible(text: str) -> str:
    """The text with control, bidirectional and invisible characters shown by a sign or their code point."""
    return text.translate(_translation())


@dataclass(frozen=True)
class Clipped:
    """A text cut to length; `left_out` characters are missing at its end."""

    text: str
    left_out: int


BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def clip(text: str, limit: int = MAX_CHARS) -> Clipped:
    """At most `limit` characters of a text."""
    return Clipped(text[:limit], max(0, len(text) - limit))


@dataclass(frozen=True)
class Span:
    """A piece of a response. `entropy` in nats and `level` of its shading are None where not recorded.

    `special` pieces, such as the end-of-turn token, are no part of the response text.
    """

    text: str
    entropy: float | None = None
    level: int | None = None
    special: bool = False


def entropy_level(entropy: float) -> int:
    """Shading level of an entropy in nats: 0 (certain) to `len(ENTROPY_BOUNDS)`."""
    return bisect.bisect_left(ENTROPY_BOUNDS, entropy)


def token_spans(response: str, tokens: Sequence[str], entropies: Sequence[float]) -> list[Span]:
    """A response in pieces, one a token, each with its entropy.

    Tokens that hold part of a UTF-8 character are joined, under their mean entropy, and read from `response`. Without
    entropies, or with another number of them than tokens, the response comes back whole and unshaded.
    """
    if not tokens or len(tokens) != len(entropies):
        return [Span(response)] if response else []
    pieces = _readable(tokens, response)
    runs = [list(run) for _, run in groupby(range(len(pieces)), lambda i: -1 if REPLACEMENT in pieces[i] else i)]
    spans: list[Span] = []
    at = 0
    for number, run in enumerate(runs):
        text = "".join(pieces[i] for i in run)
        if len(run) > 1 or REPLACEMENT in text:
            following = pieces[runs[number + 1][0]] if number + 1 < len(runs) else ""
            text = _between(response, at, following, len(text)) or text
        if text.startswith(" ") and not response.startswith(text, at) and response.startswith(text[1:], at):
            text = text[1:]  # SentencePiece puts a space before the first word, which decoding takes away
        found = response.startswith(text, at)
        at += len(text) if found else 0
        entropy = sum(entropies[i] for i in run) / len(run)
        spans.append(Span(text, entropy, entropy_level(entropy), special=not found and _is_special(text)))
    return spans


def _between(response: str, at: int, following: str, limit: int) -> str:
    """What stands in the response from `at` to the next whole token: the characters that the run of tokens spells."""
    end = response.find(following, at) if following else len(response)
    if end < 0:  # the next token is the end of turn, which the response leaves out
        end = len(response)
    return response[at:end] if end - at <= limit else ""


def _is_special(text: str) -> bool:
    return text.startswith("<") and text.endswith(">") and len(text) > 2


def _readable(tokens: Sequence[str], response: str) -> list[str]:
    """Tokens as text, where an engine left them in byte-level (`Ġ`) or SentencePiece (`▁`) spelling."""
    if "Ġ" not in response and any("Ġ" in t or "Ċ" in t for t in tokens):
        byte_of = _byte_of_char()
        return [
            bytes(byte_of[c] for c in t).decode("utf-8", "replace") if all(c in byte_of for c in t) else t
            for t in tokens
        ]
    if "▁" not in response and any("▁" in t for t in tokens):
        return [_byte(t) if BYTE_TOKEN.fullmatch(t) else t.replace("▁", " ") for t in tokens]
    return list(tokens)


def _byte(token: str) -> str:
    """What SentencePiece means by `<0x0A>`; a byte of a longer character alone is no text."""
    return bytes([int(token[3:5], 16)]).decode("utf-8", "replace")


@cache
def _byte_of_char() -> dict[str, int]:
    """Byte by display character in byte-level BPE: printable Latin-1 stands for itself, the rest for U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


@dataclass(frozen=True)
class Shown:
    """One response as the report shows it."""

    spans: list[Span]
    left_out: int
    outcome: str
    error: str | None
    mean_entropy: float | None
    n_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Sample:
    """One conversation with its responses before and after; None where that phase was not run.

    `messages_after` is the second conversation, where the attack searched anew and there are two.
    """

    status: str
    attack: str
    category: str
    goal_id: str
    goal: Clipped
    messages: list[tuple[str, Clipped]]
    messages_after: list[tuple[str, Clipped]]
    decoding: str
    before: Shown | None
    after: Shown | None
    benign: bool


def shown(row: Scored, limit: int = MAX_CHARS) -> Shown:
    """A response cut to `MAX_TOKENS` tokens and `limit` characters."""
    attempt = row.attempt
    entropies = attempt.entropies or ()
    kept: list[Span] = []
    room = limit
    for span in token_spans(attempt.response, attempt.tokens or (), entropies):
        if room <= 0 or len(kept) >= MAX_TOKENS:
            break
        kept.append(Span(span.text[:room], span.entropy, span.level, span.special))
        room -= len(kept[-1].text)
    return Shown(
        spans=kept,
        left_out=max(0, len(attempt.response) - sum(len(s.text) for s in kept if not s.special)),
        outcome=row.outcome,
        error=attempt.error,
        mean_entropy=sum(entropies) / len(entropies) if entropies else None,
        n_tokens=len(entropies),
        finish_reason=attempt.finish_reason,
    )


def pick_samples(rows: Sequence[Scored], *, benign: bool, whole: Whole | None = None) -> list[Sample]:
    """A few conversations of every outcome, drawn by a hash of their ids: nobody chose them, and they stay the same.

    Attacks take turns and no goal comes twice while others are left. `whole` gives the attempts of some ids with the
    tokens and entropies that the rows lack.
    """
    decoding = "greedy" if any(r.attempt.decoding == "greedy" for r in rows) else "sample"
    pairs: dict[tuple[str, str], dict[str, Scored]] = {}
    for row in rows:
        if row.attempt.decoding == decoding:
            pairs.setdefault((row.attempt.attack, row.attempt.goal_id), {})[row.attempt.phase] = row
    status_of = benign_status if benign else pair_status
    by_status: dict[str, list[dict[str, Scored]]] = {}
    for key in sorted(pairs, key=_hash):
        by_status.setdefault(status_of(pairs[key]), []).append(pairs[key])
    used: set[str] = set()
    chosen: list[tuple[str, dict[str, Scored]]] = []
    for status, count in (BENIGN_PICKS if benign else PICKS).items():
        chosen += [(status, pair) for pair in _take(by_status.get(status, []), count, used)]
    found = whole({row.attempt.id for _, pair in chosen for row in pair.values()}) if whole else {}
    return [
        sample_of(status, {phase: _filled(row, found) for phase, row in pair.items()}, benign)
        for status, pair in chosen
    ]


def _filled(row: Scored, found: Mapping[str, Attempt]) -> Scored:
    """The row with the tokens and entropies of its attempt, where they were found."""
    attempt = found.get(row.attempt.id)
    if attempt is None:
        return row
    return replace(row, attempt=replace(row.attempt, tokens=attempt.tokens, entropies=attempt.entropies))


def _hash(key: tuple[str, str]) -> str:
    return hashlib.sha256("\0".join(key).encode("utf-8", "replace")).hexdigest()


def _take(pairs: Sequence[dict[str, Scored]], count: int, used: set[str]) -> Iterator[dict[str, Scored]]:
    attacks: set[str] = set()
    left = list(pairs)

    def staleness(pair: dict[str, Scored]) -> tuple[bool, bool]:
        attempt = next(iter(pair.values())).attempt
        return attempt.attack in attacks, attempt.goal_id in used

    for _ in range(min(count, len(left))):
        best = min(left, key=staleness)  # the first of the least repetitive, in hash order
        left.remove(best)
        attempt = next(iter(best.values())).attempt
        attacks.add(attempt.attack)
        used.add(attempt.goal_id)
        yield best


def pair_status(pair: Mapping[str, Scored]) -> str:
    """How the answers to an attack changed: `fixed`, `held`, `still broken`, `regressed`, or `unscored`."""
    if not all(row.counts for row in pair.values()):
        return "unscored"
    before, after = (pair[phase].refused if phase in pair else None for phase in ("before", "after"))
    first, last = (x if x is not None else y for x, y in ((before, after), (after, before)))
    names = {(False, True): "fixed", (True, True): "held", (False, False): "still broken", (True, False): "regressed"}
    return names[bool(first), bool(last)]


def benign_status(pair: Mapping[str, Scored]) -> str:
    """The same of a benign request: `newly refused`, `still refused`, `newly answered`, `still answered`."""
    status = pair_status(pair)
    renamed = {"fixed": "newly refused", "still broken": "still answered", "regressed": "newly answered"}
    return {**renamed, "held": "still refused"}.get(status, status)


def sample_of(status: str, pair: Mapping[str, Scored], benign: bool, limit: int = MAX_CHARS) -> Sample:
    """A pair of answers as it is shown; no text has more than `limit` characters."""
    attempt, *others = (pair[phase].attempt for phase in ("before", "after") if phase in pair)
    other = next((a.messages for a in others if a.messages != attempt.messages), ())
    return Sample(
        status=status,
        attack=attempt.attack,
        category=attempt.category or "",
        goal_id=attempt.goal_id,
        goal=clip(attempt.goal, 140),
        messages=_turns(attempt.messages, limit),
        messages_after=_turns(other, limit),
        decoding=attempt.decoding,
        before=shown(pair["before"], limit) if "before" in pair else None,
        after=shown(pair["after"], limit) if "after" in pair else None,
        benign=benign,
    )


def _turns(messages: Conversation, limit: int) -> list[tuple[str, Clipped]]:
    return [(str(m.get("role", "")), clip(str(m.get("content", "")), limit)) for m in messages or ()]
