"""Is there an instinct to train? Entropy of refusals against that of answers.

Draws k responses to every prompt, judges each refused or not and compares their mean token entropies. SIRL can only
sharpen a model whose refusals are its more confident answers (verdict: present).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sirl.cli.common import Outcome, add_engine_flags, check_revision, engine_of, positive_int, settings_of
from sirl.errors import UserError

GO_ON = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl gap`."""
    add_engine_flags(parser)
    parser.add_argument(
        "--dataset_name", default="demo/behaviours", help="harmful requests: bundled name, file, org/name:config@split"
    )
    parser.add_argument("--benign_dataset_name", help="benign requests, reported beside")
    parser.add_argument("--unlabeled", action="store_true", help="the prompts are a mixture, such as training prompts")
    parser.add_argument("--prompt_column", help="column of the prompts' text")
    parser.add_argument("--max_prompts", type=positive_int, default=64, help="of either kind, drawn under the seed")
    parser.add_argument("--k", type=positive_int, default=4, help="responses a prompt (default: %(default)s)")
    parser.add_argument("--max_new_tokens", type=positive_int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--judge", default="refusal", help="one that tells refusals (sirl list judges)")
    parser.add_argument("--output_dir", type=Path, help="folder for gap.json, gap_samples.jsonl and the plot gap.svg")
    parser.add_argument("--overwrite", action="store_true", help="clear the folder of an earlier run first")


def run(args: argparse.Namespace) -> Outcome:
    """Measure the gap."""
    from sirl.gap import GapConfig, render_gap_table
    from sirl.generation.options import split_engine
    from sirl.judges import refusal_judge
    from sirl.lock import sole_writer
    from sirl.manifest import Manifest, check_writable
    from sirl.progress import terminal_bar
    from sirl.prompts import load_prompts
    from sirl.provenance import data_sources, model_source
    from sirl.stages import gap_prompts, measure_gap

    if split_engine(args.engine)[0] != "local":
        raise UserError(f"--engine {args.engine}: gives no entropies; sirl gap needs --engine local")
    check_revision(args)
    config = GapConfig(k=args.k, max_new_tokens=args.max_new_tokens, temperature=args.temperature, seed=args.seed)
    judge = refusal_judge(args.judge)
    prompts = load_prompts(
        args.dataset_name, column=args.prompt_column, limit=args.max_prompts, seed=args.seed, with_category=True
    )
    kind = "unlabeled" if args.unlabeled else "harmful"
    benign_flag, benign_source = "--benign_dataset_name", args.benign_dataset_name
    benign = load_prompts(benign_source, flag=benign_flag, with_category=True) if benign_source else []
    chosen = gap_prompts(prompts, kind, benign, args.max_prompts, args.seed)  # type: ignore[arg-type]
    if args.output_dir is None:
        engine = engine_of(args)
        result = measure_gap(engine, judge, chosen, config, None, terminal_bar)
    else:
        left_out = ("output_dir", "overwrite", "json", "command")
        settings = settings_of(args, left_out)
        check_writable(args.output_dir)
        with sole_writer(args.output_dir):
            # first of all: a model that cannot be used leaves no trace
            engine = engine_of(args)
            manifest = Manifest.join(
                args.output_dir, "gap", settings, seed=args.seed, command=sys.argv, overwrite=args.overwrite
            )
            with manifest.stage("gap"):
                data = data_sources({k: getattr(args, k) for k in ("dataset_name", "benign_dataset_name")})
                manifest.note_sources(
                    "gap", {"model": model_source(args.model_name_or_path, args.model_revision), **data}
                )
                result = measure_gap(engine, judge, chosen, config, args.output_dir, terminal_bar)
            manifest.finish()

    def show() -> None:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 140).print(render_gap_table(result))

    return Outcome(result.to_dict(), show)
