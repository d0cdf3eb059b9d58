"""Write a run in a format that other tools read: logs of Inspect."""

from __future__ import annotations

import argparse
from pathlib import Path

from sirl.cli.common import Outcome
from sirl.errors import UserError

GO_ON = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl export`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a run, such as runs/demo")
    parser.add_argument("--inspect", action="store_true", help="logs of Inspect, one for each phase (extra `inspect`)")
    parser.add_argument("--output_dir", type=Path, help="folder for the logs (default: RUN_DIR)")


def run(args: argparse.Namespace) -> Outcome:
    """Read the run, then write."""
    from sirl.inspect_log import write_logs
    from sirl.manifest import check_writable
    from sirl.results.load import load_run

    if not args.inspect:
        raise UserError("--inspect: no format given; --inspect is the one that there is")
    folder = args.output_dir or args.run_dir
    loaded = load_run(args.run_dir)
    check_writable(folder, "--output_dir" if args.output_dir else "RUN_DIR")
    folder.mkdir(parents=True, exist_ok=True)
    made = write_logs(loaded, folder)
    return Outcome({"logs": [str(path) for path in made]}, lambda: print("\n".join(map(str, made))))
