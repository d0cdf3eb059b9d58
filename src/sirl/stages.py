"""The stages of a run that measure, each from its inputs to its files: for `sirl run` and for the single commands."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sirl.attacks.base import Attack
from sirl.attacks.recheck import recheck as recheck_refusals
from sirl.attacks.run import AttemptSettings, run_attacks
from sirl.chat.template import SWITCH_OFF
from sirl.chat.thoughts import NOT_BEGUN
from sirl.errors import UserError
from sirl.evals.choices import Question, answer_choices
from sirl.evals.overrefusal import Benign
from sirl.gap import GapConfig, GapResult, PromptClass, analyse_gap, gap_svg, sample_gap
from sirl.generation import load_local
from sirl.generation.base import Engine
from sirl.generation.unanswered import no_answer
from sirl.judges import Judge
from sirl.judges.run import judge_attempts
from sirl.judges.validate import disagreements
from sirl.progress import BarMaker, counted, no_bar
from sirl.prompts import drawn_prompts
from sirl.records import (
    Attempt,
    Phase,
    Prompt,
    Verdict,
    read_jsonl,
    read_records,
    write_json,
    write_jsonl,
    write_text,
)
from sirl.run_folder import (
    ATTACKS,
    BASE,
    BENIGN,
    CAPABILITY,
    GAP,
    GAP_PLOT,
    GAP_SAMPLES,
    MODEL,
    RECHECKED,
    SUITES,
    WRAPPED,
    Suite,
)

log = logging.getLogger(__name__)


def gap_prompts(
    prompts: Sequence[Prompt],
    kind: PromptClass,
    benign: Sequence[Prompt],
    limit: int,
    seed: int,
    fitting: Callable[[Sequence[Prompt], str], list[Prompt]] | None = None,
) -> list[tuple[PromptClass, Prompt]]:
    """Prompts of the gap check with their kind: `limit` of those given, and as many of the benign ones.

    `fitting` leaves out what a training would leave out, before any are drawn; it is told what the prompts are.
    """
    fit = fitting or (lambda found, _: list(found))
    out: list[tuple[PromptClass, Prompt]] = [(kind, p) for p in drawn_prompts(fit(prompts, "gap prompts"), limit, seed)]
    if not out:
        raise UserError("gap: none of the prompts can be sent to the model; check --max_prompt_tokens")
    return out + [("benign", p) for p in drawn_prompts(fit(benign, "benign gap prompts"), limit, seed)]


def measure_gap(
    engine: Engine,
    judge: Judge,
    prompts: Sequence[tuple[PromptClass, Prompt]],
    config: GapConfig,
    folder: Path | None = None,
    bar: BarMaker = no_bar,
) -> GapResult:
    """The entropy gap; with a folder, also `gap.json`, `gap_samples.jsonl` and the plot `gap.svg` in it."""
    with bar("gap") as progress:
        samples = sample_gap(engine, judge, prompts, config, counted(progress, len(prompts) * config.k))
    result = analyse_gap(samples, config)
    if folder is not None:
        write_jsonl(folder / GAP_SAMPLES, [sample.to_row() for sample in samples])
        write_text(folder / GAP_PLOT, gap_svg(result))
        write_json(folder / GAP, result.to_dict())
    return result


def read_gap(folder: Path) -> tuple[str, str]:
    """Verdict and explanation that `measure_gap` left in a folder.

    Raises:
        UserError: its file is not there, or is not what was written.
    """
    try:
        gap = json.loads((folder / GAP).read_text(encoding="utf-8"))
        return str(gap["verdict"]), str(gap["explanation"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder / GAP}: cannot be read ({type(error).__name__}); put it back, or delete it and run the command "
            "again, which measures the gap again"
        ) from None


def require_gap(verdict: str, explanation: str, way_out: str) -> None:
    """Stop before training where confidence would teach nothing, or the wrong thing.

    Raises:
        UserError: the gap is absent or reversed. `way_out` says which setting trains all the same.
    """
    if verdict in ("absent", "reversed"):
        raise UserError(f"the entropy gap is {verdict}: {explanation} To train all the same: {way_out}")
    if verdict == "too few":
        log.warning("The entropy gap could not be measured. %s", explanation)


def attack(
    engine: Engine,
    attacks: Sequence[Attack],
    goals: Sequence[Prompt],
    folder: Path,
    settings: AttemptSettings,
    bar: BarMaker = no_bar,
    suite: Suite = ATTACKS,
) -> list[Attempt]:
    """Attempts into the file of the suite; those of an earlier go are kept, but for errors where there is nothing else.

    Raises:
        NoAnswerError: not one attempt was answered, nor was any of the attacks.
    """
    path = folder / suite.attempts
    if not has_answers(path, settings.phase):
        settings = replace(settings, retry_errors=True)
    with bar(f"{suite.title} ({settings.phase})") as progress:
        attempts = run_attacks(engine, attacks, goals, path=path, progress=progress, **vars(settings))
    asked = [attempt for attempt in attempts if attempt.queries != 0]  # but for searches that found nothing to replay
    errors = [attempt.error for attempt in asked if attempt.error is not None]
    # a suite whose prompts the model cannot take is no reason to stop where it answered another
    if errors and len(errors) == len(asked) and not has_answers(folder / ATTACKS.attempts, settings.phase):
        raise no_answer(engine, errors)
    return attempts


def has_answers(path: Path, phase: Phase) -> bool:
    """Whether a file holds an attempt of that phase that was answered: from then on its settings bind who goes on."""
    return path.is_file() and any(a.error is None and a.phase == phase for a in read_records(path, Attempt, lean=True))


def recheck(
    engine: Engine,
    attempts: Sequence[Attempt],
    judge: Judge,
    folder: Path,
    max_new_tokens: int | None,
    *,
    retry_errors: bool = False,
    bar: BarMaker = no_bar,
) -> None:
    """Refusals that were cut off are asked again, into `rechecked_attempts.jsonl`; not where there is no limit."""
    if max_new_tokens is not None:
        path = folder / RECHECKED.attempts
        with bar(RECHECKED.title) as progress:
            recheck_refusals(
                engine, attempts, judge, max_new_tokens, path, retry_errors=retry_errors, progress=progress
            )


def ask_benign(
    engine: Engine, prompts: Sequence[Prompt], folder: Path, settings: AttemptSettings, bar: BarMaker = no_bar
) -> list[Attempt]:
    """Benign prompts, asked plainly, into `benign_attempts.jsonl`."""
    return attack(engine, [Benign()], prompts, folder, settings, bar, BENIGN)


def ask_wrapped(
    engine: Engine,
    wrappings: Sequence[Attack],
    prompts: Sequence[Prompt],
    folder: Path,
    settings: AttemptSettings,
    bar: BarMaker = no_bar,
) -> list[Attempt]:
    """Benign prompts in each wrapping, greedily, into `wrapped_attempts.jsonl`."""
    return attack(engine, wrappings, prompts, folder, replace(settings, decodings=("greedy",)), bar, WRAPPED)


def measure_capability(
    folder: Path, questions: Sequence[Question], drift: bool, loading: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What is left of the model besides refusing, before and after, into `capability.json`; models one after the other.

    `drift` on the base model's answers in `benign_attempts.jsonl`, and rights and wrongs of `choices`. `loading` is
    for `load_local`.
    """
    from sirl.evals.drift import measure_drift, read_texts, starting_answers

    asked = folder / BENIGN.attempts
    answers = starting_answers(read_jsonl(asked, Attempt, lean=True)) if drift and asked.is_file() else []
    out: dict[str, Any] = {"drift": None, "choices": None}
    if answers or questions:
        start = load_local(str(folder / BASE), **(loading or {}))
        texts, before = read_texts(start, answers), answer_choices(start, questions)
        del start  # one model at a time
        hardened = load_local(str(folder / MODEL), **(loading or {}))
        out["drift"] = measure_drift(hardened, texts)
        if questions:
            out["choices"] = _both_scored(before, answer_choices(hardened, questions))
    write_json(folder / CAPABILITY, out)
    return out


