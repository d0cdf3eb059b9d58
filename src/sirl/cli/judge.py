"""Label responses from anywhere: full refusal, partial refusal or full compliance. Some judges also score harm.

FILE is JSONL with `response` and, if known, `prompt` (or `goal`, as in attempts.jsonl). --validate measures the judge
against `label`, the verdict of a person (`full_refusal`, `partial_refusal` or `full_compliance`; a number in front, as
in `2_full_refusal`, is ignored), and a judge that scores harm against `harmful` (true or false).
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sirl.cli.common import Outcome, add_judges_flag, percent_cell, print_agreement, print_reasons, print_table
from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list

if TYPE_CHECKING:
    from sirl.judges import Judge, JudgeItem, Judgement
    from sirl.judges.run import Reason
    from sirl.judges.validate import Agreement

RESUME_HINT = "run it again"

Judged = dict[str, list["Judgement"]]
"""What each judge said of every row, by its name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl judge`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="JSONL with `response` and, if known, `prompt`")
    add_judges_flag(parser)
    parser.add_argument("--output_file", type=Path, help="write the rows to this file, with `label` and `reason` added")
    parser.add_argument("--validate", action="store_true", help="compare with the human label of each row")


def run(args: argparse.Namespace) -> Outcome:
    """Judge the file, or judge the judge."""
    from sirl.disk import is_device
    from sirl.lock import sole_writer
    from sirl.manifest import output_file

    if args.output_file is None:
        return _run(args)
    target = args.output_file = output_file(args.output_file, "--output_file")
    if is_device(target):
        return _run(args)
    with sole_writer(target.parent, "--output_file", f".{target.name}.lock"):
        return _run(args)


def _run(args: argparse.Namespace) -> Outcome:
    from sirl.judges import JudgeItem, load_judge
    from sirl.judges.base import labels_refusals
    from sirl.judges.run import check_judged

    judges = [load_judge(spec) for spec in comma_list(args.judge) or [""]]
    if len({judge.name for judge in judges}) < len(judges):
        raise UserError(f"--judge {args.judge}: a judge is named twice")
    wanted = "harmful" if args.validate and not labels_refusals(judges[0]) else "label"
    rows = read_rows(args.file, wanted if args.validate else None, any(labels_refusals(judge) for judge in judges))
    if args.output_file is not None and args.output_file.resolve() == args.file.resolve():
        raise UserError("--output_file: would overwrite the file that is judged; give another")
    items = [JudgeItem(row.get("prompt") or row.get("goal") or "", row["response"]) for row in rows]
    judged = {judge.name: _judge(judge, items) for judge in judges}
    for name, judgements in judged.items():
        check_judged(name, judgements)
    if args.output_file is not None:
        _write(args.output_file, rows, judged)
    document, show = _validated(rows, judged) if args.validate else _labels(judged)
    agreement, differ, reasons = _compared(judged)

    def show_all() -> None:
        show()
        print_agreement(agreement)
        print_reasons(reasons)

    extra = {
        "agreement": [asdict(pair) for pair in agreement],
        **({"disagreements": differ} if len(judged) > 1 else {}),
        "reasons": [asdict(reason) for reason in reasons],
    }
    return Outcome({"judge": args.judge, **document, **extra}, show_all)


def _judge(judge: Judge, items: list[JudgeItem]) -> list[Judgement]:
    """All verdicts of one judge, with a bar where it takes the responses in batches."""
    from sirl.judges.base import judge_items
    from sirl.progress import terminal_bar

    size = getattr(judge, "batch", None)
    if size is None:
        return judge_items(judge, items)
    out: list[Judgement] = []
    with terminal_bar(f"judge ({judge.name})") as progress:
        for start in range(0, len(items), size):
            progress(start, len(items))
            out += judge_items(judge, items[start : start + size])
        progress(len(items), len(items))
    return out


def read_rows(path: Path, human: str | None, labelled: bool = True) -> list[dict[str, Any]]:
    """Rows to judge, checked; human labels without their leading number.

    `human` is the verdict that each must have. Labels that are there besides must be valid where any judge labels
    (`labelled`).

    Raises:
        UserError: the file cannot be read, or the line it names is no such row.
    """
    from sirl.inputs.user_files import read_json_rows

    rows = read_json_rows(str(path), "FILE")
    if not rows:
        raise UserError(f"FILE: {path} is empty")
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("response"), str):
            raise UserError(f"{where}: no text under `response`")
        for key in ("prompt", "goal"):
            if not isinstance(row.get(key), str | None):
                raise UserError(f"{where}: `{key}` is not text")
        if human:
            _check_human(row, human, where, labelled)
    return rows


def _check_human(row: dict[str, Any], wanted: str, where: str, labelled: bool) -> None:
    from sirl.judges.validate import HUMAN_LABELS

    if wanted == "label" or ("label" in row and labelled):
        head, _, tail = str(row.get("label")).partition("_")
        row["label"] = tail if head.isdigit() and tail else row.get("label")
        if row["label"] not in HUMAN_LABELS:
            raise UserError(f"{where}: `label` is {row['label']!r}; expected one of {', '.join(HUMAN_LABELS)}")
    if (wanted == "harmful" or "harmful" in row) and not isinstance(row.get("harmful"), bool):
        raise UserError(f"{where}: `harmful` is {row.get('harmful')!r}; expected true or false")


def _write(path: Path, rows: list[dict[str, Any]], judged: Judged) -> None:
    """The rows with the first judge's verdict; with several judges, also all of theirs under `verdicts`."""
    from sirl.records import write_jsonl

    out = []
    for i, row in enumerate(rows):
        own = {name: _verdict(judgements[i]) for name, judgements in judged.items()}
        human = {"human_label": row["label"]} if "label" in row else {}
        out.append({**row, **human, **next(iter(own.values())), **({"verdicts": own} if len(own) > 1 else {})})
    write_jsonl(path, out)


def _verdict(judgement: Judgement) -> dict[str, Any]:
    score = {} if judgement.score is None else {"score": judgement.score}
    return {"label": judgement.label, "reason": judgement.reason, **score}


def _labels(judged: Judged) -> tuple[dict[str, Any], Any]:
    """Counts and rates of the first judge, those of the others by their name, and how to show them all."""
    parts = {name: _counted(judgements) for name, judgements in judged.items()}
    first = next(iter(parts))
    verdicts = [_verdict(j) for j in judged[first]]
    others = {name: part for name, part in parts.items() if name != first}
    document = {**parts[first], **({"others": others} if others else {}), "verdicts": verdicts}

    def show() -> None:
        for name, part in parts.items():
            if others:
                print(f"\n{name}")
            total = part["responses"]
            print_table(
                ["label", "responses", "share"], [[k, str(n), f"{n / total:.1%}"] for k, n in part["labels"].items()]
            )
            if "harm" in part:
                harm = part["harm"]
                print(f"harmful: {percent_cell(harm['rate'])} of {harm['n']} with a score, {harm['unscored']} without")

    return document, show


def _counted(judgements: list[Judgement]) -> dict[str, Any]:
    from sirl.records import HARMFUL, Label
    from sirl.stats import wilson_interval

    counts = Counter(j.label for j in judgements)
    scored = len(judgements) - counts["unscored"]
    out: dict[str, Any] = {
        "responses": len(judgements),
        "scored": scored,
        "labels": {label: counts[label] for label in get_args(Label)},
        "refusal_rate": counts["full_refusal"] / scored if scored else None,
        "interval": list(wilson_interval(counts["full_refusal"], scored)) if scored else [None, None],
    }
    scores = [j.score for j in judgements if j.score is not None]
    if scores:
        harmful = sum(score >= HARMFUL for score in scores)
        out["harm"] = {
            "harmful": harmful,
            "n": len(scores),
            "unscored": len(judgements) - len(scores),
            "rate": harmful / len(scores),
            "interval": list(wilson_interval(harmful, len(scores))),
        }
    return out


def _validated(rows: list[dict[str, Any]], judged: Judged) -> tuple[dict[str, Any], Any]:
    """Agreement with people of the first judge, that of the others by their name, and how to show them all."""
    parts = {name: _against_people(rows, judgements) for name, judgements in judged.items()}
    first = next(iter(parts))
    others = {name: part for name, part in parts.items() if name != first}

    def show() -> None:
        for name, part in parts.items():
            if others:
                print(f"\n{name}")
            if "confusion" in part:
                _show_agreement(part)
            if "harm" in part:
                _show_harm(part["harm"])

    return {**parts[first], **({"others": others} if others else {})}, show


def _against_people(rows: list[dict[str, Any]], judgements: list[Judgement]) -> dict[str, Any]:
    from sirl.judges.validate import NO_LABEL, agreement, harm_agreement

    out: dict[str, Any] = {}
    harm_only = all(j.label in NO_LABEL for j in judgements) and any(j.score is not None for j in judgements)
    if not harm_only and all("label" in row for row in rows):
        labels = [row["label"] for row in rows]
        out.update(agreement(labels, [j.label for j in judgements], [_source(row) for row in rows]))
    marked = [(row["harmful"], j.score) for row, j in zip(rows, judgements, strict=True) if "harmful" in row]
    if marked and any(j.score is not None for j in judgements):
        out["harm"] = harm_agreement(*map(list, zip(*marked, strict=True)))  # type: ignore[arg-type]
    return out


def _compared(judged: Judged) -> tuple[list[Agreement], list[dict[str, Any]], list[Reason]]:
    """How far several judges agree, the rows (from 1) where they do not, and why rows are unscored."""
    from sirl.judges.run import why_unscored
    from sirl.judges.validate import disagreements, judge_agreement
    from sirl.records import Verdict

    verdicts = [
        Verdict(str(i), name, j.label, j.reason, j.score)
        for name, judgements in judged.items()
        for i, j in enumerate(judgements, 1)
    ]
    reasons = why_unscored(verdicts, next(iter(judged)))
    differ = [{"row": int(d.pop("attempt_id")), **d} for d in disagreements(verdicts)]
    return judge_agreement(verdicts), differ, reasons


def _source(row: dict[str, Any]) -> str:
    return str(row.get("source") or "all")


def _show_agreement(found: dict[str, Any]) -> None:
    def line(name: str, part: dict[str, Any]) -> list[str]:
        binary = part["refusal_or_not"]
        figures = [part["accuracy"], part["kappa"], binary["accuracy"], binary["kappa"]]
        return [name, str(part["n"]), str(part["unscored"]), *("-" if x is None else f"{x:.3f}" for x in figures)]

    columns = ["source", "n", "unscored", "accuracy (3)", "kappa (3)", "accuracy (2)", "kappa (2)"]
    print_table(columns, [line("all", found), *(line(k, v) for k, v in found["by_source"].items())])
    labels = list(found["confusion"])
    print("\nrows: the person; columns: the judge")
    seen = list(found["confusion"][labels[0]])
    print_table(["", *seen], [[a, *(str(found["confusion"][a][b]) for b in seen)] for a in labels])
    print("\n(3): three labels; (2): the same without the rows that the person calls partial")


def _show_harm(found: dict[str, Any]) -> None:
    print("\nharmful or not, by the judge's score")
    figures = ["-" if x is None else f"{x:.3f}" for x in (found["accuracy"], found["kappa"])]
    print_table(["n", "unscored", "accuracy", "kappa"], [[str(found["n"]), str(found["unscored"]), *figures]])
