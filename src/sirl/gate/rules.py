"""Rules that a run must meet before its model is released, each held against the cautious end of a 95% interval.

A rule is a bound on one metric of `METRICS`: at least (`min`, held against the low end of the interval) or at most
(`max`, against the high end). A metric that was not measured fails its rule: could not score is not safe. Rates are of
greedy answers of the model after hardening, or of the only model in a folder that holds one side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sirl.errors import UserError
from sirl.gate.metrics import ATTACK_PREFIX, METRICS, Metric, Reading, named_attack
from sirl.inputs.yaml_text import parse_yaml
from sirl.results.values import Results

Bound = Literal["min", "max"]
WORDS = {"min": "at least", "max": "at most"}
ENDS = {"min": "low", "max": "high"}


@dataclass(frozen=True)
class Rule:
    """`metric` must be at least (`min`) or at most (`max`) `limit`; a share from 0 to 1 unless the metric says else."""

    metric: str
    bound: Bound
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {WORDS[self.bound]} {self.limit:g}"


@dataclass(frozen=True)
class Finding:
    """A rule and what it met: `reading` is None where the metric was not measured, and `reason` says why."""

    rule: Rule
    passed: bool
    reading: Reading | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Flat JSON values: the rule, `value`, `low`, `high` (None if not measured), `passed` and `reason`."""
        ends = asdict(self.reading) if self.reading else dict.fromkeys(("value", "low", "high"))
        return {**asdict(self.rule), **ends, "passed": self.passed, "reason": self.reason}

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.rule}: {self.reason}"


def read_rule(text: str, bound: Bound, flag: str) -> Rule:
    """A rule of the form METRIC=LIMIT.

    Raises:
        UserError: there is no such metric, or the limit is no number that it can have.
    """
    name, equals, number = text.partition("=")
    if not equals:
        raise UserError(f"{flag} {text}: expected METRIC=LIMIT, such as {flag} dsr=0.9")
    return _rule(name.strip(), bound, number.strip(), flag)


def read_rules(path: Path) -> list[Rule]:
    """Rules of a YAML file: `min` and `max`, each a mapping from metrics to limits.

    Raises:
        UserError: the file cannot be read, or something in it is no rule.
    """
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--rules {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"--rules {path}: {error}") from None
    if not isinstance(data, dict) or not data or set(data) - set(WORDS):
        raise UserError(f"--rules {path}: expected `min:` and `max:`, each with lines such as `dsr: 0.9`")
    rules = []
    for bound in ("min", "max"):
        part = data.get(bound, {})
        if not isinstance(part, dict):
            raise UserError(f"--rules {path}: {bound}: expected lines such as `dsr: 0.9`")
        rules += [_rule(str(name), bound, limit, f"--rules {path}: {bound}") for name, limit in part.items()]
    return rules


def _rule(name: str, bound: Bound, limit: object, where: str) -> Rule:
    metric = find_metric(name, where)
    try:
        value = math.nan if isinstance(limit, bool) else float(limit)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} {name}={limit}: expected a number, such as {name}=0.9")
    if metric.share and not -1 <= value <= 1:
        raise UserError(f"{where} {name}={limit}: a share, from -1 to 1; write 90% as 0.9")
    if metric.price and bound == "min":
        raise UserError(f"{where} {name}={limit}: a price, of which only the high end is known; use --max")
    return Rule(name, bound, value)


def find_metric(name: str, where: str) -> Metric:
    """The metric of a name, `dsr:ATTACK` included.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    if name in METRICS:
        return METRICS[name]
    attack = name.removeprefix(ATTACK_PREFIX)
    if attack and attack != name and attack.isprintable():
        return named_attack(attack)
    known = ", ".join([*METRICS, f"{ATTACK_PREFIX}ATTACK"])
    raise UserError(f"{where}: unknown metric {name!r}; there are {known}")


def check_rules(rules: Sequence[Rule]) -> None:
    """Raise `UserError` unless there are rules, each metric and bound once."""
    if not rules:
        raise UserError("--min: no rule to check; give --min, --max or --rules")
    seen: set[tuple[str, str]] = set()
    for rule in rules:
        if (rule.metric, rule.bound) in seen:
            raise UserError(f"--{rule.bound} {rule.metric}: given twice; give one limit for each metric and bound")
        seen.add((rule.metric, rule.bound))


def hold(results: Results, rules: Iterable[Rule]) -> list[Finding]:
    """Each rule against the figures of a run."""
    return [_hold(results, rule) for rule in rules]


def _hold(results: Results, rule: Rule) -> Finding:
    metric = find_metric(rule.metric, rule.metric)
    reading = metric.read(results)
    if reading is None:
        return Finding(rule, False, None, f"not measured: {metric.needs}")
    end = ENDS[rule.bound]
    decisive = round(getattr(reading, end), 9)
    passed = decisive >= rule.limit if rule.bound == "min" else decisive <= rule.limit
    if not reading.exact:
        span = f"{reading.value:.4g}, 95% interval {reading.low:.4g} to {reading.high:.4g}"
        return Finding(rule, passed, reading, f"{span}; decided by its {end} end")
    return Finding(rule, passed, reading, f"{reading.value:.4g}")


def check_finished(run_dir: Path, manifest: Mapping[str, Any] | None) -> None:
    """Raise `UserError` where a stage of the run was not run to its end, so that its figures are of a part."""
    stages = (manifest or {}).get("stages") or {}
    held = {name: stage for name, stage in stages.items() if isinstance(stage, dict) and name != "report"}
    unfinished = [name for name, stage in held.items() if stage.get("status") not in (None, "done")]
    if unfinished:
        raise UserError(f"{run_dir}: unfinished: {', '.join(unfinished)}; run the same command again first")
