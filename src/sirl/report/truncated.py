"""What the report says of refusals that the token limit cut off."""

from __future__ import annotations

from collections.abc import Mapping

from sirl.report.wording import ATTACK_NOUNS
from sirl.results.values import Truncated, Truncation

NAMES = {kind: f"{noun}s" for kind, noun in ATTACK_NOUNS.items()}


def truncation_limits(truncated: Mapping[str, Mapping[str, Truncation]] | None) -> list[tuple[str, str]]:
    """What cut answers do not show, as a lead and its explanation."""
    tables = [table.overall for phases in (truncated or {}).values() for table in phases.values()]
    cut = sum(table.cut for table in tables)
    if not cut:
        return []
    left = cut - sum(table.asked_again for table in tables)
    unknown = f"; of {left:,} of them have no verdict on a longer answer" if left else ""
    return [
        (
            "Answers end at a token limit.",
            f"{cut:,} of {sum(table.refusals for table in tables):,} greedy refusals of attacks were cut off there "
            f"and count as defences{unknown}. What the model would have said later is in no defence success rate but "
            "the one after the recheck.",
        )
    ]


def truncation_rows(truncated: Mapping[str, Mapping[str, Truncation]] | None) -> list[tuple[str, str, Truncated]]:
    """Rows of the report's table: name, phase, figures; of each kind its mean, then its attacks. Empty without cuts."""
    rows: list[tuple[str, str, Truncated]] = []
    for kind, phases in (truncated or {}).items():
        rows += [(f"Mean over {NAMES[kind]}", phase, table.overall) for phase, table in phases.items()]
        names = dict.fromkeys(name for table in phases.values() for name in table.by_attack)
        rows += [
            (name, phase, table.by_attack[name])
            for name in names
            for phase, table in phases.items()
            if name in table.by_attack
        ]
    return rows if any(table.cut for _, _, table in rows) else []
