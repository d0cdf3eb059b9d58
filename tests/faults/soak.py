"""Ends `sirl run`, `train` and `attack` at random, resumes them, and compares: `python -m faults.soak --kills 200`.

Each chain starts a command in a new folder, ends it a few times in different ways (SIGKILL, SIGTERM, Ctrl-C, a disk
that takes no more, a server that goes away), then lets it finish. Nothing may be lost: the result must be that of an
uninterrupted run, bit for bit but for times. The last line says how many were not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Weights are read by threads of their own, whose first step sets torch's pool up; in a forked process that can meet the
# parent's ("Invalid thread pool"), which no process that a user starts does.
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

from faults.harness import Fault, run, small_disk, warm
from faults.scenarios import Chain, GoingServer, Reference, Scenario, draw, prepare, reference, remove, served


def main() -> int:
    """Exit code 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chain", type=int, default=4, help="at most so many kills of one command")
    parser.add_argument("--starts", type=int, default=40, help="processes that start on one folder at once")
    parser.add_argument("--keep", type=Path, help="keep the folders of failed chains here")
    args = parser.parse_args()
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the disk is unmounted and the server stopped
    warm()
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place) / "disk"
        with small_disk(disk) as obstacle:
            if obstacle:
                _say(f"no disk is filled up, as none may be mounted here ({obstacle})")
            soak = Soak(Path(place), disk, not obstacle, args.seed, args.keep)
            try:
                rush(soak.scenarios, Path(place), args.starts)
                while soak.kills < args.kills:
                    soak.chain(min(args.chain, args.kills - soak.kills))
            finally:
                soak.server.stop()
    minutes = (time.monotonic() - started) / 60
    print(
        f"soak: {soak.kills} kills, {soak.lost} lost, {soak.unequal} unequal, {soak.rude} ended badly, "
        f"{soak.chains} results compared, seed {args.seed}, {minutes:.1f} minutes"
    )
    return 1 if soak.lost or soak.unequal or soak.rude else 0


def rush(scenarios: Sequence[Scenario], place: Path, starts: int) -> None:
    """Start one command on one new folder many times at once: one of them writes, the others say so and leave."""
    (scenario,) = (s for s in scenarios if s.name == "attack")
    words = scenario.words(place / "rush")
    with ThreadPoolExecutor(starts) as pool:
        ends = list(pool.map(lambda _: run(words), range(starts)))
    late = [end for end in ends if end.code == 2 and "is being written by process" in end.output]
    late += [end for end in ends if end.code == 2 and "holds a finished" in end.output]
    if sorted(end.code for end in ends) != [0, *[2] * (starts - 1)] or len(late) != starts - 1:
        raise SystemExit("\n".join(f"{end.code}: {end.output}" for end in ends))
    _say(f"{starts} starts at once: one ran, {len(late)} were told")


class Soak:
    """What was found so far."""

    def __init__(self, place: Path, disk: Path, fills: bool, seed: int, keep: Path | None) -> None:
        self.place, self.disk, self.fills, self.rng, self.keep = place, disk, fills, random.Random(seed), keep
        self.kills = self.lost = self.unequal = self.rude = self.chains = 0
        self.scenarios = prepare(place)
        self.server = GoingServer()
        self.scenarios.append(served(place, self.server.port))
        self.references: dict[str, Reference] = {}
        self.turn: list[Scenario] = []

    def chain(self, most: int) -> None:
        """One command from nothing to its end."""
        if not self.turn:  # the kinds in turn, by their weights, so that a short soak has all of them
            self.turn = [s for s in self.scenarios for _ in range(round(10 * s.weight))]
            self.rng.shuffle(self.turn)
        scenario = self.turn.pop()
        if scenario.name not in self.references:
            folder = self.place / f"{scenario.name}-whole"
            self.references[scenario.name] = reference(scenario, folder)
            end = self.references[scenario.name].end
            _say(f"{scenario.name}: {end.seconds:.1f} s and {end.events} writings without faults")
        found = Chain(scenario, self.disk / f"{scenario.name}-{self.chains}", self.references[scenario.name])
        for _ in range(self.rng.randint(1, most)):
            if not self._strike(found):
                break
        found.finish()
        self._count(found)

    def _strike(self, chain: Chain) -> bool:
        if chain.scenario.name == "server" and self.rng.random() < 0.6:
            after = self.rng.uniform(0.0, chain.reference.end.seconds)

            def go_away() -> None:
                time.sleep(after)
                self.server.stop()

            struck = chain.strike(Fault(), go_away)
            self.server.start()
            return struck
        return chain.strike(draw(self.rng, chain.reference, self.fills))

    def _count(self, chain: Chain) -> None:
        self.chains += 1
        self.kills += chain.kills
        self.lost += any(p.startswith("lost") for p in chain.problems)
        self.unequal += any(p.startswith("unequal") for p in chain.problems)
        self.rude += sum(p.startswith("exit code") for p in chain.problems)
        _say(f"{chain.scenario.name}: {'; '.join(chain.history)}: {'FAILED' if chain.problems else 'equal'}")
        for problem in chain.problems:
            _say(f"  {problem}")
        if chain.problems and self.keep:
            self.keep.mkdir(parents=True, exist_ok=True)
            shutil.move(chain.folder, self.keep / chain.folder.name)
        else:
            remove(chain.folder)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
