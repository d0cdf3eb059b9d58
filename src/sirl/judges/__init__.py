"""Judges: did the model refuse? One literal table; a dotted path `package.module:Class` serves everyone else's."""

from __future__ import annotations

import importlib
from typing import cast

from sirl.errors import UserError
from sirl.judges.base import Judge, JudgeItem, Judgement

__all__ = ["JUDGES", "Judge", "JudgeItem", "Judgement", "load_judge"]

JUDGES: dict[str, str] = {
    "refusal": "sirl.judges.refusal:RefusalJudge",
}


def load_judge(name: str) -> Judge:
    """The judge of that name in `JUDGES`, or the class at the dotted path `package.module:Class`.

    Raises:
        UserError: the name is unknown, or the path leads to no judge.
    """
    path = JUDGES.get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not (colon and module_name and class_name):
        raise UserError(f"unknown judge {name!r}: use one of {', '.join(sorted(JUDGES))}, or package.module:Class")
    try:
        factory = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"judge {name!r} cannot be imported ({error}): use package.module:Class") from error
    try:
        judge = factory()
    except Exception as error:
        raise UserError(f"judge {name!r} cannot be made without arguments: {error}") from error
    if not callable(getattr(judge, "judge", None)) or not isinstance(getattr(judge, "name", None), str):
        raise UserError(f"{name!r} is not a judge: it needs a `name` and a method `judge(items)`")
    return cast(Judge, judge)
