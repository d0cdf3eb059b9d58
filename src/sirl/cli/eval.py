"""Measure what hardening costs: capability and over-refusal of the hardened model against its base model.

--tasks takes comma-separated names: gsm8k, math, mbpp, humaneval, arc, ifeval and chat read their files in --data_dir
(gsm8k*.jsonl and so on), NAME=FILE reads that file, file:TASK.yaml is a task definition of lm-evaluation-harness, and
any other name is a task of the harness, which needs the hub. If interrupted, run the same command to continue.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sirl.cli.common import (
    Outcome,
    add_template_flag,
    percent_cell,
    positive_int,
    print_table,
    seed_number,
    settings_of,
)
from sirl.errors import UserError
from sirl.run_folder import BENCHMARKS

if TYPE_CHECKING:
    from sirl.results.values import BenchmarkMetric, Capability, Rate
    from sirl.stats import Estimate

RESUME_HINT = "the same command continues from here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl eval`."""
    parser.add_argument("--model_name_or_path", required=True, help="hardened model: hub id, folder or GGUF file")
    parser.add_argument("--reference", required=True, help="base model, or demo for the bundled one")
    parser.add_argument("--model_revision", help="commit, branch or tag of the hardened model on the hub")
    parser.add_argument("--reference_revision", help="commit, branch or tag of the base model on the hub")
    parser.add_argument("--tasks", default="", help="benchmarks to run, see above (needs the extra `eval`)")
    parser.add_argument("--data_dir", help="folder with the benchmark files (with --tasks)")
    parser.add_argument(
        "--max_rows",
        "--limit",  # its name before
        dest="limit",  # as manifests have it
        metavar="N",
        type=positive_int,
        help="use at most N rows of each benchmark (with --tasks)",
    )
    parser.add_argument(
        "--allow_code_execution",
        action="store_true",
        help="run the programs that the model writes for mbpp and humaneval, isolated and within limits (with --tasks)",
    )
    parser.add_argument(
        "--allow_unsandboxed_code",
        action="store_true",
        help="run them even if this machine cannot isolate them from your files and network",
    )
    parser.add_argument(
        "--overrefusal",
        help="benign prompts: xstest, jbb-benign, ... (docs/eval.md), a bundled name, file or org/name:config@split",
    )
    parser.add_argument(
        "--max_prompts",
        type=positive_int,
        help="use at most this many benign prompts, sampled with --seed (with --overrefusal)",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for benchmarks.json and its rows")
    parser.add_argument("--seed", type=seed_number, default=0, help="random seed (default: %(default)s)")
    add_template_flag(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="delete earlier measurements of this command first, and nothing else"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Check everything, then one model after the other, then compare."""
    from sirl.evals.benchmarks import resolve
    from sirl.evals.contamination import check_contamination
    from sirl.evals.overrefusal import load_benign
    from sirl.evals.sandbox import allow_unsandboxed
    from sirl.experiment.evaluate import check_tasks, clear, measure
    from sirl.lock import sole_writer
    from sirl.manifest import Manifest, check_writable
    from sirl.progress import terminal_bar
    from sirl.provenance import check_has_versions, data_sources
    from sirl.results.interface import made
    from sirl.results.values import Capability

    if args.allow_unsandboxed_code and not args.allow_code_execution:
        raise UserError("--allow_unsandboxed_code: needs --allow_code_execution; give both or neither")
    allow_unsandboxed(args.allow_unsandboxed_code)
    check_has_versions("--model_revision", args.model_revision, args.model_name_or_path)
    check_has_versions("--reference_revision", args.reference_revision, args.reference)
    benchmarks = resolve(args.tasks, args.data_dir, args.allow_code_execution)
    if not benchmarks and not args.overrefusal:
        raise UserError("--tasks: nothing to measure; give --tasks, --overrefusal or both")
    _check_used(args, bool(benchmarks))
    if benchmarks:
        check_tasks(benchmarks)
    benign = load_benign(args.overrefusal, args.max_prompts, args.seed, "--overrefusal") if args.overrefusal else []
    check_contamination(benign, args.output_dir, args.model_name_or_path, "--overrefusal")
    apart = ("output_dir", "overwrite", "json", "command", "allow_unsandboxed_code")
    settings = settings_of(args, apart)
    revisions = {"before": args.reference_revision, "after": args.model_revision}
    check_writable(args.output_dir)
    with sole_writer(args.output_dir):
        if args.overwrite:
            clear(args.output_dir)
        manifest = Manifest.open_stage(args.output_dir, "eval", settings, seed=args.seed, command=sys.argv)
        manifest.note_sources("eval", data_sources({"overrefusal": args.overrefusal}))
        with manifest.stage("eval"):
            found = measure(
                {"before": args.reference, "after": args.model_name_or_path},
                benchmarks,
                benign,
                args.output_dir,
                limit=args.limit,
                seed=args.seed,
                chat_template_kwargs=args.chat_template_kwargs,
                revisions=revisions,
                used=lambda found: manifest.note_sources("eval", found),
                bar=terminal_bar,
            )
        manifest.finish()
    return Outcome(
        {"output_dir": str(args.output_dir), **found}, lambda: _show(made(Capability, found), args.output_dir)
    )


def _check_used(args: argparse.Namespace, tasks: bool) -> None:
    """Raise `UserError` for a flag that would change nothing."""
    needs = {"max_prompts": ("--overrefusal", bool(args.overrefusal))}
    needs |= dict.fromkeys(("limit", "data_dir", "allow_code_execution"), ("--tasks", tasks))
    for key, (other, given) in needs.items():
        if getattr(args, key) not in (None, False) and not given:
            flag = {"limit": "max_rows"}.get(key, key)
            raise UserError(f"--{flag}: says something of {other}, which is not given; give both or neither")


def _show(found: Capability, folder: Path) -> None:
    if found.benchmarks:
        rows = [
            [name if i == 0 else "", figure, *_cells(table), one.statement if i == 0 else ""]
            for name, one in found.benchmarks.items()
            for i, (figure, table) in enumerate(one.figures.items())
        ]
        print("\nBefore and after, on the same rows (95% intervals)")
        print_table(["benchmark", "figure", "before", "after", "difference", "n", "McNemar p", "so"], rows)
    drift = found.drift
    if drift:
        rise = drift.perplexity_rise
        print(
            f"\nOn the base model's chat answers: divergence {drift.kl.value:.3f} nats per token, perplexity "
            f"{rise.value:+.1%} ({rise.low:+.1%} to {rise.high:+.1%})"
        )
    asked = found.overrefusal
    if asked:
        kinds, phases = asked.rates["greedy"], ("before", "after")
        tables = {kind: {p: kinds[p][kind] for p in phases if kind in kinds[p]} for kind in asked.kinds}
        cells = [
            [kind, *(_words(table.get(p), part) for part in ("", "partial_", "empty_") for p in phases)]
            for kind, table in {"all": asked.overall["greedy"], **tables}.items()
        ]
        print("\nRefusals of benign prompts, empty answers among them (95% Wilson intervals)")
        print_table(["category", "refused before", "after", "partly before", "after", "empty before", "after"], cells)
    print(f"\n{folder / BENCHMARKS}")


def _words(rate: Rate | None, prefix: str) -> str:
    """A rate with its interval; `prefix` as for `sirl.report.wording.with_interval`."""
    ends = [getattr(rate, prefix + end) for end in ("rate", "low", "high")] if rate else [None]
    if ends[0] is None:
        return "-"
    value, low, high = map(percent_cell, ends)
    return f"{value} ({low} to {high})"


def _cells(table: BenchmarkMetric) -> list[str]:
    """One figure: shares in percent, anything else as a number."""
    from sirl.report.capability import is_share

    spec = ".1%" if is_share(table) else ".1f"

    def cell(t: Estimate | None, sign: str = "") -> str:
        return "-" if t is None else f"{t.value:{sign}{spec}} ({t.low:{sign}{spec}} to {t.high:{sign}{spec}})"

    p = "-" if table.p is None else f"{table.p:.3f}"
    n = f"{table.n} (+{table.unscored} unscored)" if table.unscored else str(table.n)
    return [cell(table.before), cell(table.after), cell(table.difference, "+"), n, p]
