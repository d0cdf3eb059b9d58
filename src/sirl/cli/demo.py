"""Run the whole experiment on the bundled model: `sirl run --config demo` with smaller sizes, or in full (`--full`).

It first prints how long it will take; `--full` takes 25 to 60 minutes on two CPU cores.

The bundled model is a model organism: a small chat model trained to refuse most direct requests and to give in to many
jailbreaks, so that there is something to harden. Its results say nothing about other models.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sirl
from sirl.cli import run as run_command
from sirl.cli.common import Outcome

if TYPE_CHECKING:
    from sirl.experiment.config import RunConfig

RESUME_HINT = run_command.RESUME_HINT

QUICK = Path(sirl.__file__).parent / "configs" / "sizes" / "demo-quick.yaml"
"""What is laid over the configuration `demo` without `--full`: sizes alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl demo`."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the smaller measurements; this is the default")
    size.add_argument(
        "--full",
        action="store_true",
        help="measure more (100 goals per attack, both decodings) in runs/demo-full; takes 25 to 60 minutes",
    )
    run_command.add_overrides(parser)


def run(args: argparse.Namespace) -> Outcome:
    """`sirl run` with the configuration of the demo in one of its two sizes."""
    config = demo_config(args.full, run_command.overrides(args))
    return run_command.run_config(config, args, forecast=True)


def demo_config(full: bool, overrides: Mapping[str, Any]) -> RunConfig:
    """The configuration `demo` as it is, in a folder of its own, or with the sizes of `QUICK`; then `overrides`."""
    from sirl.experiment.config import load_config, merge, parse_config, put, read_yaml

    if full:
        return load_config("demo", {"name": "demo-full", **overrides})
    data = merge(read_yaml("demo"), read_yaml(str(QUICK)))
    for key, value in overrides.items():
        put(data, key, value)
    return parse_config(data, "demo")
