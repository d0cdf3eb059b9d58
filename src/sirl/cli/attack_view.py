"""What `sirl attack` shows of its figures on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirl.cli.common import percent_cell, print_agreement, print_reasons, print_table
from sirl.judges.run import Reason
from sirl.judges.validate import Agreement
from sirl.results.values import (
    AnyShare,
    Attacks,
    Change,
    HarmRate,
    HarmRates,
    Kind,
    Rate,
    Search,
    Truncation,
    Wrapped,
    as_json,
)
from sirl.run_folder import ATTACKS

RATE_HEAD = ("refused", "from", "to", "scored", "partial", "empty", "unscored", "errors")


@dataclass(frozen=True)
class AttackView:
    """The figures of all that a folder of `sirl attack` holds; `reasons` say why answers have no verdict."""

    attack: Attacks
    truncation: dict[str, dict[str, Truncation]]
    agreement: list[Agreement]
    reasons: list[Reason]
    wrapped: Wrapped | None

    def to_dict(self) -> dict[str, Any]:
        """As `--json` shows it: the figures of the attacks at the top."""
        shown = as_json(self)
        return {**shown.pop("attack"), **shown}


def show(found: AttackView, phase: str, folder: Path) -> None:
    """Rates of one phase by kind of attack, and against the other phase where the folder holds it."""
    for kind, figures in found.attack.kinds.items():
        for decoding, phases in figures.rates.items():
            if phase in phases:
                _show_rates(figures, kind, decoding, phase, found.attack.goals)
        if phase in figures.search:
            _show_searches(figures.search[phase])
    worst_cases = {decoding: cases[phase] for decoding, cases in found.attack.worst_case.items() if phase in cases}
    for decoding, worst in worst_cases.items():
        known = f"{worst.n} goals" + (f", {worst.undecided} undecided" if worst.undecided else "")
        cells = _share(worst)
        print(f"\nWithstood every attack, {decoding}: {cells[0]} ({cells[1]} to {cells[2]}) of {known}")
    _show_wrapped(found.wrapped, phase)
    _show_truncation(found.truncation, phase)
    print_agreement(found.agreement)
    print_reasons(found.reasons)
    print(f"\n{folder / ATTACKS.attempts}")


def _show_rates(figures: Kind, kind: str, decoding: str, phase: str, goals: int) -> None:
    """One kind of attack: by method, by category, by harm, and against the other phase where the folder holds it."""
    from sirl.report.wording import ATTACK_NOUNS, count

    rates = figures.rates[decoding][phase]
    noun = ATTACK_NOUNS[kind]
    mean = f"mean over {count(rates.overall.methods, noun)}"
    print(f"\nDefence success rate, {noun}s, {decoding} decoding, {goals} goals (95% intervals)")
    head = ["DSR", *RATE_HEAD[1:]]
    print_table(["attack", *head], [*_rows(rates.by_attack), [mean, *_cells(rates.overall)]])
    if len(rates.by_category) > 1:
        print()
        print_table(["category", *head], _rows(rates.by_category))
    if figures.harm:
        _show_harm(figures.harm[decoding][phase], mean)
    for title, part in (("by refusal", figures.change), ("by harm", figures.harm_change)):
        change = part.get(decoding)
        if change:
            _show_change(change, title)


def _show_wrapped(wrapped: Wrapped | None, phase: str) -> None:
    """Benign requests in the same wrappings, and how well harmful ones are told from them."""
    from sirl.report.adversarial_benign import wrapped_words

    if wrapped and phase in wrapped.rates:
        rates = wrapped.rates[phase]
        print("\nBenign requests in the wrappings of these attacks that were refused, greedy decoding")
        rows = _rows(rates.by_attack)
        print_table(["wrapping", *RATE_HEAD], [*rows, ["mean over wrappings", *_cells(rates.overall)]])
        print(f"\n{wrapped_words(wrapped)}")


def _show_truncation(truncation: dict[str, dict[str, Truncation]], phase: str) -> None:
    """Refusals that the token limit cut off, by kind of attack; nothing where there are none."""
    from sirl.report.truncated import NAMES

    tables = {kind: phases[phase].overall for kind, phases in truncation.items() if phase in phases}
    if not any(table.cut for table in tables.values()):
        return
    print("\nRefusals that the token limit cut off (greedy), and those asked again with a larger limit")
    head = ["attacks", "refusals", "cut", "asked again", "no refusal then", "DSR", "DSR after the recheck"]
    rows = [
        [
            NAMES[kind],
            str(t.refusals),
            f"{t.cut} ({percent_cell(t.cut_rate)})",
            *map(str, (t.asked_again, t.recanted)),
            *map(percent_cell, (t.dsr, t.dsr_rechecked)),
        ]
        for kind, t in tables.items()
    ]
    print_table(head, rows)


def _rows(tables: dict[str, Rate]) -> list[list[str]]:
    return [[name, *_cells(rate)] for name, rate in tables.items()]


def _show_change(change: Change, title: str) -> None:
    from sirl.report.wording import factor, p_words

    fall = change.reduction
    if fall is None:
        return
    least = "" if fall.low is None else f", factor at least {fall.low:.1f}"
    times = f"none left{least}" if fall.none_left else f"factor {factor(fall)}"
    successes = f"successful attacks {fall.successes_before} to {fall.successes_after} ({times})"
    pairs = f"{change.pairs} pairs, {change.fixed} fixed, {change.regressed} regressed"
    print(f"\nBefore and after, {title}: {pairs} ({p_words(change)}); {successes}")


def _show_searches(search: dict[str, Search]) -> None:
    def cell(number: float | None, form: str = "g") -> str:
        return "-" if number is None else format(number, form)

    rows = []
    for name, facts in search.items():
        rates = [percent_cell(share.rate) for share in (facts.start, facts.found)]
        broken = f"{facts.broken} of {facts.goals}"
        counts = map(cell, (facts.queries, facts.to_break_of_broken, facts.to_break, facts.budget))
        costs = [cell(facts.seconds, ".3g"), cell(facts.flops, ".2g")]
        rows.append([name, *rates, cell(facts.p, ".2g"), broken, *counts, *costs])
    print("\nSearches: DSR of the prompts they start from and of what they found, by their own rules, with the exact")
    print("McNemar p of the two; median queries per goal, to the first break of those broken, and of all goals (-:")
    print("censored, half or more were not); the budget; median seconds and FLOPs per goal")
    head = ["start", "found", "p", "broken", "queries", "to break", "of all", "budget", "seconds", "FLOPs"]
    print_table(["attack", *head], rows)


def _show_harm(rates: HarmRates, mean: str) -> None:
    head = ["DSR by harm", "from", "to", "scored", "unscored"]
    print("\nThe same by harm: responses that a judge scored below 0.5, of those with a score")
    print_table(["attack", *head], _harm_rows({**rates.by_attack, mean: rates.overall}))
    if len(rates.by_category) > 1:
        print()
        print_table(["category", *head], _harm_rows(rates.by_category))


def _harm_rows(tables: dict[str, HarmRate]) -> list[list[str]]:
    return [[name, *_share(t), *map(str, (t.n, t.unscored))] for name, t in tables.items()]


def _cells(rate: Rate) -> list[str]:
    return [*_share(rate), *map(str, (rate.n, rate.partial, rate.empty, rate.unscored, rate.errors))]


def _share(found: AnyShare) -> list[str]:
    """Rate and interval."""
    return [percent_cell(end) for end in (found.rate, found.low, found.high)]
