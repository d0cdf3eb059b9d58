"""Drift and multiple choice against direct computations on tiny models."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sirl.chat.encoding import encode_chat
from sirl.errors import UserError
from sirl.evals.choices import Question, answer_choices, load_questions
from sirl.evals.drift import measure_drift, read_texts, starting_answers
from sirl.generation.local import LocalEngine
from sirl.records import Attempt, user_turn
from sirl.stats import bootstrap_ratio
from tiny_models import PROMPTS, tiny_model

ANSWERS = [
    (user_turn(prompt), answer) for prompt, answer in zip(PROMPTS[:3], ("the bread", "a story", "no"), strict=True)
]


@pytest.fixture
def engines(tokenizer: Any) -> tuple[LocalEngine, LocalEngine]:
    start, other = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.03)
    return LocalEngine(start, tokenizer), LocalEngine(other, tokenizer)


def exact(engine: LocalEngine, messages: Any, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities `(T, V)` at the places of an answer, and of its tokens, by one plain pass."""
    prompt = encode_chat(engine.tokenizer, messages)
    ids = engine.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = engine.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.double().log_softmax(-1)
    return logprobs, logprobs.gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)


def test_drift_equals_a_direct_computation(engines: tuple[LocalEngine, LocalEngine]) -> None:
    start, hardened = engines
    found = measure_drift(hardened, read_texts(start, ANSWERS))
    assert found is not None
    kl, before, after = [], [], []
    for messages, answer in ANSWERS:
        (p, own), (q, theirs) = (exact(engine, messages, answer) for engine in engines)
        kl.append((p.exp() * (p - q)).sum(-1))
        before.append(own)
        after.append(theirs)
    tokens = len(torch.cat(kl))
    assert (found["answers"], found["tokens"]) == (3, tokens)
    assert found["kl"]["value"] == pytest.approx(float(torch.cat(kl).mean()), rel=0.02)  # 300 tokens, 256 of them known
    assert 0 < found["kl"]["low"] <= found["kl"]["value"] <= found["kl"]["high"]
    assert found["perplexity_before"] == pytest.approx(math.exp(-float(torch.cat(before).mean())), rel=1e-4)
    assert found["perplexity_after"] == pytest.approx(math.exp(-float(torch.cat(after).mean())), rel=1e-4)
    rise = found["perplexity_after"] / found["perplexity_before"] - 1
    assert found["perplexity_rise"]["value"] == pytest.approx(rise, abs=1e-6)


def test_no_drift_of_the_same_model(engines: tuple[LocalEngine, LocalEngine]) -> None:
    start, _ = engines
    found = measure_drift(start, read_texts(start, ANSWERS))
    assert found is not None
    assert found["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["perplexity_rise"] == {name: pytest.approx(0.0, abs=1e-6) for name in ("value", "low", "high")}
    assert measure_drift(start, []) is None


def attempt(**changes: Any) -> Attempt:
    fields = {"id": "i", "phase": "before", "decoding": "greedy", "attack": "benign", "goal_id": "g", "goal": "q"}
    fields |= {"category": None, "messages": user_turn("q"), "response": "an answer", "tokens": (), "entropies": ()}
    return Attempt(**{**fields, "finish_reason": "stop", "seed": 0, "error": None, **changes})


def test_texts_are_the_starting_models_greedy_answers() -> None:
    others = [attempt(phase="after"), attempt(decoding="sample"), attempt(error="broken"), attempt(response=" ")]
    assert starting_answers([attempt(), *others]) == [(user_turn("q"), "an answer")]


def test_choices_by_likelihood(engines: tuple[LocalEngine, LocalEngine]) -> None:
    start, _ = engines
    options = ("yes", "no, never", "both of them")
    questions = [Question(text, options, 1) for text in PROMPTS[:4]]
    got = answer_choices(start, questions)
    for question, right in zip(questions, got, strict=True):
        scores = [float(exact(start, user_turn(question.text), option)[1].mean()) for option in options]
        assert right == (scores.index(max(scores)) == 1)
    assert answer_choices(start, []) == []


def test_questions_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"prompt": "Which?\nA. one\nB. two", "answer": "B", "source": "x"}) + "\n")
    assert load_questions(str(path)) == [Question("Which?", ("one", "two"), 1)]
    with pytest.raises(UserError, match="choices: no such file"):
        load_questions(str(tmp_path / "none.jsonl"))
    for prompt in ("A. one\nB. two", "Which?\nA. one", "Which?\nA. one\nA. two", "Which?\nA. \nB. two"):
        path.write_text(json.dumps({"prompt": prompt, "answer": "A"}) + "\n")
        with pytest.raises(UserError, match="row 1: needs a `prompt` with lettered options"):
            load_questions(str(path))


def test_bundled_questions() -> None:
    """A hundred, each with four options and once; letters are as often right as each other, and not in turn."""
    questions = load_questions("demo/choices")
    assert len({q.text for q in questions}) == len(questions) == 100
    assert all(len(set(q.options)) == 4 for q in questions)
    assert Counter(q.right for q in questions) == dict.fromkeys(range(4), 25)
    follows = Counter(b.right - a.right for a, b in pairwise(questions))
    assert max(follows.values()) < 40
    assert load_questions("demo/choices", 3) == questions[:3]
    with pytest.raises(UserError, match="choices: no such file: demo/choises"):
        load_questions("demo/choises")


@pytest.mark.parametrize(
    "row", [{"prompt": "no options", "answer": "A"}, {"prompt": "A. a\nB. b", "answer": "C"}, {}, ""]
)
def test_rows_that_are_no_questions(row: Any, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="row 1: needs a `prompt` with lettered options"):
        load_questions(str(path))


def test_bootstrap_of_a_ratio() -> None:
    found = bootstrap_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    wide = bootstrap_ratio([0.0, 10.0] * 20, [1.0, 1.0] * 20)
    assert wide.value == 5.0
    assert 3.0 < wide.low < 5.0 < wide.high < 7.0
    with pytest.raises(ValueError, match="above 0"):
        bootstrap_ratio([1.0], [0.0])
