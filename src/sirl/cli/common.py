"""What the commands share: their result, their flags, tables. Imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from sirl.chat.template import parse_arguments
from sirl.errors import UserError
from sirl.records import MAX_SEED
from sirl.redaction import redact_text

if TYPE_CHECKING:
    from sirl.generation.base import TextEngine
    from sirl.judges.run import Reason
    from sirl.judges.validate import Agreement


@dataclass(frozen=True)
class Outcome:
    """What a command found: one JSON document for `--json` (None: nothing to say), and how to show it to a person."""

    document: Any
    show: Callable[[], None]
    exit_code: int = 0


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line like all others, with no usage text before it."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` in place of printing and leaving."""
        raise UserError(message)


def note(text: str) -> None:
    """A line for the person at the terminal; stdout stays free for results."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in redact_text(text))
    with suppress(OSError):  # see `sirl.progress`
        print(f"{shown}\n", end="", file=sys.stderr, flush=True)


def end_bars() -> None:
    """End the lines of tqdm's progress bars that libraries left open, as an exception makes them do."""
    tqdm = sys.modules.get("tqdm.std")
    for bar in list(getattr(getattr(tqdm, "tqdm", None), "_instances", ())):
        with suppress(OSError):
            bar.close()


def positive_int(text: str) -> int:
    """argparse type: a whole number from 1 up."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def seed_number(text: str) -> int:
    """argparse type: a seed that every generator takes (`MAX_SEED`)."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if not 0 <= value <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"must be 0 to {MAX_SEED}, got {value}")
    return value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table on stdout, wrapped to the terminal. The cells are shown as they are, never as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(row[i][:1].isdigit() or row[i] in ("-", "") for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Which model answers, and how it is run."""
    parser.add_argument(
        "--model_name_or_path",
        required=True,
        help="hub id, folder, GGUF file (or org/name:file.gguf), or known name such as demo (sirl list models)",
    )
    parser.add_argument(
        "--engine",
        default="local",
        help="local (default), vllm, or the address of an OpenAI-compatible server; append options after a ?, such as "
        "local?max_cache_gb=8 or 'vllm?tensor_parallel_size=4&gpu_memory_utilization=0.5&max_model_len=8192'; vLLM "
        "also takes dtype=float32, and enforce_eager=true to compile nothing",
    )
    parser.add_argument("--model_revision", help="commit, branch or tag on the hub (default: the newest commit)")
    parser.add_argument("--seed", type=seed_number, default=0, help="random seed (default: %(default)s)")
    add_template_flag(parser)


def add_template_flag(parser: argparse.ArgumentParser) -> None:
    """Arguments of the model's chat template."""
    parser.add_argument(
        "--chat_template_kwargs",
        type=parse_arguments,
        metavar="KEY=VALUE,...",
        help="chat template arguments for every stage, as JSON or KEY=VALUE, such as enable_thinking=false",
    )


def check_revision(args: argparse.Namespace) -> None:
    """Raise `UserError` for a revision that nothing would look at."""
    from sirl.provenance import check_has_versions

    if args.model_revision is not None and args.engine.startswith(("http://", "https://")):
        raise UserError(f"--model_revision {args.model_revision}: a server chooses its model itself; leave it out")
    check_has_versions("--model_revision", args.model_revision, args.model_name_or_path)


def engine_of(args: argparse.Namespace) -> TextEngine:
    """The engine that the flags of `add_engine_flags` name."""
    from sirl.generation import load_engine

    given = {"revision": args.model_revision, "chat_template_kwargs": args.chat_template_kwargs}
    more: dict[str, Any] = {key: value for key, value in given.items() if value}
    return load_engine(args.model_name_or_path, engine=args.engine, **more)


def settings_of(args: argparse.Namespace, left_out: Sequence[str]) -> dict[str, Any]:
    """A stage's flags, for its manifest. A revision that was not given is left out, as before there were any."""
    kept = {k: v for k, v in vars(args).items() if k not in left_out}
    return {k: v for k, v in kept.items() if v is not None or not k.endswith("_revision")}


def add_judges_flag(parser: argparse.ArgumentParser) -> None:
    """Who judges."""
    parser.add_argument(
        "--judge",
        default="refusal",
        help="comma-separated names (sirl list judges); NAME@MODEL or NAME@http://HOST:PORT/v1#MODEL for a judge that "
        "asks a model; package.module:Class for your own; the first one labels refusals (default: %(default)s)",
    )


def print_agreement(pairs: Sequence[Agreement]) -> None:
    """How far judges agree with each other; nothing where there is but one."""
    if pairs:
        print("\nAgreement of the judges")
        rows = [
            [" and ".join(p.judges), p.on, str(p.n), str(p.agreed), "-" if p.kappa is None else f"{p.kappa:.3f}"]
            for p in pairs
        ]
        print_table(["judges", "on", "n", "agreed", "kappa"], rows)


def print_reasons(reasons: Sequence[Reason], most: int = 5) -> None:
    """Why answers have no verdict, commonest first; nothing where all have one."""
    if reasons:
        print("\nNot scored, by reason" + (f" (the commonest {most})" if len(reasons) > most else ""))
        print_table(["reason", "times"], [[one.reason, str(one.count)] for one in reasons[:most]])


def percent_cell(rate: float | None) -> str:
    """A rate for a table; a dash where there is none."""
    return "-" if rate is None else f"{rate:.1%}"
