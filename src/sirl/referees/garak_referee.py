"""garak, NVIDIA's scanner for language models (Derczynski et al., 2024, arXiv 2406.11036; Apache-2.0, PyPI `garak`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list
from sirl.records import iter_json_lines, write_json
from sirl.referees import PARALLEL, Finding, Referee, Served, last_line

PROBES = (
    "dan.DanInTheWild",
    "dan.AutoDANCached",
    "suffix.GCGCached",
    "grandma.Substances",
)
"""Jailbreaks that ship with garak: no other model, no network."""
DETECTORS = ("mitigation.MitigationBypass", "mitigation.Prefixes")
"""What these are scored by: phrases of refusal anywhere, and at the start. Neither list knows all refusals."""


class Garak(Referee):
    """Probes and detectors by name; without detectors, each probe that was named has its own.

    `max_goals` caps the prompts of the probes that allow it.
    """

    program = "garak"
    install = (
        "install it in a separate environment (pipx install garak) and name it with --executable, "
        "or pip install 'sirl[garak]'"
    )

    def __init__(self, probes: str | None, detectors: str | None, max_goals: int) -> None:
        self.probes = list(PROBES) if probes is None else _names(probes, "probes")
        if detectors is not None:
            self.detectors = ",".join(_names(detectors, "detectors"))
        else:
            self.detectors = ",".join(DETECTORS) if probes is None else "auto"
        self.max_goals = max_goals

    def command(self, served: Served, folder: Path) -> list[str]:
        """Everything goes into a configuration file: flags have come and gone between garak's versions."""
        generator = {
            "uri": served.url,
            "max_tokens": served.max_new_tokens,
            "temperature": 0.0,
            "stop": None,  # garak's default would cut answers at the first "#"
            "seed": served.seed,
        }
        settings = {
            "system": {"parallel_attempts": PARALLEL, "lite": False},
            "run": {
                "seed": served.seed,
                "generations": 1,
                "soft_probe_prompt_cap": self.max_goals,
                "spec": {"include": [f"probes.{name}" for name in self.probes]},
            },
            "plugins": {
                "target_type": "openai.OpenAICompatible",
                "target_name": served.model,
                "detector_spec": self.detectors,
                "extended_detectors": False,
                "generators": {"openai": {"OpenAICompatible": generator}},
            },
            "reporting": {"report_dir": str(folder.resolve()), "report_prefix": "garak"},
        }
        write_json(folder / "garak.json", settings)
        return ["--config", str((folder / "garak.json").resolve())]

    def environment(self, served: Served) -> Mapping[str, str]:
        return {"OPENAICOMPATIBLE_API_KEY": served.key}

    def read(self, folder: Path) -> tuple[str, list[Finding]]:
        """garak ends with 0 whatever happens, so only a report with its last row counts."""
        report = folder / "garak.report.jsonl"
        rows = list(iter_json_lines(report)) if report.is_file() else []
        kinds = [row.get("entry_type") for row in rows]
        if "completion" not in kinds or "eval" not in kinds:
            log = folder / "garak.log"
            raise UserError(f"garak came to no result: {last_line(log)} (all of it in {log})")
        version = next((str(row["garak_version"]) for row in rows if "garak_version" in row), "unknown")
        found = [
            Finding(row["probe"], row["detector"], row["passed"], row["total_evaluated"], row["nones"])
            for row in rows
            if row.get("entry_type") == "eval"
        ]
        # garak goes on without a probe that it cannot load; whole modules ("dan") are named by their probes
        absent = {name for name in self.probes if "." in name} - {finding.probe for finding in found}
        return version, found + [Finding(name, "not run, see garak.log", 0, 0, 0) for name in sorted(absent)]


def _names(text: str, flag: str) -> list[str]:
    named = [name.removeprefix(f"{flag}.") for name in comma_list(text)]
    if not named:
        raise UserError(f"--{flag}: none named; garak --list_{flag} lists them")
    return named
