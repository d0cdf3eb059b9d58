"""A dataclass from the mapping that a file holds: every key known, every value of its field's type."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from sirl.errors import UserError, suggestion
from sirl.inputs.comma_list import comma_list

S = TypeVar("S")
_NUMBER = re.compile(r"\A[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def build(cls: type[S], data: Mapping[str, Any], where: str) -> S:
    """A dataclass from a mapping: every key known, every value of its field's type.

    Raises:
        UserError: naming the key, with `where` before it.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise UserError(f"{where}{key} is not a known key{suggestion(str(key), list(known))}")
    hints = typing.get_type_hints(cls)
    values = {key: convert(value, hints[key], f"{where}{key}") for key, value in data.items()}
    for name, spec in known.items():
        if name not in values and spec.default is MISSING and spec.default_factory is MISSING:
            raise UserError(f"{where}{name} is missing")
    return cls(**values)


def convert(value: Any, hint: Any, where: str) -> Any:
    """The value as its field wants it: a list for a tuple, `1e-4` (which YAML reads as text) for a float."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        for option in options:
            try:
                return convert(value, option, where)
            except UserError:
                continue
        raise UserError(f"{where}: expected {' or '.join(_type_name(o) for o in options)}, got {value!r}")
    if origin is tuple:
        if isinstance(value, str):
            value = comma_list(value)
        if isinstance(value, list | tuple):
            return tuple(convert(v, typing.get_args(hint)[0], where) for v in value)
    elif origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if isinstance(value, str) and _NUMBER.fullmatch(value) and math.isfinite(float(value)):
            return float(value)
    elif hint is Any or (isinstance(value, bool) == (hint is bool) and isinstance(value, origin or hint)):
        return value
    raise UserError(f"{where}: expected {_type_name(hint)}, got {value!r}")


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a list of {_type_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
