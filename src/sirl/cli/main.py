"""`sirl`: one command per stage, and `sirl run` for all of them.

A command's module is imported only when that command is called, so that `sirl --help` answers at once. Each offers
`add_arguments(parser)`, `run(args) -> Outcome` and `RESUME_HINT` (how to continue after Ctrl-C); `train`, whose flags
are those of a trainer's dataclasses, offers `parse(argv) -> args` instead of the first.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sirl.cli.common import Outcome, Parser, end_bars, note
from sirl.disk import reason, refused, takes_no_more
from sirl.errors import CannotWriteError, UserError, name_flags, suggestion
from sirl.records import to_json
from sirl.redaction import redact, redact_text

COMMANDS = {
    "demo": "run the whole experiment on the bundled model",
    "run": "run a whole experiment from one YAML file",
    "gap": "measure the entropy gap between refusals and answers",
    "train": "harden a model: GRPO with its own confidence as the reward",
    "attack": "attack a model with jailbreaks and judge its answers",
    "eval": "measure what hardening costs: capability and over-refusal",
    "judge": "label responses from anywhere as refusal or compliance",
    "referee": "test a model with garak or Inspect",
    "report": "write the report and the summary of a run",
    "view": "browse runs on a local page",
    "gate": "check a run against rules, for CI",
    "export": "write a run in the formats of other tools",
    "compare": "compare SIRL with other methods and with variants",
    "card": "write the model card of a hardened model, and upload both",
    "fetch": "download a known model into the cache",
    "list": "list attacks, judges, rewards, methods, data and configurations",
}


HEAVY = ("demo", "run", "gap", "train", "attack", "eval", "compare", "referee")
"""Commands that hold a model in memory."""

PARALLEL = ("train", "list")
"""Commands that may be started as several processes, by `accelerate launch` or torchrun."""

HUGE_PAGES = "glibc.malloc.hugetlb"
"""The setting of glibc that they are started with."""


def entry() -> int:
    """`main` as a program of its own, which may choose its memory allocator's settings."""
    _take_huge_pages()
    return main()


def _take_huge_pages() -> None:
    """Start this process anew with 2 MB pages for its heap, where Linux gives them on request only.

    A model's activations touch gigabytes of new memory, and faulting that in 4 kB at a time can take longer than the
    arithmetic, above all in virtual machines. glibc reads the setting once, before Python runs.
    """
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if len(sys.argv) < 2 or sys.argv[1] not in HEAVY or HUGE_PAGES in tunables:
        return
    if mode.is_file() and "[madvise]" in mode.read_text():
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{HUGE_PAGES}=1"]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0, or 2 after a user's mistake, 130 after Ctrl-C, 143 after SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    name_flags()
    _quiet_libraries()
    command = next((w for w in words if w in COMMANDS), None)
    try:
        with _terminable():
            outcome, as_json = _dispatch(words)
            _print(outcome, as_json)
            return outcome.exit_code
    except UserError as error:
        return _failed(str(error))
    except KeyboardInterrupt as stop:
        module = importlib.import_module(f"sirl.cli.{command}") if command else None
        anew = ", without --overwrite" if "--overwrite" in words else ""
        how, code = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        end_bars()
        note(f"sirl: {how}; {getattr(module, 'RESUME_HINT', 'run it again')}{anew}")
        return code
    except BrokenPipeError:  # `sirl list attacks | head`: python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _failed(f"{str(error.filename)[:80]}...: a name that is longer than this system takes")
        if not refused(error):
            raise
        if takes_no_more(error):
            return _failed(str(CannotWriteError(error.filename or "a file", reason(error))))
        # whoever writes says so itself: this may as well be a file that cannot be read
        return _failed(f"{error.filename or 'a file'}: {reason(error)}; see to its permissions, or to the disk")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: the stage is noted as interrupted, and how to go on is said."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, where nobody else has a use for it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> None:
    raise Terminated


def _failed(message: str) -> int:
    end_bars()
    note(f"sirl: error: {' '.join(message.split())}")
    return 2


def _dispatch(words: list[str]) -> tuple[Outcome, bool]:
    parser = Parser(prog="sirl", description="Harden a chat model with its own confidence, and measure what it costs.")
    parser.add_argument("--version", action="version", version=f"sirl {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    chosen = words[0] if words else ""
    if chosen and not chosen.startswith("-") and chosen not in COMMANDS:
        raise UserError(f"no command {chosen!r}{suggestion(chosen, COMMANDS, most=len(COMMANDS))}")
    module: Any = importlib.import_module(f"sirl.cli.{chosen}") if chosen in COMMANDS else None
    if hasattr(module, "parse"):
        args = module.parse(words[1:])
    else:
        for name, text in COMMANDS.items():
            command = commands.add_parser(name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter)
            if name == chosen:
                command.description = module.__doc__
                module.add_arguments(command)
                command.add_argument("--json", action="store_true", help="print one JSON document to stdout")
        args = parser.parse_args(words or ["--help"])
    if chosen not in PARALLEL and (size := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
        if os.environ.get("RANK", "0") != "0":  # one of them speaks
            return Outcome(None, lambda: None, exit_code=2), False
        raise UserError(
            f"sirl {chosen} is one process, and WORLD_SIZE is {size}: start it without `accelerate launch` or "
            "torchrun, which are for `sirl train` alone"
        )
    # whatever a library prints must not break the one JSON document on stdout
    with contextlib.redirect_stdout(sys.stderr):
        return module.run(args), args.json


def _print(outcome: Outcome, as_json: bool) -> None:
    if outcome.document is None:  # of several processes one speaks
        return
    if as_json:
        print(to_json(redact(outcome.document)))
    else:
        outcome.show()
    sys.stdout.flush()


def _version() -> str:
    from sirl import __version__

    return __version__


def _quiet_libraries() -> None:
    """Leave stderr to our own progress; the user's own settings win."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # deprecations between libraries are for us to mend, not for the user
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate|torch)\b")
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_secrets)
    logging.getLogger("sirl").setLevel(logging.INFO)
    for name in ("huggingface_hub", "datasets", "transformers", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact_text(record.getMessage()), ()
    return True


if __name__ == "__main__":
    sys.exit(entry())
