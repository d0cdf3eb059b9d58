"""Multiple choice by likelihood: which option does the model find most probable as its answer?

Needs no generation, no judge and no extra, so it tells from a model in this process in seconds whether hardening has
cost it knowledge. As in the usual likelihood evaluations of ARC (Clark et al. 2018, arXiv 1803.05457): the model is
asked the question alone, in its chat template, and each option is scored as its answer, by the mean log-probability of
a token. (With letters as answers the bundled model is at chance.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sirl.errors import UserError
from sirl.generation.base import UNSCORABLE, ScoringEngine
from sirl.inputs.user_files import read_json_rows
from sirl.prompts import BUNDLED, bundled_path
from sirl.records import user_turn

OPTION = re.compile(r"^[^\S\n]*([A-Z])[.)]\s", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question without its options, the options, and the place of the right one."""

    text: str
    options: tuple[str, ...]
    right: int


def load_questions(file: str, limit: int | None = None, flag: str = "evals.choices") -> list[Question]:
    """Questions of a JSONL file with `prompt`, whose lines `A. ...`, `B. ...` are the options, and `answer`, a letter.

    `demo/choices` is the bundled file. `limit` keeps the first ones.

    Raises:
        UserError: naming the file and the row.
    """
    path = bundled_path(file) if file in BUNDLED else Path(file).expanduser()
    out = []
    for number, row in enumerate(read_json_rows(str(path), flag)[:limit], 1):
        text, answer = (row.get(key) if isinstance(row, dict) else None for key in ("prompt", "answer"))
        stem, *lettered = OPTION.split(text) if isinstance(text, str) else ("",)
        letters, options = lettered[::2], tuple(option.strip() for option in lettered[1::2])
        whole = stem.strip() and all(options) and len(set(letters)) == len(letters) > 1
        if not whole or answer not in letters:
            raise UserError(
                f"{flag}: {path}, row {number}: needs a `prompt` with lettered options (lines such as `A. ...`) and an "
                "`answer` that is one of the letters"
            )
        out.append(Question(stem.strip(), options, letters.index(answer)))
    if not out:
        raise UserError(f"{flag}: {path} holds no questions")
    return out


def answer_choices(engine: ScoringEngine, questions: Sequence[Question]) -> list[bool | None]:
    """Whether the most probable option is the right one, question by question; None where an option has no score."""
    asked = [(user_turn(question.text), option) for question in questions for option in question.options]
    scores = iter(engine.target_logprobs([chat for chat, _ in asked], [option for _, option in asked], mean=True))
    found = [[next(scores) for _ in question.options] for question in questions]
    return [
        None if min(own) <= UNSCORABLE else max(range(len(own)), key=own.__getitem__) == question.right
        for question, own in zip(questions, found, strict=True)
    ]
