"""The commands that are killed, and what their results are compared by: everything that they write, but for times."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from faults.harness import End, Fault, filled, run

TIMES = {
    "seconds",
    "tokens_per_second",
    "step_time",
    "started",
    "created",
    "finished",
    "resumed",
    "commands",
    "command",
    "git_commit",
    "sirl_commit",
}
"""Keys that no two runs have alike: times, how often a run was continued, and the commit, should it change."""

PATHS = {
    "output_dir",
    "checkpoint",
    "base",
    "run_dir",
    "report",
    "logging_dir",
    "_name_or_path",
    "base_model_name_or_path",
    "best_model_checkpoint",
}
"""Keys whose values name the folder of the run."""

WORDS = ("bread", "snack", "tomato", "story", "weather", "garden")


@dataclass(frozen=True)
class Scenario:
    """A command, as a function of the folder that it writes to, and how much of the soak it gets."""

    name: str
    words: Callable[[Path], list[str]]
    weight: float
    ordered: bool = True


def prepare(folder: Path) -> list[Scenario]:
    """Write a tiny model and data; returns the scenarios on them."""
    from tiny_models import tiny_model, tiny_tokenizer

    model = folder / "tiny"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    files = {}
    for number, name in enumerate(("train", "goals", "benign", "held", "dev-goals", "dev-benign")):
        rows = [{"id": f"{name}{i}", "prompt": f"{WORDS[number]} {i} für Å 夜?", "category": "plain"} for i in range(6)]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[name] = str(path)
    train = {
        "dataset_name": files["train"],
        "retention_dataset_name": files["held"],
        "max_steps": 6,
        "save_steps": 2,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "retention_tokens": 4,
        "retention_batch_size": 2,
        "learning_rate": 0.01,
        "report_to": "none",
        "use_cpu": True,
    }
    whole = {
        "name": "tiny",
        "model_name_or_path": str(model),
        "gap": {"max_prompts": 3, "k": 2, "max_new_tokens": 6, "required": False},
        "train": {**train, "use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"},
        "attack": {
            "attacks": "direct,base64,best_of_n",
            "goals": files["goals"],
            "max_goals": 4,
            "max_new_tokens": 6,
            "budget": 3,
        },
        "development": {
            "every": 2,
            "attacks": "direct",
            "goals": files["dev-goals"],
            "overrefusal": files["dev-benign"],
            "max_new_tokens": 6,
        },
        "evals": {"overrefusal": files["benign"], "max_new_tokens": 6, "wrappings": "base64", "max_wrapped": 2},
    }
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(whole))
    flags = {"model_name_or_path": str(model), **train, "max_steps": 4, "beta": 0.01}
    (folder / "train.yaml").write_text(yaml.safe_dump(flags))
    attack = ["attack", "--model_name_or_path", str(model), "--goals", files["goals"], "--max_new_tokens", "6"]
    attack += ["--attacks", "direct,base64,rot13,best_of_n", "--attack_budget", "3", "--decoding", "greedy,sample"]
    return [
        Scenario("run", lambda out: ["run", "--config", str(config), "--output_dir", str(out)], 0.5),
        Scenario(
            "train", lambda out: ["train", "--config", str(folder / "train.yaml"), "--output_dir", str(out)], 0.25
        ),
        Scenario("attack", lambda out: [*attack, "--output_dir", str(out)], 0.15),
    ]


def served(folder: Path, port: int) -> Scenario:
    """`sirl attack` on a model behind a server."""
    goals = str(folder / "goals.jsonl")
    words = ["attack", "--model_name_or_path", "served", "--engine", f"http://127.0.0.1:{port}/v1", "--goals", goals]
    words += ["--attacks", "direct,base64,rot13,dan", "--decoding", "greedy,sample", "--max_new_tokens", "6"]
    return Scenario("server", lambda out: [*words, "--output_dir", str(out)], 0.1, ordered=False)


# --- what is compared -------------------------------------------------------------------------------------------------


def snapshot(folder: Path, ordered: bool = True) -> dict[str, str]:
    """A digest of each file of a finished run by its path, and what should not be there."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in ("optimizer.pt", "scheduler.pt", "training_args.bin") or "rng_state" in name:
            continue
        if path.name in ("report.html", "README.md"):  # tables with times
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = _digest(_plain(json.loads(path.read_text())))
        elif path.suffix == ".jsonl":
            rows = [json.dumps(_row(_plain(json.loads(line)))) for line in path.read_text().splitlines()]
            found[name] = _digest(rows if ordered else sorted(rows))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _row(row: Any) -> Any:
    """Without the entropies of a search: after a kill, the searches that are left are rounded as their batch is."""
    return {k: v for k, v in row.items() if k != "entropies"} if row.get("queries") is not None else row


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in TIMES | PATHS and not k.startswith("seconds")}
    return [_plain(v) for v in value] if isinstance(value, list) else value


