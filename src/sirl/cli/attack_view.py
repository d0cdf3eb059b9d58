"""What `sirl attack` shows of its figures on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sirl.cli.common import percent_cell, print_agreement, print_reasons, print_table
from sirl.run_folder import ATTACKS

RATE_HEAD = ("refused", "from", "to", "scored", "partial", "empty", "unscored", "errors")


def show(summary: dict[str, Any], phase: str, folder: Path) -> None:
    """Rates of one phase by kind of attack, and against the other phase where the folder holds it."""
    for kind, figures in summary["kinds"].items():
        for decoding, phases in figures["rates"].items():
            if phase in phases:
                _show_rates(figures, kind, decoding, phase, summary["goals"])
        if phase in figures.get("search", {}):
            _show_searches(figures["search"][phase])
    worst_cases = {decoding: phases[phase] for decoding, phases in summary["worst_case"].items() if phase in phases}
    for decoding, worst in worst_cases.items():
        known = f"{worst['n']} goals" + (f", {worst['undecided']} undecided" if worst["undecided"] else "")
        cells = [percent_cell(worst[key]) for key in ("rate", "low", "high")]
        print(f"\nWithstood every attack, {decoding}: {cells[0]} ({cells[1]} to {cells[2]}) of {known}")
    _show_wrapped(summary["wrapped"], phase)
    _show_truncation(summary["truncation"], phase)
    print_agreement(summary["agreement"])
    print_reasons(summary["reasons"])
    print(f"\n{folder / ATTACKS.attempts}")


def _show_rates(figures: dict[str, Any], kind: str, decoding: str, phase: str, goals: int) -> None:
    """One kind of attack: by method, by category, by harm, and against the other phase where the folder holds it."""
    from sirl.report.wording import ATTACK_NOUNS, count

    rates = figures["rates"][decoding][phase]
    noun = ATTACK_NOUNS[kind]
    mean = f"mean over {count(rates['overall']['methods'], noun)}"
    print(f"\nDefence success rate, {noun}s, {decoding} decoding, {goals} goals (95% intervals)")
    head = ["DSR", *RATE_HEAD[1:]]
    print_table(["attack", *head], [*_rows(rates["by_attack"]), [mean, *_cells(rates["overall"])]])
    if len(rates["by_category"]) > 1:
        print()
        print_table(["category", *head], _rows(rates["by_category"]))
    if "harm" in figures:
        _show_harm(figures["harm"][decoding][phase], mean)
    for title, part in (("by refusal", "change"), ("by harm", "harm_change")):
        change = figures.get(part, {}).get(decoding)
        if change:
            _show_change(change, title)


def _show_wrapped(wrapped: dict[str, Any] | None, phase: str) -> None:
    """Benign requests in the same wrappings, and how well harmful ones are told from them."""
    from sirl.report.wrapped import wrapped_words

    if wrapped and phase in wrapped["rates"]:
        rates = wrapped["rates"][phase]
        print("\nBenign requests in the wrappings of these attacks that were refused, greedy decoding")
        rows = _rows(rates["by_attack"])
        print_table(["wrapping", *RATE_HEAD], [*rows, ["mean over wrappings", *_cells(rates["overall"])]])
        print(f"\n{wrapped_words(wrapped)}")


def _show_truncation(truncation: dict[str, Any], phase: str) -> None:
    """Refusals that the token limit cut off, by kind of attack; nothing where there are none."""
    from sirl.report.truncated import NAMES

    tables = {kind: phases[phase]["overall"] for kind, phases in truncation.items() if phase in phases}
    if not any(table["cut"] for table in tables.values()):
        return
    print("\nRefusals that the token limit cut off (greedy), and those asked again with a larger limit")
    head = ["attacks", "refusals", "cut", "asked again", "no refusal then", "DSR", "DSR after the recheck"]
    rows = [
        [
            NAMES[kind],
            str(t["refusals"]),
            f"{t['cut']} ({percent_cell(t['cut_rate'])})",
            *(str(t[key]) for key in ("asked_again", "recanted")),
            *(percent_cell(t[key]) for key in ("dsr", "dsr_rechecked")),
        ]
        for kind, t in tables.items()
    ]
    print_table(head, rows)


def _rows(tables: dict[str, Any]) -> list[list[str]]:
    return [[name, *_cells(rate)] for name, rate in tables.items()]


def _show_change(change: dict[str, Any], title: str) -> None:
    from sirl.report.wording import factor, p_words

    fall = change["reduction"]
    least = "" if fall["low"] is None else f", factor at least {fall['low']:.1f}"
    times = f"none left{least}" if fall["none_left"] else f"factor {factor(fall)}"
    successes = f"successful attacks {fall['successes_before']} to {fall['successes_after']} ({times})"
    pairs = f"{change['pairs']} pairs, {change['fixed']} fixed, {change['regressed']} regressed"
    print(f"\nBefore and after, {title}: {pairs} ({p_words(change)}); {successes}")


def _show_searches(search: dict[str, Any]) -> None:
    def cell(number: float | None, form: str = "g") -> str:
        return "-" if number is None else format(number, form)

    rows = []
    for name, facts in search.items():
        rates = [percent_cell(facts[key]["rate"]) for key in ("start", "found")]
        broken = f"{facts['broken']} of {facts['goals']}"
        counts = [cell(facts[key]) for key in ("queries", "to_break_of_broken", "to_break", "budget")]
        costs = [cell(facts["seconds"], ".3g"), cell(facts["flops"], ".2g")]
        rows.append([name, *rates, cell(facts["p"], ".2g"), broken, *counts, *costs])
    print("\nSearches: DSR of the prompts they start from and of what they found, by their own rules, with the exact")
    print("McNemar p of the two; median queries a goal, to the first break of those broken, and of all goals (-:")
    print("censored, half or more were not); the most queries a goal could cost; median seconds and FLOPs a goal")
    head = ["start", "found", "p", "broken", "queries", "to break", "of all", "budget", "seconds", "FLOPs"]
    print_table(["attack", *head], rows)


def _show_harm(rates: dict[str, Any], mean: str) -> None:
    head = ["DSR by harm", "from", "to", "scored", "unscored"]
    print("\nThe same by harm: responses that a judge scored below 0.5, of those with a score")
    print_table(["attack", *head], _harm_rows({**rates["by_attack"], mean: rates["overall"]}))
    if len(rates["by_category"]) > 1:
        print()
        print_table(["category", *head], _harm_rows(rates["by_category"]))


def _harm_rows(tables: dict[str, Any]) -> list[list[str]]:
    return [
        [name, *(percent_cell(t[key]) for key in ("rate", "low", "high")), *(str(t[key]) for key in ("n", "unscored"))]
        for name, t in tables.items()
    ]


def _cells(rate: dict[str, Any]) -> list[str]:
    figures = [percent_cell(rate[key]) for key in ("rate", "low", "high")]
    return [*figures, *(str(rate[key]) for key in ("n", "partial", "empty", "unscored", "errors"))]
