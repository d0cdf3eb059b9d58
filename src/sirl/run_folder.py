"""The files of a run folder, each named here once: who writes or reads one takes its name from here.

`--overwrite` clears exactly these (`ALL`), and nothing else that lies in the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sirl.disk import unfinished

MANIFEST = "manifest.json"
GAP = "gap.json"
GAP_SAMPLES = "gap_samples.jsonl"
GAP_PLOT = "gap.svg"
GAP_WRAPPINGS = "gap_wrappings.json"
"""Whether harm can be read in wrappings, by a probe."""
METRICS = "metrics.jsonl"
"""What each update of the training logged."""
DEVELOPMENT = "development.jsonl"
"""What the development set said of the policy, check by check."""
CHOSEN = "chosen.json"
"""Which checkpoint was selected, and why."""
CAPABILITY = "capability.json"
DRAWS = "draws.jsonl"
"""In a run of `sft` or `dpo`: the base model's answers to the training prompts, with their labels."""
FAILURE = "failure.txt"
"""The traceback of a run of `sirl compare` that failed."""
EVALS = "evals.json"
BENCHMARKS = "benchmarks.json"
BENCHMARK_ROWS = "benchmarks"
"""The folder of what `sirl eval` asked."""
SUMMARY = "summary.json"
REPORT = "report.html"
BASE = "base"
"""The folder of the base model's copy."""
MODEL = "model"
"""The folder of the hardened model, whole."""
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
PAIR_ANSWERS = "pair_answers.safetensors"
"""Within `CHECKPOINTS`: the policy's answers to bare requests that pairs are held to (`--pair_start`)."""


@dataclass(frozen=True)
class Suite:
    """One set of prompts that is put to the model before and after, with its three files."""

    prefix: str
    title: str
    """What a progress bar calls it."""

    @property
    def attempts(self) -> str:
        return f"{self.prefix}attempts.jsonl"

    @property
    def verdicts(self) -> str:
        return f"{self.prefix}verdicts.jsonl"

    @property
    def disagreements(self) -> str:
        """Where several judges differ."""
        return f"{self.prefix}disagreements.jsonl"


ATTACKS = Suite("", "attack")
BENIGN = Suite("benign_", "benign prompts")
WRAPPED = Suite("wrapped_", "wrapped benign prompts")
RECHECKED = Suite("rechecked_", "recheck")
"""Refusals that the token limit cut off, asked again with a larger one."""
SUITES = (ATTACKS, BENIGN, WRAPPED, RECHECKED)

ALL = (
    *(GAP, GAP_SAMPLES, GAP_PLOT, GAP_WRAPPINGS, METRICS, DEVELOPMENT, CHOSEN, CAPABILITY, DRAWS, FAILURE),
    *(name for suite in SUITES for name in (suite.attempts, suite.verdicts, suite.disagreements)),
    *(EVALS, BENCHMARKS, BENCHMARK_ROWS, SUMMARY, REPORT),
    *(BASE, MODEL, ADAPTER, CHECKPOINTS),
    *(unfinished(Path(name)).name for name in (BASE, MODEL)),
    MANIFEST,
)
"""All that this package writes into a run folder; the manifest comes last. Next to these there are the lock file and
what a killed process left half written (`sirl.lock`), which go by themselves."""

_ASKED = tuple(name for suite in SUITES for name in (suite.attempts, suite.verdicts))
WRITTEN_BY = {
    "base": (BASE,),
    "gap": (GAP, GAP_SAMPLES),
    "attack_before": _ASKED,
    "train": (MODEL, CHOSEN, DEVELOPMENT),
    "attack_after": _ASKED,
    "capability": (CAPABILITY,),
    "judge": tuple(suite.verdicts for suite in SUITES),
    "eval": (BENCHMARKS, BENIGN.attempts, BENIGN.verdicts),
}
"""What a stage may leave that others need: the manifest notes which of it is there when the stage is done."""
