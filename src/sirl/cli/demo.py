"""The whole story on the bundled model: `sirl run --config demo`. 25 to 60 minutes on two CPU cores.

The bundled model is a model organism: a small chat model taught to refuse most direct requests and to fall to a good
part of the jailbreaks, so that there is something to harden. Its figures say nothing about other models.
"""

from __future__ import annotations

import argparse

from sirl.cli import run as run_command
from sirl.cli.common import Outcome

GO_ON = run_command.GO_ON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl demo`."""
    run_command.add_overrides(parser)


def run(args: argparse.Namespace) -> Outcome:
    """`sirl run` with the configuration of the demo."""
    args.config = "demo"
    return run_command.run(args)
