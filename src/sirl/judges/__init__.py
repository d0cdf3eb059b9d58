"""Judges: did the model refuse, and how harmful is what it said? One literal table; a dotted path
`package.module:Class` serves everyone else's.

    load_judge("refusal")
    load_judges("refusal,rubric@http://localhost:8000/v1#Qwen/Qwen2.5-7B-Instruct")
"""

from __future__ import annotations

import importlib
from typing import Any, cast

from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list
from sirl.judges.base import Judge, JudgeItem, Judgement, labels_refusals

__all__ = ["JUDGES", "Judge", "JudgeItem", "Judgement", "judge_class", "load_judge", "load_judges", "refusal_judge"]

JUDGES: dict[str, str] = {
    "refusal": "sirl.judges.refusal:RefusalJudge",
    "rubric": "sirl.judges.rubric:RubricJudge",
    "harmbench": "sirl.judges.classifiers:HarmBenchJudge",
    "llama_guard": "sirl.judges.classifiers:LlamaGuardJudge",
    "wildguard": "sirl.judges.classifiers:WildGuardJudge",
}


def judge_class(name: str, flag: str = "--judge") -> Any:
    """What makes the judge of that name in `JUDGES`, or the class at the dotted path `package.module:Class`.

    Raises:
        UserError: the name is unknown, or nothing can be imported from the path.
    """
    path = JUDGES.get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not (colon and module_name and class_name):
        raise UserError(
            f"{flag}: unknown judge {name!r}; use one of {', '.join(sorted(JUDGES))}, or package.module:Class"
        )
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{flag}: judge {name!r} cannot be imported ({error}); use package.module:Class") from error


def load_judge(spec: str, flag: str = "--judge") -> Judge:
    """The judge of that name.

    Args:
        spec: a name in `JUDGES`, `NAME@MODEL` for one that asks a model, or `package.module:Class`; see docs/judge.md.
        flag: what errors call it.

    Returns:
        A judge: `judge(items)` gives one `Judgement` an item.

    Raises:
        UserError: the name is unknown, the path leads to no judge, or a model is missing, too much or out of reach.
    """
    name, at, where = spec.partition("@")
    factory = judge_class(name, flag)
    if getattr(factory, "needs_model", False) != bool(at):
        raise UserError(
            f"{flag}: judge {name!r} takes no model; write {name}"
            if at
            else f"{flag}: judge {name!r} needs a model: {name}@MODEL, {name}@vllm#MODEL or {name}@http://HOST:PORT/v1#MODEL"
        )
    arguments: list[Any] = []
    if at:
        from sirl.judges.model import judge_engine

        arguments.append(judge_engine(where, chat=getattr(factory, "chat", True)))
    try:
        judge = factory(*arguments)
    except Exception as error:
        how = "on an engine" if at else "without arguments"
        raise UserError(f"{flag}: judge {name!r} cannot be made {how}: {error}") from error
    if not callable(getattr(judge, "judge", None)) or not isinstance(getattr(judge, "name", None), str):
        raise UserError(f"{flag}: {name!r} is not a judge: it needs a `name` and a method `judge(items)`")
    return cast(Judge, judge)


def load_judges(specs: str, flag: str = "--judge") -> list[Judge]:
    """The judges of a list with commas. The first is the one whose labels are the refusals in every figure.

    Raises:
        UserError: as `load_judge`; or a judge is named twice, or the first one does not tell refusals.
    """
    named = comma_list(specs) or [""]
    judges = [load_judge(word, flag) for word in named]
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise UserError(f"{flag} {specs}: a judge is named twice")
    if not labels_refusals(judges[0]):
        raise UserError(
            f"{flag} {specs}: {named[0].partition('@')[0]} labels harm but not refusals; name it after a judge that "
            f"does, as in refusal,{named[0]}"
        )
    return judges


def refusal_judge(spec: str, flag: str = "--judge") -> Judge:
    """The one judge named, made sure to tell refusals.

    Raises:
        UserError: as `load_judges`, or there are several.
    """
    judges = load_judges(spec, flag)
    if len(judges) > 1:
        raise UserError(f"{flag} {spec}: expected one judge, not {len(judges)}")
    return judges[0]
