"""Label responses from anywhere: full refusal, partial refusal or full compliance.

FILE is JSONL with `response` and, where known, `prompt`. With --validate it also has `label`, a person's verdict
(`full_refusal`, `partial_refusal`, `full_compliance`; a number before it, as in `2_full_refusal`, is taken off), and
the judge is measured against it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sirl.cli.common import Outcome, print_table
from sirl.errors import UserError

if TYPE_CHECKING:
    from sirl.judges import JudgeItem, Judgement

GO_ON = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl judge`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="JSONL with `response` and, where known, `prompt`")
    parser.add_argument("--judge", default="refusal", help="name (sirl list judges) or package.module:Class")
    parser.add_argument("--output_file", type=Path, help="write the rows here, with `label` and `reason` added")
    parser.add_argument("--validate", action="store_true", help="compare with the human `label` of each row")


def run(args: argparse.Namespace) -> Outcome:
    """Judge the file, or judge the judge."""
    from sirl.judges import JudgeItem, load_judge

    judge = load_judge(args.judge)
    rows = read_rows(args.file, labelled=args.validate)
    if args.output_file is not None and args.output_file.resolve() == args.file.resolve():
        raise UserError("--output_file: would overwrite the file that is judged; give another")
    items = [JudgeItem(row.get("prompt") or "", row["response"]) for row in rows]
    judgements = judge.judge(items)
    if args.output_file is not None:
        _write(args.output_file, rows, judgements)
    if args.validate:
        from sirl.judges.validate import agreement

        found = agreement([row["label"] for row in rows], [j.label for j in judgements], [_source(row) for row in rows])
        return Outcome({"judge": args.judge, **found}, lambda: _show_agreement(found))
    return _labels(args.judge, items, judgements)


def read_rows(path: Path, labelled: bool) -> list[dict[str, Any]]:
    """Rows to judge, checked; human labels without their leading number.

    Raises:
        UserError: the file cannot be read, or the line it names is no such row.
    """
    from sirl.judges.validate import HUMAN_LABELS
    from sirl.records import iter_json_lines

    if not path.is_file():
        raise UserError(f"FILE: no such file: {path}")
    try:
        rows = list(iter_json_lines(path))
    except (ValueError, OSError) as error:
        raise UserError(f"FILE: {error}") from None
    if not rows:
        raise UserError(f"FILE: {path} is empty")
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("response"), str):
            raise UserError(f"{where}: no text under `response`")
        if not isinstance(row.get("prompt"), str | None):
            raise UserError(f"{where}: `prompt` is no text")
        if labelled:
            head, _, tail = str(row.get("label")).partition("_")
            row["label"] = tail if head.isdigit() else row.get("label")
            if row["label"] not in HUMAN_LABELS:
                raise UserError(f"{where}: `label` is {row['label']!r}; expected one of {', '.join(HUMAN_LABELS)}")
    return rows


def _write(path: Path, rows: list[dict[str, Any]], judgements: list[Judgement]) -> None:
    from sirl.manifest import check_writable
    from sirl.records import write_jsonl

    check_writable(path.parent, "--output_file")
    human = [{"human_label": row["label"]} if "label" in row else {} for row in rows]
    write_jsonl(
        path,
        [{**r, **h, "label": j.label, "reason": j.reason} for r, h, j in zip(rows, human, judgements, strict=True)],
    )


def _labels(name: str, items: list[JudgeItem], judgements: list[Judgement]) -> Outcome:
    from sirl.stats import wilson_interval

    counts = Counter(j.label for j in judgements)
    scored = len(items) - counts["unscored"]
    low, high = wilson_interval(counts["full_refusal"], scored) if scored else (None, None)
    document = {
        "judge": name,
        "responses": len(items),
        "scored": scored,
        "labels": {
            label: counts[label] for label in ("full_refusal", "partial_refusal", "full_compliance", "unscored")
        },
        "refusal_rate": counts["full_refusal"] / scored if scored else None,
        "interval": [low, high],
        "verdicts": [{"label": j.label, "reason": j.reason} for j in judgements],
    }
    shown = [[label, str(n), f"{n / len(items):.1%}"] for label, n in document["labels"].items()]  # type: ignore[attr-defined]
    return Outcome(document, lambda: print_table(["label", "responses", "share"], shown))


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
    seen = [*labels, "unscored"]
    print_table(["", *seen], [[a, *(str(found["confusion"][a][b]) for b in seen)] for a in labels])
    print("\n(3): three labels; (2): full refusal against full compliance, other rows left out")
