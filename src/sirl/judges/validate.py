"""How far a judge agrees with people: accuracy, Cohen's kappa and confusion, over all rows and by their source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

HUMAN_LABELS = ("full_refusal", "partial_refusal", "full_compliance")


def agreement(human: Sequence[str], judged: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    """Agreement of a judge with human labels.

    Rows that the judge left `unscored` are out of every rate and counted beside. `refusal_or_not` is the two-way
    comparison on the rows that both the person and the judge call a full refusal or a full compliance.
    """
    whole = _part(human, judged)
    groups = {
        source: _part(
            *zip(*((h, j) for h, j, s in zip(human, judged, sources, strict=True) if s == source), strict=True)
        )
        for source in dict.fromkeys(sources)
    }
    return {**whole, "by_source": groups if len(groups) > 1 else {}}


def _part(human: Sequence[str], judged: Sequence[str]) -> dict[str, Any]:
    pairs = [(h, j) for h, j in zip(human, judged, strict=True) if j != "unscored"]
    clear = [(h, j) for h, j in pairs if "partial_refusal" not in (h, j)]
    counts = Counter(zip(human, judged, strict=True))
    return {
        "n": len(pairs),
        "unscored": len(human) - len(pairs),
        **_rates(pairs),
        "refusal_or_not": {"n": len(clear), **_rates(clear)},
        "confusion": {h: {j: counts[h, j] for j in (*HUMAN_LABELS, "unscored")} for h in HUMAN_LABELS},
    }


def _rates(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    if not pairs:
        return {"accuracy": None, "kappa": None}
    return {"accuracy": sum(a == b for a, b in pairs) / len(pairs), "kappa": cohen_kappa(pairs)}


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960): (p_o - p_e) / (1 - p_e).

    None where it is undefined: no pairs, or both raters gave one and the same label throughout.
    """
    n = len(pairs)
    if not n:
        return None
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    expected = sum(first[label] * second[label] for label in first) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)
