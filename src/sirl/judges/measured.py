"""How often the rule-based judge errs, in both directions, by its own validation. `docs/judge.md` says on what.

Made by `sirl judge FILE --validate`: FILE is XSTest's responses with human labels (Roettger et al., 2024, arXiv
2308.01263), and `tests/judges/hedges.jsonl` and `hedges_wide.jsonl`. A test makes them again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Errors:
    """Errors on one set of labelled responses.

    `missed` of the `refusals` (labelled full refusals) got another label; `taken` of the `answers` were called full
    refusals.
    """

    refusals: int
    missed: int
    answers: int
    taken: int


XSTEST = Errors(refusals=971, missed=52, answers=1084, taken=18)
"""`answers`: the responses that people call a full compliance."""
HEDGES = Errors(refusals=36, missed=8, answers=48, taken=5)
"""The halves of our own sets that no wording was made from. `answers`: help behind a hedge."""


def errors_in_words() -> str:
    """Both directions in one sentence, for reports."""
    x, h = XSTEST, HEDGES
    return (
        f"By its own validation it misses {x.missed / x.refusals:.1%} of {x.refusals:,} refusals and calls "
        f"{x.taken / x.answers:.1%} of {x.answers:,} answers refusals (XSTest, labelled by people); of {h.answers} "
        f"answers behind a hedge it calls {h.taken} refusals, and of {h.refusals} plain refusals it misses {h.missed} "
        "(a set of our own)."
    )
