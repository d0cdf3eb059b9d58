"""Browse runs on a local page: a table of runs, runs side by side, live training curves, conversations.

The page is read-only and can be reached from this machine only. Stop it with Ctrl-C.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sirl.cli.common import Outcome, note
from sirl.errors import UserError

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl view`."""
    parser.add_argument("runs_dir", metavar="RUNS_DIR", type=Path, help="folder that holds run folders, such as runs")
    parser.add_argument(
        "--port", type=int, default=8765, help="port on 127.0.0.1, or 0 for any free one (default: 8765)"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Serve until Ctrl-C."""
    from sirl.view.server import LOOPBACK, View

    if not args.runs_dir.is_dir():
        raise UserError(f"RUNS_DIR {args.runs_dir}: no such folder; give the one that holds your runs, such as runs")
    if not 0 <= args.port < 65_536:
        raise UserError(f"--port {args.port}: expected 0 to 65535")
    try:
        server = View(args.runs_dir, args.port)
    except OSError as error:
        raise UserError(f"--port {args.port}: {LOOPBACK} does not give it ({error.strerror}); try --port 0") from None
    with server:
        note(f"{server.url} shows {args.runs_dir}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("sirl: ended")
    return Outcome({"url": server.url}, lambda: None)
