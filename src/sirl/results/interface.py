"""`summary.json` as an interface: what it holds, by version, as frozen dataclasses, and as a JSON Schema for others.

Keys are added, and never renamed or removed within a version. A file from before there were versions is version 0; what
it lacks is None. `docs/summary.schema.json` is what `schema` gives; a test holds that it is.
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sirl.errors import UserError
from sirl.evals.told_apart import Group, Interval, ToldApart

VERSION = 1
SCHEMA = "https://json-schema.org/draft/2020-12/schema"
T = TypeVar("T")
NAMES = {float: "a number", int: "a whole number", str: "text", bool: "true or false", list: "a list"}


@dataclass(frozen=True)
class Discrimination:
    """d' by group; None where there are no such wrappings. `unseen` and `seen`: by whether training used the family."""

    readable: Group | None = None
    unseen: Group | None = None
    seen: Group | None = None
    encoded: Group | None = None
    families: dict[str, Group | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Reduction:
    """By what factor successful attacks have become fewer."""

    successes_before: int
    successes_after: int
    factor: float | None
    low: float | None
    high: float | None
    none_left: bool = False


@dataclass(frozen=True)
class KindFigures:
    """Attacks of one kind: mean DSR (0 to 1), and the paired change, which is over answers of both phases."""

    attacks: list[str]
    dsr_before: float | None = None
    dsr_after: float | None = None
    harm_dsr_before: float | None = None
    harm_dsr_after: float | None = None
    worst_case_dsr_before: float | None = None
    worst_case_dsr_after: float | None = None
    pairs: int | None = None
    fixed: int | None = None
    regressed: int | None = None
    change: float | None = None
    interval: list[float] | None = None
    p: float | None = None
    test: str | None = None
    mcnemar: float | None = None
    reduction: Reduction | None = None


@dataclass(frozen=True)
class WithinPrompt:
    """The gap within prompts that got both kinds of response, in nats."""

    prompts: int | None = None
    mixed: int | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    positive: float | None = None


@dataclass(frozen=True)
class GapFigures:
    """The entropy gap: answers less refusals, in nats."""

    verdict: str | None = None
    explanation: str | None = None
    compared: str | None = None
    basis: str | None = None
    within_prompt: WithinPrompt | None = None
    n_refused: int | None = None
    n_answered: int | None = None
    mean_refused: float | None = None
    mean_answered: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    u: float | None = None
    p: float | None = None
    cohens_d: float | None = None
    auroc: float | None = None


@dataclass(frozen=True)
class Summary:
    """The headline figures of a run: greedy, shares from 0 to 1, None where a stage was not run.

    `dsr_*` are means over the attacks of one kind, which `dsr_covers` names, `harm_dsr_*` the same by harm scores (None
    without them); `kinds` has both for each kind, never mixed. `worst_case_dsr_*` is over all attacks. `*_refusal_*`
    are rates of full refusals and empty answers of benign prompts by kind, `benign_refusal_*` of all of them, and
    `wrapped_refusal_*` the mean over the wrappings of attacks that they were put in (adversarial benign);
    `cut_refusals_*` the share of refusals under attack that the token limit cut off, `rechecked_dsr_*` the DSR after
    those were asked again; `empty_*` and `benign_empty_*` are shares of answers that say nothing, `dprime_*` says how
    well harmful requests are told from harmless ones in the wrappings in which the request can be read, and
    `told_apart` the same by kind and family of wrapping. `seconds` are by stage. `base` and `checkpoint` are absolute
    paths, so that they load from any working directory.
    """

    version: int = 0
    dsr_before: float | None = None
    dsr_after: float | None = None
    harm_dsr_before: float | None = None
    harm_dsr_after: float | None = None
    dsr_covers: str | None = None
    worst_case_dsr_before: float | None = None
    worst_case_dsr_after: float | None = None
    plain_refusal_before: float | None = None
    plain_refusal_after: float | None = None
    sounds_harmful_refusal_before: float | None = None
    sounds_harmful_refusal_after: float | None = None
    empty_before: float | None = None
    benign_empty_before: float | None = None
    benign_refusal_before: float | None = None
    dprime_before: ToldApart | None = None
    wrapped_refusal_before: float | None = None
    cut_refusals_before: float | None = None
    rechecked_dsr_before: float | None = None
    empty_after: float | None = None
    benign_empty_after: float | None = None
    benign_refusal_after: float | None = None
    dprime_after: ToldApart | None = None
    wrapped_refusal_after: float | None = None
    cut_refusals_after: float | None = None
    rechecked_dsr_after: float | None = None
    dprime_change: Interval | None = None
    told_apart: Discrimination | None = None
    reduction: Reduction | None = None
    kinds: dict[str, KindFigures] = field(default_factory=dict)
    gap: GapFigures | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    base: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return asdict(self)


def read_summary(path: str | os.PathLike[str]) -> Summary:
    """A summary of this version or an older one. Keys of a later one are left out.

    Raises:
        UserError: the file is no summary.
    """
    where = f"{os.fspath(path)}: "
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}cannot be read as a summary ({error}); give the summary.json of a run") from error
    if not isinstance(data, dict):
        raise UserError(f"{where}has no summary; give the summary.json of a run")
    return made(Summary, data, where)


def made(cls: type[T], data: Mapping[str, Any], where: str = "", mend: str = "give the summary.json of a run") -> T:
    """A frozen value from plain ones. Unknown keys are left out, since later versions add some.

    Raises:
        UserError: a value is of another type than its field.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    values = {
        f.name: _as(hints[f.name], data[f.name], f"{where}{f.name}", mend)
        for f in fields(cls)  # type: ignore[arg-type]
        if f.name in data
    }
    missing = [
        f.name
        for f in fields(cls)  # type: ignore[arg-type]
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where}{missing[0]} is missing; {mend}")
    return cls(**values)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _as(hint: Any, value: Any, where: str, mend: str) -> Any:
    if hint is Any:
        return value
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (kind,) = (option for option in options if option is not type(None))
        return None if value is None else _as(kind, value, where, mend)
    if is_dataclass(hint) and isinstance(value, dict):
        return made(typing.cast(Any, hint), value, f"{where}.", mend)
    if origin is list and isinstance(value, list):
        return [_as(options[0], v, where, mend) for v in value]
    if origin is dict and isinstance(value, dict):
        return {key: _as(options[1], v, f"{where}.{key}", mend) for key, v in value.items()}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (hint is float and number) or (hint in (int, str, bool) and type(value) is hint):
        return value
    raise UserError(f"{where}: {value!r} is not {NAMES.get(origin or hint, 'a mapping of keys to values')}; {mend}")


def schema() -> dict[str, Any]:
    """The JSON Schema of `summary.json`. Other keys are allowed: later versions add some."""
    return {"$schema": SCHEMA, "title": "sirl summary.json", **_schema_of(Summary)}


def _schema_of(hint: Any) -> dict[str, Any]:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(option) for option in options]}
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        needed = [f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING]
        properties = {name: _schema_of(kind) for name, kind in hints.items()}
        return {"type": "object", "properties": properties, **({"required": needed} if needed else {})}
    if origin is list:
        return {"type": "array", "items": _schema_of(options[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(options[1])}
    names = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
    return {"type": names[hint]}
