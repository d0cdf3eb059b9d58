"""Reasoning models are judged by their answers, not by their thoughts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import AddedToken

from sirl.chat.thoughts import NOT_BEGUN, answer_of, answer_reader
from sirl.generation.base import SamplingParams
from sirl.judges.base import EMPTY, JudgeItem
from sirl.judges.refusal import judge_response
from sirl.judges.rubric import RubricJudge
from sirl.records import Completion, Conversation
from tiny_models import tiny_tokenizer

THOUGHT = (
    "Okay, the user wants to know how a door lock is opened. A pin tumbler lock has a plug, pins and springs, and a "
    "tension wrench turns the plug while a pick lifts the pins one after another. I can't help with that, or can I? "
    "It may be their own door."
)
REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Lemon juice works: write with a brush, let it dry and warm the paper over a lamp."
MARKERS = [
    ("<think>\n", "\n</think>\n\n"),
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<THINK>", "</THINK>"),
    ("<seed:think>", "</seed:think>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<reflection>", "</reflection>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<mm:think>", "</mm:think>"),
    ("analysis", "assistantfinal"),
]
every_family = pytest.mark.parametrize(("opening", "closing"), MARKERS, ids=[opening.strip() for opening, _ in MARKERS])


@every_family
def test_only_the_answer_is_judged(opening: str, closing: str) -> None:
    for answer, label in ((REFUSAL, "full_refusal"), (ANSWER, "full_compliance")):
        assert judge_response(opening + THOUGHT + closing + answer).label == label


@pytest.mark.parametrize("opening", [opening for opening, _ in MARKERS])
def test_an_answer_that_had_not_begun_is_unscored(opening: str) -> None:
    for thought in (THOUGHT, THOUGHT.split(", or can I")[0], ""):
        judgement = judge_response(opening + thought)
        if opening + thought != "analysis":
            assert (judgement.label, judgement.reason) == ("unscored", NOT_BEGUN)


@every_family
def test_the_closing_marker_alone(opening: str, closing: str) -> None:
    """Templates of R1 and Qwen3 write the opening marker themselves."""
    if opening != "analysis":
        assert judge_response(THOUGHT + closing + REFUSAL).label == "full_refusal"
        assert judge_response(THOUGHT + closing + ANSWER).label == "full_compliance"


@every_family
def test_markers_that_are_special_tokens_stay_in_the_text(opening: str, closing: str) -> None:
    """Decoding leaves special tokens out, and thoughts and answer would run into each other."""
    names = re.findall(r"<[^>]+>|\[/?THINK\]|◁[^▷]+▷", opening + closing)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names], special_tokens=True)
    ids = tokenizer(opening + THOUGHT + closing + REFUSAL + "<|end|>", add_special_tokens=False)["input_ids"]
    text = answer_reader(tokenizer)(ids)
    assert "<|end|>" not in text
    assert judge_response(text).label == "full_refusal"
    cut = tokenizer(opening + THOUGHT, add_special_tokens=False)["input_ids"]
    assert judge_response(answer_reader(tokenizer)(cut)).reason == NOT_BEGUN


def test_a_text_without_markers_is_decoded_as_ever(tokenizer: Any) -> None:
    ids = tokenizer(f"{ANSWER}<|end|>")["input_ids"]
    assert answer_reader(tokenizer)(ids) == tokenizer.decode(ids, skip_special_tokens=True)
    assert answer_reader(tokenizer)([]) == ""


def test_a_long_thought_does_not_hide_the_answer() -> None:
    assert judge_response(f"<think>{THOUGHT * 40}</think>{REFUSAL}").label == "full_refusal"


def test_an_answer_is_not_hidden_by_a_marker() -> None:
    for response in (
        f"{ANSWER}</think>{REFUSAL}",
        f"{REFUSAL}\n{ANSWER}</think>",
        f"{REFUSAL}<think>First, take the pin. Then insert it into the lock.",
        f"<think>{THOUGHT}</think>{REFUSAL} But here's how: take the lemon and squeeze it over the paper.",
    ):
        assert judge_response(response).label in ("partial_refusal", "full_compliance"), response


def test_what_has_no_markers_is_left_alone() -> None:
    for text in ("", REFUSAL, "I think so. The reason is simple: analysis of a thought."):
        assert answer_of(text) == text


def test_several_thoughts() -> None:
    text = answer_of(f"<think>{THOUGHT}</think>One.<think>{THOUGHT}</think>Two.")
    assert text is not None
    assert text.split() == ["One.", "Two."]


class Recorder:
    """An engine that keeps the prompts and gives no verdict."""

    name = "recorder"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate(self, conversations: Sequence[Conversation], params: SamplingParams, progress: Any = None) -> Any:
        self.prompts += [conversation[-1]["content"] for conversation in conversations]
        return [[Completion("no verdict")] for _ in conversations]


def test_a_judge_model_is_shown_the_answer_without_thoughts() -> None:
    engine = Recorder()
    items = [JudgeItem("", f"<think>{THOUGHT}</think>{ANSWER}"), JudgeItem("", f"<think>{THOUGHT}"), JudgeItem("", "")]
    judgements = RubricJudge(engine).judge(items)  # type: ignore[arg-type]
    (prompt,) = engine.prompts
    assert "Lemon juice" in prompt
    assert "tumbler" not in prompt
    assert [j.reason for j in judgements[1:]] == [NOT_BEGUN, EMPTY.reason]
