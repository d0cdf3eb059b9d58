"""Check a run against rules, for CI: exit code 0 if all pass, 1 if one fails, 2 for bad input.

The cautious end of the 95% interval decides: the low end for --min, the high end for --max. A metric that was not
measured fails. --list prints the metrics.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sirl.cli.common import Outcome, print_table
from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl gate`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, nargs="?", help="run folder, such as runs/demo")
    limit = {"nargs": "+", "action": "extend", "metavar": "METRIC=LIMIT,...", "default": []}
    parser.add_argument("--min", **limit, help="require at least LIMIT, such as dsr=0.9,worst_case_dsr=0.5")  # type: ignore[arg-type]
    parser.add_argument("--max", **limit, help="require at most LIMIT, such as benign_refusal=0.1")  # type: ignore[arg-type]
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="read further rules from YAML with `min:` and `max:`"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a summary for pull requests to this file")
    parser.add_argument("--list", action="store_true", help="print the metrics and exit")


def run(args: argparse.Namespace) -> Outcome:
    """Check the rules, then hold the run against them."""
    if args.list:
        return _metrics()
    from sirl.gate.output import junit, markdown
    from sirl.gate.rules import Bound, check_finished, check_rules, hold, read_rule, read_rules
    from sirl.manifest import output_file
    from sirl.records import write_text
    from sirl.results.load import load_run
    from sirl.results.summary import results_of

    if args.run_dir is None:
        raise UserError("RUN_DIR: give the folder of a run, such as runs/demo")
    rules = read_rules(args.rules) if args.rules else []
    # a text without a rule stays: an empty variable of CI must not pass as no rule
    limits: dict[Bound, list[str]] = {"min": args.min, "max": args.max}
    for bound, texts in limits.items():
        rules += [read_rule(text, bound, f"--{bound}") for given in texts for text in comma_list(given) or [given]]
    check_rules(rules)
    outputs = [
        (output_file(target, flag), make)
        for flag, target, make in (("--junit", args.junit, junit), ("--markdown", args.markdown, markdown))
        if target is not None
    ]
    loaded = load_run(args.run_dir)
    check_finished(args.run_dir, loaded.manifest)
    results = results_of(loaded)
    findings = hold(results, rules)
    for target, make in outputs:
        write_text(target, make(results.run, findings))
    passed = all(finding.passed for finding in findings)
    document = {"run": results.run, "passed": passed, "rules": [finding.to_dict() for finding in findings]}
    return Outcome(document, lambda: print("\n".join(map(str, findings))), exit_code=0 if passed else 1)


def _metrics() -> Outcome:
    from sirl.gate.metrics import ATTACK_PREFIX, METRICS

    rows: list[dict[str, Any]] = [{"name": name, "description": metric.description} for name, metric in METRICS.items()]
    rows.append({"name": f"{ATTACK_PREFIX}ATTACK", "description": "DSR of one attack, such as dsr:gcg"})
    return Outcome(rows, lambda: print_table(list(rows[0]), [list(row.values()) for row in rows]))
