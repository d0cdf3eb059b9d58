"""Write report.html and summary.json of a run from the files in its folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from sirl.cli.common import Outcome
from sirl.run_folder import SUMMARY

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl report`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="run folder, such as runs/demo")


def run(args: argparse.Namespace) -> Outcome:
    """Render the report. A stage that was not run is left out of it."""
    from sirl.lock import sole_writer
    from sirl.manifest import check_writable
    from sirl.records import write_json
    from sirl.report.render import render_report
    from sirl.results.load import check_holds_run, load_run
    from sirl.results.summary import summary_of

    check_holds_run(args.run_dir)
    load_run(args.run_dir)  # says what is wrong with the folder before anything is written into it
    check_writable(args.run_dir, "RUN_DIR")
    with sole_writer(args.run_dir, "RUN_DIR"):
        write_json(args.run_dir / SUMMARY, summary_of(args.run_dir).to_dict())
        report = render_report(args.run_dir)
    return Outcome({"report": str(report)}, lambda: print(report))
