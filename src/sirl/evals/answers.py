"""What a model's answer to a maths or coding question comes down to: its final value, its program."""

from __future__ import annotations

import re

STATED = re.compile(r"(?:\banswer\b(?:[\s*_]*[:=]|\s+is\b\s*:?)|####)[\s*_]*([^\n]+)", re.IGNORECASE)
"""Such as `Answer: 12`, which the questions ask for."""

NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
FENCE = re.compile(r"```[ \t]*+(\w*+)[^\n`]*+\n(.*?)(?:```|\Z)", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_FRACTION = re.compile(r"(-?)\\frac\{([\d.]+)\}\{([\d.]+)\}")
_WORDS = r"\\(?:text|mbox|mathrm)\{([^{}]*)\}"
_UNITS = re.compile(_WORDS + r"$|(?:\^\{?\\circ\}?|\\?%|degrees?|dollars?|cents?|cm|inches|units?)$")
_SPACING = re.compile(r"\\(?:left|right|quad|[!,;: ()\[\]])|\s")


def final_answer(text: str) -> str:
    """The value an answer ends with: the last `Answer:` line, else the last `\\boxed{...}`, else the last number.

    Empty where there is none of them.
    """
    stated = STATED.findall(text)
    if stated:
        return _last_boxed(stated[-1]) or str(stated[-1]).strip()
    return _last_boxed(text) or next(reversed(NUMBER.findall(text)), "")


def _last_boxed(text: str) -> str:
    """The content of the last `\\boxed{...}`, with its inner braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    depth, begin = 1, start + len("\\boxed{")
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return ""


def same_value(given: str, expected: str) -> bool:
    """Whether two final answers are one: as numbers where both are, else as LaTeX in one spelling."""
    a, b = value(given), value(expected)
    if a is not None and b is not None:
        return abs(a - b) <= 1e-6 * max(1.0, abs(b))
    spelled = _spelled(given)
    return bool(spelled) and spelled == _spelled(expected)


def same_number(text: str, expected: str) -> bool:
    """Whether an answer in words ends with the expected number, whatever stands around it ("12 apples")."""
    found = NUMBER.findall(final_answer(text))
    return bool(found) and same_value(found[-1], expected)


def value(answer: str) -> float | None:
    """A plain number, fraction or percentage as a number; None for anything else."""
    text = _THOUSANDS.sub("", _spelled(answer))
    fraction = _FRACTION.fullmatch(text)
    top, slash, bottom = (f"{fraction[1]}{fraction[2]}", "/", fraction[3]) if fraction else text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None


def _spelled(answer: str) -> str:
    """One spelling for LaTeX that means the same: no spacing, units, dollar signs or short fractions."""
    text = answer.replace("\\$", "").replace("$", "").strip(" *").rstrip(".")
    text = _SPACING.sub("", text.replace("dfrac", "frac").replace("tfrac", "frac"))
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"^[a-zA-Z]=", "", text)
    whole = re.fullmatch(_WORDS, text)
    text = whole[1] if whole else _UNITS.sub("", text)
    return text.strip("()") if re.fullmatch(r"\([A-Za-z]\)", text) else text.rstrip(".")


def program(answer: str) -> str:
    """The code of an answer: its first fenced block of Python or of no named language, else all of it."""
    blocks = FENCE.findall(answer)
    return next((code for name, code in blocks if name.lower() in ("", "python", "py", "python3")), answer)
