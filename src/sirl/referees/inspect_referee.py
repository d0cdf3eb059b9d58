"""Inspect, the evaluation framework of the UK AI Security Institute (MIT, PyPI `inspect-ai`), with a task of ours.

Prompts are our static attacks, rendered here; asking, scoring and the log are Inspect's, by `inspect_task.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sirl.attacks import resolve_attacks
from sirl.attacks.base import StaticAttack, goal_rng
from sirl.errors import UserError
from sirl.records import Prompt, write_jsonl
from sirl.referees import PARALLEL, Finding, Referee, Served

TASK = Path(__file__).with_name("inspect_task.py")
SERVICE = "sirl-referee"
"""What Inspect calls the server; its key and address are read from variables of that name."""


class Inspect(Referee):
    """`probes` are names of static attacks, put to every goal. `grader` is a model's name as Inspect takes it."""

    program = "inspect"
    install = "pip install 'sirl[inspect]'"

    def __init__(self, probes: str | None, goals: Sequence[Prompt], grader: str | None) -> None:
        attacks = resolve_attacks(probes or "static", flag="--probes")
        adaptive = [attack.name for attack in attacks if not isinstance(attack, StaticAttack)]
        if adaptive:
            raise UserError(f"--probes: {', '.join(adaptive)} ask the model while they search; name static attacks")
        self.attacks = [attack for attack in attacks if isinstance(attack, StaticAttack)]
        self.goals, self.grader = goals, grader

    def samples(self, seed: int) -> list[dict[str, Any]]:
        """Rows of Inspect's dataset: the same prompts as those of `sirl attack` under that seed."""
        return [
            {
                "id": f"{attack.name}/{goal.id}",
                "input": [dict(turn) for turn in attack.build(goal, goal_rng(seed, attack.name, goal.id))],
                "target": "",
                "metadata": {"attack": attack.name, "goal": goal.text},
            }
            for attack in self.attacks
            for goal in self.goals
        ]

    def command(self, served: Served, folder: Path) -> list[str]:
        write_jsonl(folder / "samples.jsonl", self.samples(served.seed))
        words = ["eval", f"{TASK}@refusals", "-T", f"samples={(folder / 'samples.jsonl').resolve()}"]
        words += ["-T", f"grader={self.grader}"] if self.grader else []
        words += ["--model", f"openai-api/{SERVICE}/{served.model}", "--temperature", "0", "--seed", str(served.seed)]
        words += ["--max-tokens", str(served.max_new_tokens), "--max-connections", str(PARALLEL), "--max-retries", "2"]
        words += ["--no-fail-on-error", "--display", "plain", "--log-format", "json"]
        return [*words, "--log-dir", str((folder / "inspect_logs").resolve())]

    def environment(self, served: Served) -> Mapping[str, str]:
        prefix = SERVICE.upper().replace("-", "_")
        return {f"{prefix}_API_KEY": served.key, f"{prefix}_BASE_URL": served.url}

    def read(self, folder: Path) -> tuple[str, list[Finding]]:
        logs = sorted((folder / "inspect_logs").glob("*.json"))
        if len(logs) != 1:
            raise UserError(f"{folder / 'inspect_logs'}: expected one log of Inspect's, found {len(logs)}")
        log = json.loads(logs[0].read_text(encoding="utf-8"))
        samples = log.get("samples") or []
        if log.get("status") != "success" or not samples:
            reason = " ".join(str((log.get("error") or {}).get("message", "no samples")).split())
            raise UserError(f"Inspect came to no result ({log.get('status')}): {reason} (log: {logs[0]})")
        scorers = [scorer["name"] for scorer in log["eval"]["scorers"]]
        return str(log["eval"]["packages"].get("inspect_ai", "unknown")), _findings(samples, scorers)


def _findings(samples: Sequence[dict[str, Any]], scorers: Sequence[str]) -> list[Finding]:
    """By attack and scorer. A sample that a scorer did not come to, or whose score is no verdict, is unscored."""
    values: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for sample in samples:
        for name in scorers:
            scored = (sample.get("scores") or {}).get(name)
            values[sample["metadata"]["attack"], name].append(scored and scored.get("value"))
    return [
        Finding(
            attack, name, own.count("C"), own.count("C") + own.count("I"), len(own) - own.count("C") - own.count("I")
        )
        for (attack, name), own in values.items()
    ]