# --- one chain of faults ----------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """An uninterrupted run: what it wrote, how long it took, how many writings it made and how large its files are."""

    files: dict[str, str]
    end: End
    sizes: list[int]


class Chain:
    """A command that is ended again and again, then left alone: its result must be that of the uninterrupted one."""

    def __init__(self, scenario: Scenario, folder: Path, reference: Reference) -> None:
        self.scenario, self.folder, self.reference = scenario, folder, reference
        self.kills = 0
        self.problems: list[str] = []
        self.history: list[str] = []

    def strike(self, fault: Fault, meanwhile: Callable[[], None] | None = None) -> bool:
        """Start or continue the command with a fault; whether the fault ended it."""
        with filled(self.folder.parent, fault.free):
            end = run(self.scenario.words(self.folder), fault, meanwhile)
        self.history.append(f"{fault}: {end.code}")
        if end.code == 0:
            return False
        if end.code == 2 and "holds a finished" in end.output:  # killed after its end, while it was printing
            return False
        self.kills += 1
        wanted = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, 0: 2}[fault.signal]
        if end.code == -signal.SIGTERM == -fault.signal and not end.output:  # before it had begun to listen
            return True
        lines = [line for line in end.output.splitlines() if line.startswith("sirl: ")]
        if end.code != wanted or "Traceback" in end.output or len(lines) != (wanted != -9):
            self.problems.append(f"exit code {end.code}, not {wanted}, after {fault}\n{end.output[-3000:]}")
        return True

    def finish(self) -> None:
        """Continue without a fault, and compare."""
        end = run(self.scenario.words(self.folder))
        if end.code != 0 and not (end.code == 2 and "holds a finished" in end.output):
            self.problems.append(f"lost: it does not resume (exit code {end.code})\n{end.output[-3000:]}")
            return
        files = snapshot(self.folder, self.scenario.ordered)
        names = sorted(n for n in {*files, *self.reference.files} if files.get(n) != self.reference.files.get(n))
        if names:
            self.problems.append(f"unequal: {', '.join(names)}")


def reference(scenario: Scenario, folder: Path) -> Reference:
    """Run a scenario to its end without a fault."""
    end = run(scenario.words(folder))
    if end.code:
        raise SystemExit(f"{scenario.name} does not run even without faults:\n{end.output}")
    sizes = [path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()]
    return Reference(snapshot(folder, scenario.ordered), end, sizes)


def draw(rng: random.Random, reference: Reference, disk: bool) -> Fault:
    """Some fault: half of them at a random time, most of the rest at a random writing, else no room.

    `disk` says that the disk can be filled.
    """
    kind = rng.random()
    which = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    if kind < 0.5:
        return Fault(which, seconds=rng.uniform(0.0, reference.end.seconds))
    if kind < 0.8:
        return Fault(which, event=rng.randint(1, max(1, reference.end.events)))
    if kind < 0.9 and disk:
        return Fault(free=rng.randint(0, sum(reference.sizes)))
    return Fault(bytes=max(1, rng.choice(reference.sizes) - 1))


# --- a server that goes away ------------------------------------------------------------------------------------------


class GoingServer:
    """The OpenAI server of the tests in a child of its own, which can be killed and started again at its address."""

    def __init__(self) -> None:
        self.port, self.pid = 0, 0
        self.start()

    def start(self) -> None:
        """Serve; each answer takes a moment, so that there is a middle to be hit."""
        ready, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                from openai_server import Server

                made = Server(self.port)
                made.answer = _slowly
                made.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever asked was killed
                os.write(say, str(made.server_port).encode())
                os.close(say)
                made.serve_forever()
            finally:
                os._exit(1)
        os.close(say)
        self.port = int(os.read(ready, 10))
        os.close(ready)

    def stop(self) -> None:
        """Go away in the middle of whatever it is."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _slowly(prompt: str) -> str:
    time.sleep(0.05)
    return f"An answer to {hashlib.sha256(prompt.encode()).hexdigest()[:8]}."


def remove(folder: Path) -> None:
    """Make room for the next chain."""
    shutil.rmtree(folder, ignore_errors=True)
