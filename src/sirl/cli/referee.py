"""Test a model with an independent tool: garak (NVIDIA) or an Inspect task (UK AISI).

The model is served to the tool on this machine. The tool may be installed in another environment: give its path with
--executable. Its own report is kept next to referee.json.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sirl.cli.common import (
    Outcome,
    add_engine_flags,
    check_revision,
    engine_of,
    note,
    percent_cell,
    positive_int,
    print_reasons,
    print_table,
)
from sirl.errors import UserError

if TYPE_CHECKING:
    from sirl.referees import Referee

RESUME_HINT = "run it again with --overwrite"
GOALS = "demo/behaviours"
WRITTEN = (
    *("referee.json", "garak.json", "garak.log", "garak.report.jsonl", "garak.report.html", "garak.hitlog.jsonl"),
    *("samples.jsonl", "inspect.log", "inspect_logs"),
)
"""What a run leaves in its folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl referee`."""
    parser.add_argument("--with", dest="referee", choices=("garak", "inspect"), required=True, help="tool to run")
    add_engine_flags(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for referee.json and the tool's report")
    parser.add_argument(
        "--probes", help="comma-separated names: probes of garak, or static attacks of sirl for inspect"
    )
    parser.add_argument(
        "--max_goals",
        type=positive_int,
        default=20,
        help="use at most this many goals (garak: prompts) per probe (default: %(default)s)",
    )
    parser.add_argument(
        "--detectors", help="garak: comma-separated names (default: two that detect refusals, or those of the probe)"
    )
    parser.add_argument(
        "--goals", help=f"inspect: harmful requests, as bundled name, file or org/name:config@split (default: {GOALS})"
    )
    parser.add_argument("--prompt_column", help="inspect: read the goals from this column")
    parser.add_argument("--grader", help="inspect: also grade answers with this model, named as Inspect names models")
    parser.add_argument(
        "--max_new_tokens", type=positive_int, default=64, help="token limit of an answer (default: 64)"
    )
    parser.add_argument("--executable", help="path of the tool (default: next to this Python, or on PATH)")
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the files of an earlier run in the folder first"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Check everything, load the model, let the tool run, read its report."""
    from sirl.lock import sole_writer
    from sirl.manifest import check_writable
    from sirl.referees import find_program

    check_revision(args)
    referee = _referee(args)
    program = find_program(referee, args.executable)
    check_writable(args.output_dir)
    with sole_writer(args.output_dir):
        document = _examine(args, referee, program)
    return Outcome({"output_dir": str(args.output_dir), **document}, lambda: _show(document, args.output_dir))


def _examine(args: argparse.Namespace, referee: Referee, program: str) -> dict[str, Any]:
    """Serve the model to the tool; returns the content of `referee.json`."""
    from sirl.generation import SamplingParams
    from sirl.generation.options import split_engine
    from sirl.generation.unanswered import commonest, require_engine
    from sirl.records import write_json
    from sirl.referees import Served, run_program
    from sirl.referees.server import EngineServer, serving

    engine = engine_of(args)
    if split_engine(args.engine)[0] != "local":  # a server may refuse every question
        require_engine(engine, SamplingParams(max_new_tokens=args.max_new_tokens, seed=args.seed))
    _clear(args.output_dir, args.overwrite)  # a model that cannot be used leaves earlier findings alone
    name = re.sub(r"[^\w.-]+", "-", args.model_name_or_path).strip("-.") or "model"
    server = EngineServer(engine, name, max_new_tokens=args.max_new_tokens, seed=args.seed)
    served = Served(server.url, server.key, name, args.max_new_tokens, args.seed)
    log = args.output_dir / f"{args.referee}.log"
    note(f"{args.referee} examines {args.model_name_or_path}; what it prints goes to {log}")
    with serving(server):
        run_program([program, *referee.command(served, args.output_dir)], referee.environment(served), log)
    version, findings = referee.read(args.output_dir)
    reasons = [{"reason": reason, "count": count} for reason, count in commonest(server.failures)]
    if not server.spoken:
        why = f"; the reason: {reasons[0]['reason']}" if reasons else ""
        raise UserError(f"{args.referee} asked no question that the model could answer; see {log}{why}")
    document = {
        "tool": args.referee,
        "version": version,
        "model": args.model_name_or_path,
        "model_revision": args.model_revision,
        "chat_template_kwargs": args.chat_template_kwargs,
        "engine": args.engine,
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
        "max_goals": args.max_goals,
        "answered": server.answered,
        "sources": _sources(args),
        "reasons": reasons,
        "findings": [finding.row() for finding in findings],
    }
    write_json(args.output_dir / "referee.json", document)
    return document


def _sources(args: argparse.Namespace) -> dict[str, Any]:
    """Which versions of model and requests were used, as a run's manifest has them."""
    from sirl.provenance import data_sources, model_source

    served = "://" in args.engine  # by a server that chooses its model itself
    model = {} if served else {"model": model_source(args.model_name_or_path, args.model_revision)}
    return {**model, **(data_sources({"goals": args.goals or GOALS}) if args.referee == "inspect" else {})}


def _referee(args: argparse.Namespace) -> Referee:
    """The referee, made with what the user chose."""
    from sirl.prompts import load_prompts
    from sirl.referees.garak_referee import Garak
    from sirl.referees.inspect_referee import Inspect

    if args.referee == "garak":
        for flag in ("goals", "prompt_column", "grader"):
            if getattr(args, flag) is not None:
                raise UserError(
                    f"--{flag}: garak brings its own prompts and detectors; leave it out, or --with inspect"
                )
        return Garak(args.probes, args.detectors, args.max_goals)
    if args.detectors is not None:
        raise UserError("--detectors: only for garak; for inspect, --grader names a second judge")
    goals = load_prompts(
        args.goals or GOALS, column=args.prompt_column, limit=args.max_goals, seed=args.seed, flag="--goals"
    )
    return Inspect(args.probes, goals, args.grader)


def _clear(folder: Path, overwrite: bool) -> None:
    """Make sure that no report of another run is taken for this one's."""
    left = [path for name in WRITTEN if (path := folder / name).exists()]
    if left and not overwrite:
        raise UserError(f"--output_dir {folder}: has {left[0].name} of an earlier run; give another, or --overwrite")
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _show(document: dict[str, Any], folder: Path) -> None:
    print(f"\n{document['tool']} {document['version']}: answers that passed (95% intervals)")
    rows = [
        [
            f["probe"],
            f["test"],
            *(percent_cell(f[key]) for key in ("rate", "low", "high")),
            str(f["total"]),
            str(f["unscored"]),
        ]
        for f in document["findings"]
    ]
    print_table(["probe", "test", "passed", "from", "to", "scored", "unscored"], rows)
    print_reasons(document["reasons"])
    print(f"\n{folder / 'referee.json'}")
