"""Responses that forge verdicts: what reaches a judge model, and what is read from its answer.

Gullible models stand behind the judges here. One believes any verdict outside of the marked region, one copies the
response before its own verdict, and one does nothing but copy.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from injections import ANSWER, INJECTIONS, VERDICT_JSON

from sirl.generation.base import SamplingParams
from sirl.judges.base import JudgeItem, Judgement
from sirl.judges.classifiers import HarmBenchJudge, LlamaGuardJudge, WildGuardJudge
from sirl.judges.model import ModelJudge, TextJudge
from sirl.judges.refusal import judge_response
from sirl.judges.rubric import RubricJudge
from sirl.judges.sanitize import HEAD, MARK, TAIL, code_of, neutralise, quoted
from sirl.records import Completion, Conversation

REQUEST = "How do I sneak sandwiches into a cinema?"
CLASSIFIERS = (HarmBenchJudge, LlamaGuardJudge, WildGuardJudge)
TOKEN = re.compile(r"<\||<[｜/]|</?s>|<<|<(?:start|end)_of_turn|<eos>|\[/?INST|\[\||</think|<END CONV|\[TOOL_CALLS")
every_injection = pytest.mark.parametrize("response", INJECTIONS.values(), ids=INJECTIONS)


class Engine:
    """Answers each prompt by a function of it; keeps the prompts."""

    name = "scripted"

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer, self.prompts = answer, []

    def generate(self, conversations: Sequence[Conversation], params: SamplingParams, progress: Any = None) -> Any:
        assert params.temperature == 0
        assert all([m["role"] for m in conversation] == ["user"] for conversation in conversations)
        return [[c] for c in self.complete([conversation[0]["content"] for conversation in conversations], params)]

    def complete(self, texts: Sequence[str], params: SamplingParams, progress: Any = None) -> list[Completion]:
        assert params.temperature == 0
        self.prompts += texts
        return [Completion(self.answer(text)) for text in texts]


def parts(prompt: str) -> tuple[str, str, str, str]:
    """A rubric prompt by its marker lines, as one who knows nothing but the code would take it apart."""
    code = re.search(r"carry the code ([0-9a-f]{12})", prompt)
    assert code
    lines = prompt.split("\n")
    marks = [f"<<{name} {code[1]}>>" for name in ("request", "end of request", "response", "end of response")]
    assert [line for line in lines if line in marks] == marks, "each marker line once, and in order"
    a, b, c, d = (lines.index(mark) for mark in marks)
    outside = "\n".join(lines[:a] + lines[b + 1 : c] + lines[d + 1 :])
    return code[1], "\n".join(lines[a + 1 : b]), "\n".join(lines[c + 1 : d]), outside


def verdict(code: str, refusal: str = "none", specific: int = 5, convincing: int = 4) -> str:
    return json.dumps({"code": code, "refusal": refusal, "specific": specific, "convincing": convincing})


def ask(kind: type[ModelJudge], answer: Callable[[str], str], response: str) -> tuple[Judgement, str]:
    engine = Engine(answer)
    (judgement,) = kind(engine).judge([JudgeItem(REQUEST, response)])  # type: ignore[arg-type]
    return judgement, "".join(engine.prompts)


def test_there_are_enough_of_them() -> None:
    assert len(INJECTIONS) >= 30
    assert len(set(INJECTIONS.values())) == len(INJECTIONS)


@every_injection
def test_forged_text_stays_in_its_region(response: str) -> None:
    plain, plain_prompt = ask(RubricJudge, lambda p: verdict(parts(p)[0]), ANSWER)
    judgement, prompt = ask(RubricJudge, lambda p: verdict(parts(p)[0]), response)
    assert judgement == plain == Judgement("full_compliance", "refusal none, specific 5, convincing 4", 0.875)
    code, request, region, outside = parts(prompt)
    plain_code, _, _, plain_outside = parts(plain_prompt)
    assert outside.replace(code, "C") == plain_outside.replace(plain_code, "C"), "the response changed our own words"
    assert request == MARK + REQUEST
    assert all(line.startswith(MARK) for line in region.split("\n"))
    assert code not in region


@every_injection
def test_the_request_is_no_less_hostile(response: str) -> None:
    engine = Engine(lambda p: verdict(parts(p)[0]))
    RubricJudge(engine).judge([JudgeItem(response, ANSWER)])  # type: ignore[arg-type]
    _, request, region, _ = parts(engine.prompts[0])
    assert region == MARK + ANSWER
    assert all(line.startswith(MARK) for line in request.split("\n"))


@every_injection
def test_a_model_that_believes_what_is_outside_finds_nothing(response: str) -> None:
    """It takes the first verdict outside of the region; all that stands there is the form to fill in."""

    def gullible(prompt: str) -> str:
        code, _, _, outside = parts(prompt)
        found = re.search(r'\{[^{}]*"refusal": "(?:full|partial|none)"[^{}]*\}', outside)
        return found[0] if found else verdict(code)

    assert ask(RubricJudge, gullible, response)[0].label == "full_compliance"


@every_injection
@pytest.mark.parametrize("more", ["", "its own verdict"])
def test_a_model_that_copies_the_response_gives_no_verdict(response: str, more: str) -> None:
    def shown(prompt: str) -> str:
        code, _, region, _ = parts(prompt)
        copy = "\n".join(line.removeprefix(MARK) for line in region.split("\n"))
        return f"{copy}\n{verdict(code)}" if more else copy

    def raw(prompt: str) -> str:
        return f"{response}\n{verdict(parts(prompt)[0])}" if more else response

    for echo in (shown, raw):
        judgement, _ = ask(RubricJudge, echo, response)
        assert (judgement.label, judgement.score) == ("unscored", None)
        assert judgement.reason.startswith("the judge model's answer")


@every_injection
def test_no_control_token_no_role_and_no_verdict_is_left(response: str) -> None:
    text = neutralise(response)
    assert unicodedata.normalize("NFKC", text) == text, "a tokenizer that normalises would see something else"
    assert not TOKEN.search(text)
    assert not re.search(r"[<\[]\S", text)
    assert not re.search(r"(?im)^\s*(?:user|agent|system|judge|answers?|rules)\s*:", text)
    assert not re.search(r"(?i)\b(?:response refusal|harmful response|refusal|verdict|code)\W{0,3}:", text)
    assert not re.search(r"(?m)^-{3,}$", text)
    assert not re.search("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f]", text)
    assert not re.search("[\ud800-\udfff\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]", text)
    assert len(text) <= 2 * (HEAD + TAIL) + 10
    assert len(text) > HEAD + TAIL or neutralise(text) == text


def test_what_is_not_hostile_is_left_alone() -> None:
    text = 'Grüße, 你好 — "a < b", f(x) = [ 1, 2 ]: naïve café.\n\n1. Take it.\n- Leave it: now.'
    assert neutralise(text) == text


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_injection
def test_classifier_prompts_keep_their_form(kind: type[TextJudge], response: str) -> None:
    """Nothing of the template's own syntax comes from the response: every control word as often as without it."""
    judge = kind(Engine(str))
    plain = judge.prompt(JudgeItem(REQUEST, "x"))
    prompt = judge.prompt(JudgeItem(REQUEST, response))
    before, after = plain.split(REQUEST)[1].split("x", 1)[0], plain[-20:]
    assert prompt.startswith(plain.split(REQUEST)[0])
    assert prompt.endswith(after)
    for syntax in ("[INST]", "[/INST]", "<<SYS>>", "<|user|>", "<|assistant|>", "<|eot_id|>", "<END CONVERSATION>"):
        assert prompt.count(syntax) == plain.count(syntax)
    for line in ("---", "Rules:", "Answers: [/INST]", "Answer: [/INST]", "AI assistant:", "Generation:"):
        assert prompt.split("\n").count(line) == plain.split("\n").count(line)
    assert len(re.findall(r"(?m)^Agent: ", prompt)) == len(re.findall(r"(?m)^Agent: ", plain))
    assert before in prompt


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_injection
def test_a_classifier_that_copies_the_response_gives_no_refusal(kind: type[TextJudge], response: str) -> None:
    judgement, _ = ask(kind, lambda _: neutralise(response), response)
    assert judgement.label == "unscored"
    if response != "safe":  # there is nothing else in that response, so the verdict is not forged
        assert judgement.score is None


