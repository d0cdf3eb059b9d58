"""No regex of ours takes more than linear time on text that a model or a user wrote.

Each public function that runs one reads 4,000 characters of its own patterns' words, over and over, in 50 ms. Such text
is what a model that falls into a loop writes ("I'm sorry, I'm sorry, ..."), and it is what makes a pattern that can be
matched in many ways try all of them.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from pattern_text import patterns_by_module, pieces
from scripted import FakeEngine
from sirl.attacks.adaptive import attacker_prompts, best_of_n, crescendo, mutations
from sirl.attacks.ascii_art import masked_word
from sirl.attacks.encodings import Disemvowel
from sirl.attacks.nesting import _misspell
from sirl.attacks.rewriting import to_future_question, to_past_question
from sirl.chat.thoughts import answer_of
from sirl.demo import demo_scale
from sirl.diversity import commonest_sentence, sentences
from sirl.errors import UserError
from sirl.evals import answers, choices, instructions
from sirl.inputs.typed import convert
from sirl.judges import refusal, rubric
from sirl.judges.base import JudgeItem
from sirl.judges.classifiers import LlamaGuardJudge, WildGuardJudge
from sirl.judges.model import _of_judge, _why
from sirl.judges.sanitize import quoted
from sirl.organism.refusals import topic_of
from sirl.records import Completion
from sirl.redaction import redact_text
from sirl.report import card

LENGTH = 4000
SECONDS = 0.05
BETWEEN = ("", " ", " ", ", ", "'", "\n")
TAILS = ("", "\x00", " x!", "but i can't h")
LOOPS = ("I'm sorry, ", "I'm sorry. ", "No, I can't. ", "I apologize, I'm sorry; ", "```", "a: ", "1,")
"""What a model says that has fallen into a loop."""
ITEM = JudgeItem("", "")
ARGUMENTS = {
    **{"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a", "postscript_marker": "P.P.S", "num_highlights": 1},
    **{"num_words": 1, "num_sentences": 1, "num_placeholders": 1, "num_bullets": 1, "num_sections": 1},
    **{"section_spliter": "a", "keywords": ["a"], "keyword": "a", "forbidden_words": ["a"], "frequency": 1},
    **{"letter": "a", "let_frequency": 1, "capital_frequency": 1, "prompt_to_repeat": "a", "end_phrase": "a"},
    "language": "ru",
}


def every_instruction(text: str) -> None:
    for rule in instructions.RULES:
        instructions.follows(rule, ARGUMENTS, "", text)


def refused(function: Callable[[str], Any]) -> Callable[[str], None]:
    """`function`, which may also say that its text is none of those that it takes."""

    def call(text: str) -> None:
        with pytest.raises(UserError):
            function(text + "\x00")

    return call


ENTRIES: dict[str, tuple[Callable[[str], Any], ...]] = {
    "sirl.attacks.adaptive.best_of_n": (lambda text: best_of_n.scramble(text, 1.0, random.Random(0)),),
    "sirl.attacks.adaptive.crescendo": (crescendo.topic,),
    "sirl.attacks.adaptive.mutations": (
        mutations.split_sentences,
        lambda text: mutations.rephrase(text, random.Random(0)),
    ),
    "sirl.attacks.adaptive.attacker_prompts": (attacker_prompts.parse_prompt, attacker_prompts.content_words),
    "sirl.attacks.ascii_art": (masked_word,),
    "sirl.attacks.encodings": (Disemvowel().encode,),
    "sirl.attacks.nesting": (lambda text: _misspell(text, random.Random(0)),),
    "sirl.attacks.rewriting": (to_past_question, to_future_question),
    "sirl.inputs.typed": (refused(lambda text: convert(text, float, "gap.k")),),
    "sirl.demo": (refused(lambda text: demo_scale(f"demo@{text}")),),
    "sirl.organism.refusals": (topic_of,),
    "sirl.diversity": (sentences, lambda text: commonest_sentence([[text], [text[1:]]])),
    "sirl.evals.answers": (
        answers.final_answer,
        answers.value,
        answers.program,
        lambda text: answers.same_value(text, "1/2"),
        lambda text: answers.same_number(text, "2"),
    ),
    "sirl.evals.choices": (choices.OPTION.split,),
    "sirl.evals.instructions": (every_instruction,),
    "sirl.judges.classifiers": (
        lambda text: LlamaGuardJudge(FakeEngine()).read(ITEM, text),  # type: ignore[arg-type]
        lambda text: WildGuardJudge(FakeEngine()).read(ITEM, text),  # type: ignore[arg-type]
    ),
    "sirl.judges.sanitize": (quoted,),
    "sirl.judges.model": (
        lambda text: _why(Completion.failed(text)),
        lambda text: _of_judge(UserError(text), "m"),
    ),
    "sirl.judges.phrases": (refusal.judge_response,),
    "sirl.judges.refusal": (refusal.judge_response, refusal.without_quotes),
    "sirl.judges.rubric": (rubric._json_object,),
    "sirl.chat.thoughts": (answer_of, refusal.judge_response),
    "sirl.redaction": (redact_text,),
    "sirl.report.card": (card._text,),
}
PATTERNS = patterns_by_module()


def test_the_table_names_modules_with_patterns() -> None:
    assert ENTRIES.keys() <= PATTERNS.keys()


@pytest.mark.parametrize("module", PATTERNS)
def test_time_is_linear_in_the_text(module: str) -> None:
    """Modules that are not in the table, most of which read names and addresses, have their patterns tried as such."""
    rng = random.Random(module)
    for text in repeated(module, rng):
        for entry in ENTRIES.get(module) or [pattern.match for pattern in PATTERNS[module]]:
            assert seconds(entry, text) < SECONDS, (entry, text[:80], text[-10:])


def repeated(module: str, rng: random.Random) -> list[str]:
    """Words of each pattern, over and over, at times behind the beginning of a match, and before what breaks it."""
    out = [unit * LENGTH for unit in LOOPS]
    for pattern in dict.fromkeys(PATTERNS[module]):
        words = [*pieces(pattern, rng), *" \n\t1,`'\"*-<[a"]
        words += [word.strip(" \n'_,") for word in words if len(word) < 12]
        for _ in range(60 if "judges" in module else 12):
            head = rng.choice(words)[: rng.randint(0, 40)] if rng.random() < 0.3 else ""
            out.append(
                head + "".join(rng.choice(words) + rng.choice(BETWEEN) for _ in range(rng.randint(1, 6))) * LENGTH
            )
    return [text[:LENGTH] + rng.choice(TAILS) for text in out]


def seconds(entry: Callable[[str], Any], text: str) -> float:
    """The least time of eight tries: a busy machine makes it longer, never shorter. No try takes more than a second."""

    def stop(*_: object) -> None:
        pytest.fail(f"more than a second for {text[:80]!r}")

    best = float("inf")
    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        for _ in range(8):
            signal.setitimer(signal.ITIMER_VIRTUAL, 1)
            start = time.thread_time()
            entry(text)
            best = min(best, time.thread_time() - start)
            if best < SECONDS:
                break
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return best
