"""Text made of a pattern's own words, to be repeated until a pattern that can be slow is slow."""

from __future__ import annotations

import ast
import importlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
FUNCTIONS = ("compile", "match", "search", "sub", "findall", "finditer", "split", "fullmatch")
CATEGORIES = {op.CATEGORY_WORD: "a", op.CATEGORY_DIGIT: "1", op.CATEGORY_SPACE: " ", op.CATEGORY_NOT_WORD: "'"}
REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)


def patterns_by_module() -> dict[str, list[re.Pattern[str]]]:
    """Every regex of the package, by module, as far as it can be read without running a function."""
    out: dict[str, list[re.Pattern[str]]] = {}
    for path in sorted((SOURCE / "sirl").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _of_re(node.func) and node.args]
        if calls:
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
            names = vars(importlib.import_module(name))
            found = [pattern for call in calls if (pattern := _evaluated(call.args[0], names)) is not None]
            out[name] = found + [pattern for value in names.values() for pattern in _inside(value)]
    return out


def _of_re(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and ast.unparse(function) in {f"re.{name}" for name in FUNCTIONS}


def _evaluated(node: ast.expr, names: dict[str, Any]) -> re.Pattern[str] | None:
    try:
        return re.compile(eval(compile(ast.Expression(node), "pattern", "eval"), names))
    except NameError:  # of a local variable: its values are literals elsewhere, or the user's
        return None


def _inside(value: Any) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _inside(part)


def pieces(pattern: re.Pattern[str], rng: random.Random) -> list[str]:
    """Texts that a pattern matches, and texts that its alternatives and the bodies of its repeats match."""
    tree = parser.parse(pattern.pattern, pattern.flags)
    texts = [_example(part, rng) for part in [tree] * 8 + list(_parts(tree))]
    return [text for text in dict.fromkeys(texts) if text]


def _parts(tree: Any) -> Iterator[Any]:
    for kind, value in tree:
        inner: list[Any] = []
        if kind is op.BRANCH:
            inner = list(value[1])
        elif kind in REPEATS:
            inner = [value[2]]
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            inner = [value[1]]
        yield from inner
        for part in [value[3]] if kind is op.SUBPATTERN else inner:
            yield from _parts(part)


def _example(tree: Any, rng: random.Random) -> str:
    return "".join(_one(kind, value, rng) for kind, value in tree)


def _one(kind: Any, value: Any, rng: random.Random) -> str:
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.IN:
        return _of_class(value, rng)
    if kind is op.BRANCH:
        return _example(rng.choice(value[1]), rng)
    if kind is op.SUBPATTERN:
        return _example(value[3], rng)
    if kind in REPEATS:
        low, high, body = value
        return "".join(_example(body, rng) for _ in range(rng.randint(low, min(high, low + 3))))
    return "a" if kind in (op.ANY, op.NOT_LITERAL) else ""


def _of_class(members: Any, rng: random.Random) -> str:
    if members[0][0] is op.NEGATE:
        return rng.choice("a 1,")
    kind, value = rng.choice(members)
    if kind is op.CATEGORY:
        return CATEGORIES.get(value, "a")
    return chr(value if kind is op.LITERAL else rng.randint(*value))
