"""Run every path to many processes and other engines that a CPU can, and end in one table.

    python -m scale                                  # all that the environments given can run
    python -m scale --only ddp zero3 --keep work     # some of them, and keep what they wrote
    python -m scale --model demo --only one ddp      # with the bundled model

`make scale` makes the environments first. A tiny model with random weights is trained and attacked, so that a path is
checked in minutes: a training by several processes has to give the advantages and weights of one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from scale.paths import ATTACKS, TRAININGS, Attempt, attack, train
from scale.tiny import write_inputs


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; 1 where something that was run came to another result."""
    names = [*TRAININGS, *ATTACKS]
    parser = argparse.ArgumentParser(prog="python -m scale", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="paths to run")
    parser.add_argument("--model", help="a model in place of the tiny ones, such as demo")
    parser.add_argument("--deepspeed", type=Path, help="Python of an environment with DeepSpeed and bitsandbytes")
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM")
    parser.add_argument("--limit", type=int, default=1800, help="seconds that a path may take (default 1800)")
    parser.add_argument("--keep", type=Path, help="folder for what the runs write; by default it is deleted")
    parser.add_argument("--output", type=Path, default=Path("scale.json"), help="where the figures go")
    args = parser.parse_args(argv)
    pythons = {"main": Path(sys.executable), "deepspeed": args.deepspeed, "vllm": args.vllm}
    found: list[Attempt] = []
    with tempfile.TemporaryDirectory(prefix="sirl-scale-") as temporary:
        work = (args.keep or Path(temporary)).resolve()
        write_inputs(work, args.model)
        for name in args.only:
            print(f"{name} ...", flush=True)
            made = (train if name in TRAININGS else attack)(name, pythons, work, args.limit)
            print("  " + made.line(), flush=True)
            found.append(made)
    args.output.write_text(json.dumps([vars(attempt) for attempt in found], indent=1) + "\n", encoding="utf-8")
    print("\n" + table(found))
    return 1 if any(attempt.equal is False for attempt in found) else 0


def table(found: list[Attempt]) -> str:
    """Markdown, a row for each path."""
    rows = ["| path | engine | ran | seconds | as one process |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(rows + [attempt.row() for attempt in found])


if __name__ == "__main__":
    sys.exit(main())