def _both_scored(before: Sequence[bool | None], after: Sequence[bool | None]) -> dict[str, list[bool]] | None:
    """Answers to the questions that both models could be given; the others are counted in a log line."""
    kept = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if len(kept) < len(before):
        left = len(before) - len(kept)
        log.warning(
            "%d of %d multiple-choice questions cannot be sent to the model and are left out", left, len(before)
        )
    return {"before": [a for a, _ in kept], "after": [b for _, b in kept]} if kept else None


def judge_all(judges: Sequence[Judge], folder: Path, bar: BarMaker = no_bar) -> list[Verdict]:
    """Verdicts of every judge beside every file of attempts in a folder; those of an earlier go are kept."""
    out: list[Verdict] = []
    for suite in SUITES:
        path = folder / suite.attempts
        if path.is_file():
            out += judge_file(read_jsonl(path, Attempt, lean=True), judges, folder, suite, bar)
    return out


def judge_rechecked(judges: Sequence[Judge], folder: Path, bar: BarMaker = no_bar) -> None:
    """Verdicts on the answers of `recheck`, where there are any."""
    path = folder / RECHECKED.attempts
    if path.is_file():
        judge_file(read_jsonl(path, Attempt, lean=True), judges, folder, RECHECKED, bar)


def _warn_of_thoughts(verdicts: Sequence[Verdict]) -> None:
    """Say so where many answers were cut inside the model's thoughts: the token limit is then too small."""
    cut = sum(verdict.reason == NOT_BEGUN for verdict in verdicts)
    if cut * 10 > len(verdicts):
        log.warning(
            "%d of %d answers were cut inside the model's thoughts and are unscored; give a larger token limit, or "
            "switch thinking off where the chat template can (%s)",
            cut,
            len(verdicts),
            SWITCH_OFF,
        )


def judge_file(
    attempts: Sequence[Attempt], judges: Sequence[Judge], folder: Path, suite: Suite = ATTACKS, bar: BarMaker = no_bar
) -> list[Verdict]:
    """Verdicts of every judge into the suite's file, the first judge's first; with several judges, where they differ
    goes into another file of it."""
    out: list[Verdict] = []
    path = folder / suite.verdicts
    for judge in judges:
        with bar(f"judge ({judge.name})") as progress:
            # rechecked answers are few and long: a judge that fails on all of them says nothing about the run
            out += judge_attempts(attempts, judge, path, progress=progress, required=suite != RECHECKED)
    _warn_of_thoughts(out)
    if len(judges) > 1:  # of the whole file: it may hold the other phase as well
        write_jsonl(folder / suite.disagreements, disagreements(read_jsonl(path, Verdict)))
    return out
