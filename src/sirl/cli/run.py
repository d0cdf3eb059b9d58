"""Run a whole experiment from one YAML file: measure the gap, attack, train, attack again, judge, report.

The results are summary.json and report.html in the run folder. If interrupted, run the same command to continue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sirl.cli.common import Outcome, add_template_flag, percent_cell, print_reasons, print_table, seed_number
from sirl.errors import UserError
from sirl.run_folder import ATTACKS, BENIGN, REPORT, WRAPPED

if TYPE_CHECKING:
    from sirl.experiment.config import RunConfig
    from sirl.judges.run import Reason
    from sirl.results.interface import KindFigures, Summary

RESUME_HINT = "the same command continues from the stage it was in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl run`."""
    parser.add_argument("--config", required=True, help="YAML file or bundled configuration (sirl list configs)")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Flags that win over the file."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, such as train.max_steps=5; repeatable",
    )
    parser.add_argument("--name", help="name of the run")
    parser.add_argument("--seed", type=seed_number, help="random seed of all stages")
    parser.add_argument(
        "--model_name_or_path", help="base model: hub id, folder, GGUF file or known name (sirl list models)"
    )
    parser.add_argument("--model_revision", help="commit, branch or tag on the hub (default: the newest commit)")
    parser.add_argument("--output_dir", help="run folder (default: runs/NAME)")
    add_template_flag(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the files of an earlier run in the folder first"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Run every stage that is not done yet."""
    from sirl.experiment.config import load_config

    return run_config(load_config(args.config, overrides(args)), args)


def run_config(config: RunConfig, args: argparse.Namespace, forecast: bool = False) -> Outcome:
    """Run every stage of a configuration that is not done yet; `forecast` is as for `run_pipeline`."""
    from sirl.experiment.pipeline import run_pipeline
    from sirl.progress import terminal_bar
    from sirl.results.interface import Summary, made

    summary = run_pipeline(config, command=sys.argv, overwrite=args.overwrite, bar=terminal_bar, forecast=forecast)
    document = {"run_dir": str(config.run_dir), "report": str(config.run_dir / REPORT), **summary}
    return Outcome(document, lambda: show_summary(made(Summary, summary), config.run_dir))


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """`--set` pairs and the flags for common keys, as dotted keys."""
    keys = ("name", "seed", "model_name_or_path", "model_revision", "output_dir", "chat_template_kwargs")
    named = {key: getattr(args, key) for key in keys}
    return {**set_pairs(args.set), **{key: value for key, value in named.items() if value is not None}}


def set_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """The values of `--set`, which are YAML, by key."""
    from sirl.inputs.yaml_text import parse_yaml

    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--set: expected KEY=VALUE, got {pair!r}")
        try:
            out[key] = parse_yaml(text)
        except ValueError:
            raise UserError(f"--set {key}: {text!r} is not a YAML value") from None
    return out


def show_summary(summary: Summary, run_dir: Path) -> None:
    """Before and after in one small table."""
    from sirl.report.wording import ATTACK_NOUNS, count, with_ends

    def pair(figures: Summary | KindFigures, key: str) -> list[float | None]:
        return [getattr(figures, f"{key}_{phase}") for phase in ("before", "after")]

    def line(text: str, figures: Summary | KindFigures, key: str) -> list[str]:
        return [text, *map(percent_cell, pair(figures, key))]

    rows = [
        line(f"defence success rate (mean over {count(len(figures.attacks), ATTACK_NOUNS[kind])})", figures, "dsr")
        for kind, figures in summary.kinds.items()
    ]
    rows.append(line("goals that withstand every attack", summary, "worst_case_dsr"))
    kinds = {
        "plain_refusal": "refusals of plain benign prompts",
        "sounds_harmful_refusal": "refusals of benign prompts that sound harmful",
    }
    known = [key for key in kinds if any(value is not None for value in pair(summary, key))]
    rows += [line(kinds[key], summary, key) for key in known]
    if len(known) < len(kinds):  # prompts of other categories, or none
        rows.append(line("refusals of all benign prompts", summary, "benign_refusal"))
    if any(value is not None for value in pair(summary, "wrapped_refusal")):
        rows.append(line("refusals of benign prompts in the attacks' wrappings", summary, "wrapped_refusal"))
    told = (summary.dprime_before, summary.dprime_after)
    if any(told):
        words = ["-" if d is None else with_ends(d) for d in told]
        rows.append(["tells harmful from benign in the same wrappings (d')", *words])
    print()
    print_table(["", "before", "after"], rows)
    print_reasons(_reasons(run_dir))
    seconds = summary.seconds
    print(f"\ntime    {sum(seconds.values()):.0f} s ({', '.join(f'{k} {v:.0f}' for k, v in seconds.items())})")
    print(f"model   {summary.checkpoint}")
    print(f"report  {run_dir / REPORT}")


def _reasons(run_dir: Path) -> list[Reason]:
    """Why answers of a run have no verdict, over all that was asked."""
    from sirl.judges.run import why_unscored
    from sirl.records import Verdict, read_jsonl

    files = (run_dir / suite.verdicts for suite in (ATTACKS, BENIGN, WRAPPED))
    verdicts = [verdict for file in files if file.is_file() for verdict in read_jsonl(file, Verdict)]
    return why_unscored(verdicts, verdicts[0].judge) if verdicts else []