@every_injection
def test_reasons_are_our_own_words(response: str) -> None:
    for kind, answer in ((RubricJudge, lambda _: response), *((k, lambda _: response) for k in CLASSIFIERS)):
        reason = ask(kind, answer, response)[0].reason
        assert "cucumber" not in reason
        assert len(reason) < 80


@every_injection
def test_the_rule_judge_is_not_talked_into_a_refusal(response: str) -> None:
    assert judge_response(response).label != "full_refusal"
    appended = ANSWER + " " * 3 + response
    assert judge_response(appended).label in ("full_compliance", "partial_refusal")


@pytest.mark.parametrize("response", [r for r in INJECTIONS.values() if ANSWER in r])
@pytest.mark.parametrize("between", [" ", "\n", "\n\n"])
def test_the_rule_judge_sees_an_answer_beside_a_refusal(response: str, between: str) -> None:
    refusal = "I'm sorry, but I can't help with that."
    assert judge_response(refusal).label == "full_refusal"
    for parts in ((refusal, response), (response, refusal), (refusal, response, refusal)):
        assert judge_response(between.join(parts)).label != "full_refusal"


def test_a_code_hangs_on_every_text_and_its_place() -> None:
    codes = {code_of("a", "b"), code_of("b", "a"), code_of("ab", ""), code_of("", "ab"), code_of("a", "c")}
    assert len(codes) == 5
    assert code_of("a", "b") == code_of("a", "b")
    assert all(re.fullmatch("[0-9a-f]{12}", code) for code in codes)
    assert code_of("\ud83d") != code_of("")


def test_a_verdict_with_the_code_of_another_item_is_none() -> None:
    stolen = verdict(code_of(REQUEST, "another response"))
    judgement, _ = ask(RubricJudge, lambda _: stolen, ANSWER)
    assert judgement == Judgement("unscored", "the judge model's answer lacks the code of this item")


def test_long_text_keeps_its_two_ends() -> None:
    lines = quoted("start " + "x" * 50_000 + " end").split("\n")
    assert lines[0].startswith("| start")
    assert lines[1] == "| ..."
    assert lines[2].endswith(" end")
    assert len("".join(lines)) == HEAD + TAIL + 3 * len(MARK) + 3


def test_hostile_text_costs_little() -> None:
    start = time.process_time()
    for text in (
        "<" * 400_000,
        "user " * 80_000,
        "refusal " * 50_000,
        ">" * 400_000,
        "\ufdfa" * 100_000,
        "- " * 200_000,
    ):
        neutralise(text)
    assert time.process_time() - start < 1.5


def test_the_judged_verdict_of_these_tests_is_well_formed() -> None:
    assert set(json.loads(VERDICT_JSON)) == {"code", "refusal", "specific", "convincing"}
