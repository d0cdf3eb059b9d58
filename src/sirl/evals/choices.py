"""Multiple choice by likelihood: which letter does the model find most probable as its answer?

Needs no generation, no judge and no extra, so it tells from a model in this process in seconds whether hardening has
cost it knowledge. As in the usual likelihood evaluations of MMLU and ARC (Clark et al. 2018, arXiv 1803.05457), with
the question in the model's chat template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sirl.errors import UserError
from sirl.generation.base import ScoringEngine
from sirl.prompts import BUNDLED, bundled_path
from sirl.records import read_json_rows, user_turn

OPTION = re.compile(r"^\s*([A-Z])[.)]\s", re.MULTILINE)
ASK = "Answer with the letter of the right option alone."


@dataclass(frozen=True)
class Question:
    """A question with its lettered options in the text, their letters, and the right one."""

    text: str
    letters: tuple[str, ...]
    answer: str


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
        letters = tuple(dict.fromkeys(OPTION.findall(text))) if isinstance(text, str) else ()
        if len(letters) < 2 or answer not in letters:
            raise UserError(
                f"{flag}: {path}, row {number}: needs a `prompt` with lettered options (lines such as `A. ...`) and an "
                "`answer` that is one of the letters"
            )
        out.append(Question(str(text), letters, str(answer)))
    if not out:
        raise UserError(f"{flag}: {path} holds no questions")
    return out


def answer_choices(engine: ScoringEngine, questions: Sequence[Question]) -> list[bool]:
    """Whether the most probable letter is the right one, question by question."""
    asked = [(user_turn(f"{q.text}\n\n{ASK}"), letter) for q in questions for letter in q.letters]
    scores = iter(engine.target_logprobs([chat for chat, _ in asked], [letter for _, letter in asked]))
    return [max(q.letters, key=dict(zip(q.letters, scores, strict=False)).__getitem__) == q.answer for q in questions]
