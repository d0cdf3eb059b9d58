"""What the task definitions beside this file read and score with; lm-evaluation-harness loads it by its path.

Each scoring function takes a row and the model's answers to it (one) and gives figures by name; nan is unscored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sirl.diversity import repetition_rate
from sirl.errors import UserError
from sirl.evals.answers import final_answer, program, same_number, same_value
from sirl.evals.choices import OPTION
from sirl.evals.instructions import follows
from sirl.evals.sandbox import run_program
from sirl.inputs.user_files import read_json_rows
from sirl.judges import Judge, JudgeItem, load_judge

Row = Mapping[str, Any]
Figures = dict[str, float]


def read_rows(file: str, columns: Sequence[str], optional: Sequence[str] = (), **_: Any) -> dict[str, Any]:
    """The rows of a JSONL file as the split `test`: an `id`, the columns, and optional ones, empty where missing.

    Raises:
        UserError: naming the file and the row.
    """
    from datasets import Dataset

    return {"test": Dataset.from_list(checked_rows(file, columns, optional))}


def checked_rows(file: str, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """As `read_rows`, as a list."""
    out = []
    for number, row in enumerate(read_json_rows(file, "--tasks"), 1):
        missing = [c for c in columns if not isinstance(row, dict) or row.get(c) is None]
        if missing:
            raise UserError(f"--tasks: {file}, row {number}: no column {missing[0]!r}; needed are {', '.join(columns)}")
        # arguments differ from row to row, and tables want one type a column
        kept = {c: json.dumps(row[c]) if c == "kwargs" else row[c] for c in columns}
        out.append({"id": str(row.get("id") or number), **kept, **{c: row.get(c) or "" for c in optional}})
    if not out:
        raise UserError(f"--tasks: {file} holds no rows")
    return out


def mean(values: Sequence[float]) -> float:
    """Mean of what was scored."""
    scored = [v for v in values if not math.isnan(v)]
    return sum(scored) / len(scored) if scored else math.nan


def letters(row: Row) -> list[str]:
    """The letters of the options in a question."""
    return list(dict.fromkeys(OPTION.findall(row["prompt"])))


def word_problem(row: Row, answers: Sequence[str]) -> Figures:
    """Whether the answer ends with the number behind `####`."""
    return {"exact_match": float(same_number(answers[0], row["answer"].split("####")[-1]))}


def maths(row: Row, answers: Sequence[str]) -> Figures:
    """Whether the final values are the same."""
    return {"exact_match": float(same_value(final_answer(answers[0]), row["answer"]))}


def mbpp(row: Row, answers: Sequence[str]) -> Figures:
    """Whether the program passes the row's tests."""
    parts = [program(answers[0]), row["test_setup_code"], *row["test_list"]]
    return {"pass@1": float(run_program("\n".join(part.replace("\r\n", "\n") for part in parts)))}


def humaneval(row: Row, answers: Sequence[str]) -> Figures:
    """Whether the function passes the row's check; an answer that is only its body goes behind the given head."""
    code, name = program(answers[0]), row["entry_point"]
    head = "" if f"def {name}" in code else row["prompt"]
    helpers = row["prompt"].partition(f"def {name}")[0]  # imports and functions that the head may rest on
    return {"pass@1": float(run_program("\n".join([helpers, head + code, row["test"], f"check({name})"])))}


def ifeval(row: Row, answers: Sequence[str]) -> Figures:
    """Whether all instructions are followed, and the share of them that is. An instruction that no rule can tell is
    left out, its row from `prompt_acc`, and counted in `unscored_instructions`."""
    arguments = json.loads(row["kwargs"])
    told = [
        follows(name, given or {}, row["prompt"], answers[0])
        for name, given in zip(row["instruction_id_list"], arguments, strict=True)
    ]
    known = [t for t in told if t is not None]
    return {
        "prompt_acc": math.nan if len(known) < len(told) else float(all(known)),
        "instruction_acc": sum(known) / len(known) if known else math.nan,
        "unscored_instructions": float(told.count(None)),
    }


def chat(row: Row, answers: Sequence[str]) -> Figures:
    """Refusal by the rules of the judge `refusal`, whether nothing was said, length in words, share of 4-grams of words
    used before."""
    (verdict,) = _judge().judge([JudgeItem(row["prompt"], answers[0])])
    words = answers[0].split()
    known: dict[str, int] = {}
    ids = [known.setdefault(word.casefold(), len(known)) for word in words]
    unscored = verdict.label == "unscored"
    return {
        "refused": math.nan if unscored else float(verdict.label == "full_refusal"),
        "partly_refused": math.nan if unscored else float(verdict.label == "partial_refusal"),
        "empty": float(verdict.label == "empty"),
        "words": float(len(words)),
        "repetition": repetition_rate(ids),
    }


@cache
def _judge() -> Judge:
    return load_judge("refusal")
