"""Compare SIRL with other methods on the same model: safety against helpfulness, with the Pareto front.

Each method and seed gets a run folder in --output_dir; the results are compare.json and compare.html. If interrupted,
run the same command to continue. `sirl list methods` lists the methods; docs/compare.md says what is held equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sirl.cli.common import Outcome, add_template_flag, percent_cell, print_table
from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list
from sirl.records import MAX_SEED

RESUME_HINT = "the same command continues from the run and stage it was in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl compare`."""
    parser.add_argument("--config", required=True, help="YAML file or bundled configuration (sirl list configs)")
    parser.add_argument("--methods", help="comma-separated names, or all (default: all; with --variants: none,sirl)")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[],
        metavar="FILE,...",
        help="comma-separated YAML files that override keys of --config, or bundled ones such as ablations/kl-0.001",
    )
    parser.add_argument("--seeds", help="comma-separated seeds, such as 0,1,2 (default: the seed of --config)")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("comparison"), help="folder for the runs (default: comparison)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[METHOD:]KEY=VALUE",
        help="override a key for all methods or for one, such as train.max_steps=5, dpo:train.learning_rate=1e-4 or "
        "best_of_n:n=8; repeatable",
    )
    add_template_flag(parser)
    parser.add_argument("--overwrite", action="store_true", help="delete the runs of an earlier comparison first")


def run(args: argparse.Namespace) -> Outcome:
    """Run what is not done yet, and compare."""
    from sirl.cli.run import set_pairs
    from sirl.compare.grid import plan_jobs
    from sirl.compare.methods import METHODS

    given = {"chat_template_kwargs": args.chat_template_kwargs} if args.chat_template_kwargs else {}
    named = args.methods or ("none,sirl" if args.variants else "all")
    methods = list(METHODS) if named == "all" else comma_list(named)
    jobs = plan_jobs(
        args.config,
        methods=methods,
        variants=comma_list(args.variants, files=True),
        seeds=_seeds(args.seeds),
        folder=args.output_dir,
        sets={**set_pairs(args.set), **given},
    )
    from sirl.compare.run import compare
    from sirl.progress import terminal_bar

    found = compare(jobs, args.output_dir, command=sys.argv, overwrite=args.overwrite, bar=terminal_bar)
    return Outcome(found, lambda: show(found, args.output_dir))


def _seeds(text: str | None) -> list[int]:
    words = comma_list(text or "")
    if (
        (text is not None and not words)
        or not all(word.isdecimal() for word in words)
        or len(set(map(int, words))) < len(words)
        or not all(int(word) <= MAX_SEED for word in words)
    ):
        raise UserError(f"--seeds {text}: expected different whole numbers separated by commas, such as 0,1,2")
    return [int(word) for word in words]


def show(content: dict[str, Any], folder: Path) -> None:
    """The methods in one table, the front, and what failed."""
    from sirl.compare.metrics import SILENT, known_rates
    from sirl.compare.page import named
    from sirl.compare.values import Comparison
    from sirl.results.interface import made

    found = made(Comparison, content)
    known = known_rates(found.methods)
    rates = {title: key for key, title in known.items() if key not in (*SILENT, "partly_refused")}  # the page has room
    told = any(method.dprime for method in found.methods.values())
    columns = ["method", "seeds", *rates, *(["d'"] if told else []), "KL", "training s", "front"]
    rows = []
    for name, method in found.methods.items():
        kl, seconds = method.kl, method.train_seconds
        cells = [percent_cell(mean.mean if (mean := getattr(method, key)) else None) for key in rates.values()]
        if told:
            cells += ["-" if not method.dprime else f"{method.dprime.mean:.2f}"]
        cells += ["-" if kl is None else f"{kl.mean:.3f}", "-" if seconds is None else f"{seconds.mean:.0f}"]
        rows.append([name, str(method.seeds), *cells, "yes" if method.on_front else ""])
    print()
    print_table(columns, rows)
    for key in SILENT:
        shares = {name: mean.mean for name, method in found.methods.items() if (mean := getattr(method, key))}
        silent = [f"{name} {percent_cell(share)}" for name, share in shares.items() if share]
        if silent:
            print(f"Said nothing to {'benign prompts' if key == 'empty' else 'attacks'}: {', '.join(silent)}")
    ends = {name: method.dprime for name, method in found.methods.items() if method.dprime}
    if ends:  # the table has no room for intervals
        words = [f"{name} {d.mean:.2f} ({d.low:.2f} to {d.high:.2f})" for name, d in ends.items()]
        print(f"Telling harmful from benign in the same wrappings (d'): {', '.join(words)}")
    if found.front:
        names = [named(name, found.methods[name]) for name in found.front]
        print(f"\nOn the Pareto front of DSR and over-refusal: {', '.join(names)}")
    if found.wrapped_front:
        print(f"On that of DSR and benign requests refused in wrappings: {', '.join(found.wrapped_front)}")
    if equal := found.at_equal_over_refusal:
        best = [f"{name} {percent_cell(m.dsr.mean)}" for name, m in equal.methods.items() if m.dsr]
        limit = percent_cell(equal.limit)
        print(f"Best DSR on the development set at no more over-refusal there than sirl's ({limit}): {', '.join(best)}")
    others = [f"{name} ({m.model})" for name, m in found.methods.items() if m.model != found.model]
    if others:
        print(f"Not placed, as they start from another model than {found.model}: {', '.join(others)}")
    agree = [row.agrees for row in found.gap if row.agrees is not None]
    if agree:
        print(f"The gap predicted whether the DSR rises in {sum(agree)} of {len(agree)} base models and seeds")
    for row in found.rows:
        if row.status == "failed":
            print(f"failed: {row.method}, seed {row.seed}: {row.reason}")
    print(f"\n{folder / 'compare.html'}")
