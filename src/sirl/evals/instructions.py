"""Whether an answer follows verifiable instructions, by the ids and arguments of IFEval (Zhou et al. 2023, arXiv
2311.07911).

Rules of our own: the checker that comes with lm-evaluation-harness fetches a sentence splitter from the network. Ours
splits sentences at . ! ? and knows a language by its script, so it leaves open (None) which of the languages in Latin
letters an answer is in, and every id that it does not know.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from sirl.diversity import sentences

Arguments = Mapping[str, Any]

SCRIPTS = {
    **dict.fromkeys(("hi", "mr", "ne"), "DEVANAGARI"),
    **dict.fromkeys(("ru", "bg", "uk"), "CYRILLIC"),
    **dict.fromkeys(("ar", "fa", "ur"), "ARABIC"),
    **{"bn": "BENGALI", "gu": "GUJARATI", "kn": "KANNADA", "pa": "GURMUKHI", "ta": "TAMIL", "te": "TELUGU"},
    **{"el": "GREEK", "he": "HEBREW", "ja": "HIRAGANA", "ko": "HANGUL", "th": "THAI", "zh": "CJK"},
}
"""Languages that their script tells from all but their nearest relatives, by ISO 639-1 code."""


def follows(instruction: str, arguments: Arguments, prompt: str, answer: str) -> bool | None:
    """Whether an answer follows one instruction; None where that cannot be said. An empty answer follows none."""
    rule = RULES.get(instruction)
    given = {key: value for key, value in arguments.items() if value is not None}
    if instruction == "combination:repeat_prompt":
        given.setdefault("prompt_to_repeat", prompt)
    if rule is None:
        return None
    if not answer.strip():
        return False
    try:
        return rule(answer, given)
    except (KeyError, TypeError, ValueError):  # arguments of another form than the id's
        return None


def _compare(found: int, arguments: Arguments, number: str, relation: str = "relation") -> bool:
    """At least, or fewer than, the number asked for."""
    wanted, word = int(arguments[number]), arguments.get(relation) or "at least"
    if word not in ("at least", "less than"):
        raise ValueError(word)
    return found >= wanted if word == "at least" else found < wanted


def _count(pattern: str, text: str, flags: int = re.IGNORECASE | re.MULTILINE) -> int:
    return len(re.findall(pattern, text, flags))


def _language(text: str, arguments: Arguments) -> bool | None:
    script = SCRIPTS.get(arguments["language"])
    letters = [unicodedata.name(c, "") for c in text if c.isalpha()]
    if script is None or not letters:
        return None
    return 2 * sum(name.startswith(script) for name in letters) > len(letters)


def _paragraphs(text: str, arguments: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = [p for i, p in enumerate(parts) if p.strip() or 0 < i < len(parts) - 1]
    return all(p.strip() for p in inner) and len(inner) == int(arguments["num_paragraphs"])


def _first_word(text: str, arguments: Arguments) -> bool:
    parts = [p.strip() for p in text.split("\n\n")]
    place = int(arguments["nth_paragraph"])
    if sum(map(bool, parts)) != int(arguments["num_paragraphs"]) or not 0 < place <= len(parts):
        return False
    word = re.match(r"[\"']*([^\s.,?!'\"]*)", parts[place - 1])
    return word is not None and word[1].lower() == str(arguments["first_word"]).lower()


def _postscript(text: str, arguments: Arguments) -> bool:
    letters = re.findall(r"\w", str(arguments["postscript_marker"]))
    return _count(r"(?:^|\s)" + r"\.\s?".join(letters) + r"\b", text) > 0


def _highlights(text: str, arguments: Arguments) -> bool:
    marked = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(m.strip("* ")) for m in marked) >= int(arguments["num_highlights"])


def _is_json(text: str, _: Arguments) -> bool:
    inner = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, _: Arguments) -> bool:
    """Whether a line holds `<<...>>` with something in it."""
    inner = (line[line.find("<<") + 2 : line.rfind(">>")] for line in text.split("\n") if "<<" in line and ">>" in line)
    return any(re.search(r"[^\s<>]", title) for title in inner)


def _two_responses(text: str, _: Arguments) -> bool:
    parts = [p.strip() for p in text.split("******")]
    inner = [p for i, p in enumerate(parts) if p or 0 < i < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _shouted(text: str, a: Arguments) -> bool:
    words = re.findall(r"\w+(?:['’-]\w+)*", text)
    return _compare(sum(w.isupper() for w in words), a, "capital_frequency", "capital_relation")


def _plain(text: Any) -> str:
    return str(text).strip().lower()


RULES: dict[str, Callable[[str, Arguments], bool | None]] = {
    "keywords:existence": lambda t, a: all(_count(re.escape(k), t) for k in a["keywords"]),
    "keywords:frequency": lambda t, a: _compare(_count(re.escape(a["keyword"]), t), a, "frequency"),
    "keywords:forbidden_words": lambda t, a: not any(_count(rf"\b{re.escape(w)}\b", t) for w in a["forbidden_words"]),
    "keywords:letter_frequency": lambda t, a: _compare(
        t.lower().count(_plain(a["letter"])), a, "let_frequency", "let_relation"
    ),
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda t, a: _compare(len(sentences(t)), a, "num_sentences"),
    "length_constraints:number_words": lambda t, a: _compare(_count(r"\w+", t), a, "num_words"),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, a: _count(r"\[[^\[\]\n]*\]", t) >= int(a["num_placeholders"]),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda t, a: _count(r"^[^\S\n]*(?:\*[^*]|-)", t) == int(a["num_bullets"]),
    "detectable_format:constrained_response": lambda t, _: _count(r"my answer is (?:yes|no|maybe)\.", t) > 0,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": lambda t, a: (
        _count(rf"\b{re.escape(a['section_spliter'])}\s?\d+", t, 0) >= int(a["num_sections"])
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda t, a: _plain(t).startswith(_plain(a["prompt_to_repeat"])),
    "startend:end_checker": lambda t, a: _plain(t).strip('"').endswith(_plain(a["end_phrase"])),
    "startend:quotation": lambda t, _: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    "change_case:capital_word_frequency": _shouted,
    "change_case:english_capital": lambda t, _: t.isupper(),
    "change_case:english_lowercase": lambda t, _: t.islower(),
    "punctuation:no_comma": lambda t, _: "," not in t,
}
