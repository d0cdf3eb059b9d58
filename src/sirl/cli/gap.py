"""Measure the entropy gap: is a model more certain when it refuses than when it answers?

Samples k responses to every prompt, labels each as refused or answered and compares their mean token entropies. SIRL
can only sharpen a model whose refusals are its more confident responses (verdict: present).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sirl.cli.common import (
    Outcome,
    add_engine_flags,
    check_revision,
    engine_of,
    positive_int,
    print_table,
    settings_of,
)
from sirl.errors import UserError
from sirl.progress import counted
from sirl.records import write_json
from sirl.run_folder import GAP_WRAPPINGS

if TYPE_CHECKING:
    from sirl.evals.probe import Probed
    from sirl.generation.local import LocalEngine
    from sirl.records import Prompt

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl gap`."""
    add_engine_flags(parser)
    parser.add_argument(
        "--dataset_name",
        default="demo/behaviours",
        help="harmful requests: bundled name, file or org/name:config@split (default: %(default)s)",
    )
    parser.add_argument("--benign_dataset_name", help="benign requests to report separately")
    parser.add_argument(
        "--unlabeled", action="store_true", help="treat --dataset_name as a mixture without harm labels"
    )
    parser.add_argument(
        "--wrappings",
        help="fit a probe that tells harm in the wrappings of these static attacks (comma-separated names, or static)",
    )
    parser.add_argument(
        "--probe_dataset_name",
        default="demo/contrast",
        help="requests to fit the probe on, with the category harmful or benign (default: %(default)s)",
    )
    parser.add_argument("--prompt_column", help="read the prompts from this column")
    parser.add_argument(
        "--max_prompts", type=positive_int, default=64, help="use at most this many of each kind (default: 64)"
    )
    parser.add_argument("--k", type=positive_int, default=4, help="responses per prompt (default: %(default)s)")
    parser.add_argument(
        "--max_new_tokens", type=positive_int, default=64, help="token limit of a response (default: 64)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature (default: 1)")
    parser.add_argument(
        "--judge", default="refusal", help="judge that labels refusals (sirl list judges; default: %(default)s)"
    )
    parser.add_argument("--output_dir", type=Path, help="folder for gap.json, gap_samples.jsonl and the plot gap.svg")
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the files of an earlier run in the folder first"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Measure the gap."""
    from sirl.gap import GapConfig, render_gap_table
    from sirl.generation.options import split_engine
    from sirl.judges import refusal_judge
    from sirl.lock import sole_writer
    from sirl.manifest import check_writable
    from sirl.progress import terminal_bar
    from sirl.prompts import load_prompts
    from sirl.stages import gap_prompts, measure_gap

    if split_engine(args.engine)[0] != "local":
        raise UserError(f"--engine {args.engine}: gives no entropies; sirl gap needs --engine local")
    check_revision(args)
    if not args.temperature > 0:
        raise UserError(f"--temperature {args.temperature:g}: must be above 0, because responses are sampled")
    config = GapConfig(k=args.k, max_new_tokens=args.max_new_tokens, temperature=args.temperature, seed=args.seed)
    judge = refusal_judge(args.judge)
    prompts = load_prompts(
        args.dataset_name, column=args.prompt_column, limit=args.max_prompts, seed=args.seed, with_category=True
    )
    kind = "unlabeled" if args.unlabeled else "harmful"
    benign_flag, benign_source = "--benign_dataset_name", args.benign_dataset_name
    benign = load_prompts(benign_source, flag=benign_flag, with_category=True) if benign_source else []
    chosen = gap_prompts(prompts, kind, benign, args.max_prompts, args.seed)  # type: ignore[arg-type]
    probe = _probe(args, prompts, benign) if args.wrappings else None
    if args.output_dir is None:
        engine: Any = engine_of(args)
        result = measure_gap(engine, judge, chosen, config, None, terminal_bar)
        probed = probe(engine) if probe else None
    else:
        check_writable(args.output_dir)
        with sole_writer(args.output_dir), _recorded(args) as engine:
            result = measure_gap(engine, judge, chosen, config, args.output_dir, terminal_bar)
            probed = probe(engine) if probe else None
            if probed:
                write_json(args.output_dir / GAP_WRAPPINGS, probed.to_dict())

    def show() -> None:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 140).print(render_gap_table(result))
        if probed:
            _show_probe(probed)

    return Outcome(result.to_dict() | ({"wrappings": probed.to_dict()} if probed else {}), show)


