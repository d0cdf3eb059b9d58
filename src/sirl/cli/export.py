"""Write a run in the formats of other tools: logs of Inspect, or result files of lm-evaluation-harness."""

from __future__ import annotations

import argparse
from pathlib import Path

from sirl.cli.common import Outcome
from sirl.errors import UserError

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl export`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="run folder, such as runs/demo")
    parser.add_argument(
        "--inspect", action="store_true", help="write logs of Inspect, one per phase (needs the extra `inspect`)"
    )
    parser.add_argument(
        "--lm_eval",
        action="store_true",
        help="write the results and samples of `sirl eval --tasks` as lm-evaluation-harness does",
    )
    parser.add_argument("--output_dir", type=Path, help="folder for the files (default: RUN_DIR)")


def run(args: argparse.Namespace) -> Outcome:
    """Read the run, then write."""
    from sirl.exports.inspect_log import write_logs
    from sirl.exports.lm_eval_files import write_lm_eval
    from sirl.manifest import check_writable
    from sirl.results.load import check_holds_run, load_run

    if not (args.inspect or args.lm_eval):
        raise UserError("no format given: --inspect, --lm_eval or both")
    check_holds_run(args.run_dir)
    folder = args.output_dir or args.run_dir
    loaded = load_run(args.run_dir) if args.inspect else None
    check_writable(folder, "--output_dir" if args.output_dir else "RUN_DIR")
    folder.mkdir(parents=True, exist_ok=True)
    logs = write_logs(loaded, folder) if loaded else []
    results = write_lm_eval(args.run_dir, folder) if args.lm_eval else []
    found = {"logs": [str(path) for path in logs], "lm_eval": [str(path) for path in results]}
    return Outcome(found, lambda: print("\n".join(map(str, [*logs, *results]))))