@contextmanager
def _recorded(args: argparse.Namespace) -> Iterator[Any]:
    """The engine; what is done with it is a stage in the manifest of the output folder."""
    from sirl.manifest import Manifest
    from sirl.provenance import data_sources, model_source

    settings = settings_of(args, ("output_dir", "overwrite", "json", "command"))
    engine = engine_of(args)  # first of all: a model that cannot be used leaves no trace
    manifest = Manifest.open_stage(
        args.output_dir, "gap", settings, seed=args.seed, command=sys.argv, overwrite=args.overwrite
    )
    with manifest.stage("gap"):
        named = ("dataset_name", "benign_dataset_name", *(["probe_dataset_name"] if args.wrappings else []))
        data = data_sources({name: getattr(args, name) for name in named})
        manifest.note_sources("gap", {"model": model_source(args.model_name_or_path, args.model_revision), **data})
        yield engine
    manifest.finish()


def _probe(
    args: argparse.Namespace, harmful: Sequence[Prompt], benign: Sequence[Prompt]
) -> Callable[[LocalEngine], Probed]:
    """Everything that the probe needs but the engine, found and checked before any work."""
    from sirl.evals.adversarial_benign import resolve_wrappings
    from sirl.evals.probe import FLAG, labelled, probe_wrappings
    from sirl.progress import terminal_bar
    from sirl.prompts import check_disjoint, drawn_prompts, load_prompts

    if args.unlabeled:
        raise UserError("--wrappings: needs requests that are known to be harmful; leave out --unlabeled")
    wrappings = resolve_wrappings(args.wrappings, flag="--wrappings")
    benign = benign or load_prompts("demo/overrefusal", with_category=True)
    read_on = {"harmful": harmful, "benign": drawn_prompts(benign, args.max_prompts, args.seed)}
    fit_on = labelled(load_prompts(args.probe_dataset_name, flag=FLAG, with_category=True))
    fitted = [p for part in fit_on.values() for p in part]
    for flag, part in (("--dataset_name", harmful), ("--benign_dataset_name", read_on["benign"])):
        check_disjoint(fitted, part, train_name=FLAG, test_name=flag)

    def run(engine: LocalEngine) -> Probed:
        forward = 2 * len(fitted) + (1 + len(wrappings)) * sum(map(len, read_on.values()))
        with terminal_bar("probe") as progress:
            return probe_wrappings(engine, wrappings, fit_on, read_on, args.seed, counted(progress, forward))

    return run


def _show_probe(probed: Probed) -> None:
    """AUC by wrapping, the weakest last, and the verdict."""
    rows = sorted(probed.wrappings, key=lambda reading: -reading.auc)
    print(f"\nCan harm be read? A linear probe at layer {probed.layer}, fitted on {probed.fitted} bare and wrapped")
    print(f"requests; AUC on others, {probed.bare.harmful} harmful and {probed.bare.benign} benign")
    cells = [
        [r.wrapping, r.family, "" if r.readable else "encoded", f"{r.auc:.2f}", f"{r.low:.2f} to {r.high:.2f}", there]
        for r in (probed.bare, *rows)
        for there in ["yes" if r.there else "no"]
    ]
    print_table(["wrapping", "family", "request", "AUC", "95%", "there"], cells)
    print(f"\n{probed.verdict}")
