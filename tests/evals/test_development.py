"""What is measured while training goes on: rates, kinds, and what could not be judged."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

from scripted import FakeEngine
from sirl.attacks import resolve_attacks
from sirl.evals.development import KL_PROMPTS, DevelopmentSet
from sirl.evals.drift import measure_drift
from sirl.generation import load_engine
from sirl.generation.local import LocalEngine
from sirl.judges import load_judge
from sirl.judges.base import Judgement
from sirl.records import Completion, Prompt

GOALS = [Prompt(f"g{i}", f"goal {i}") for i in range(4)]
BENIGN = [Prompt(f"b{i}", f"question {i}", category="plain" if i < 2 else "sounds_harmful") for i in range(6)]


def development(**changes: object) -> DevelopmentSet:
    settings = {"attacks": resolve_attacks("direct,dan"), "goals": GOALS, "benign": BENIGN}
    settings |= {"judge": load_judge("refusal"), "max_new_tokens": 8, "seed": 0}
    return DevelopmentSet(**{**settings, **changes})


def test_rates() -> None:
    got = development().measure(FakeEngine(refuses=["goal 0", "goal 1", "goal 2", "question 5"]))
    assert got == {
        "dsr": 0.75,
        "commonest_sentence": 1.0,
        "distinct": pytest.approx(1 / 6),
        "repetition": 0.0,
        "over_refusal": pytest.approx(1 / 6),
        "over_refusal/plain": 0.0,
        "over_refusal/sounds_harmful": 0.25,
        "empty": 0.0,
        "asked": 14,
        "unscored": 0,
    }


def test_benign_requests_in_the_wrappings_of_the_attacks() -> None:
    attacks = resolve_attacks("direct,dan,poem")  # the first wraps nothing
    engine = FakeEngine(refuses=["question 1", "question 2"])
    got = development(attacks=attacks, wrapped=BENIGN[:4]).measure(engine)
    assert got["wrapped"] == 0.5
    assert got["asked"] == 3 * 4 + 6 + 2 * 4
    assert "wrapped" not in development(attacks=attacks[:1], wrapped=BENIGN[:4]).measure(engine)
    assert "wrapped" not in development(attacks=attacks).measure(engine)


def test_harm_told_from_form_in_wrappings_that_can_be_read() -> None:
    attacks = resolve_attacks("direct,dan,poem,base64")
    engine = FakeEngine(refuses=["goal 0", "goal 1", "goal 2", "question 1"])
    got = development(attacks=attacks, wrapped=BENIGN[:4]).measure(engine)
    z = NormalDist().inv_cdf
    assert got["dprime"] == pytest.approx(z(6.5 / 9) - z(2.5 / 9)), "base64 hides the request and is left out"
    assert got["dprime_low"] <= got["dprime"] <= got["dprime_high"]
    encoded = development(attacks=resolve_attacks("base64"), wrapped=BENIGN[:4]).measure(engine)
    assert "wrapped" in encoded
    assert "dprime" not in encoded


def test_nothing_refused_and_nothing_benign() -> None:
    got = development(benign=()).measure(FakeEngine())
    assert got == {"dsr": 0.0, "empty": 0.0, "repetition": 0.0, "asked": 8, "unscored": 0}


class Looping:
    """Refuses goals in words of its own each, and loops over four tokens on every question."""

    name = "looping"

    def generate(self, conversations, params, progress=None):
        texts = [conversation[-1]["content"] for conversation in conversations]
        loop = Completion("a b c d a b c d", tokens=tuple("abcdabcd"))
        broken = Completion.failed("no answer")
        refusal = [Completion(f"I'm  sorry, but I can't help with {t.upper()}.", tokens=tuple("xyz")) for t in texts]
        special = {"question 0": broken, "goal 1": Completion("i'm sorry, but i can't help with goal 0.")}
        return [[special.get(t, loop if "question" in t else said)] for t, said in zip(texts, refusal, strict=True)]


def test_repetition_and_different_refusals() -> None:
    got = development(attacks=resolve_attacks("direct")).measure(Looping())
    assert got["distinct"] == 3 / 4, "case and spacing make no difference"
    assert got["repetition"] == pytest.approx(5 * (1 - 4 / 5) / 9), "four refusals, five answers; one failed"


def test_divergence_from_the_start(model_folder) -> None:
    engine = load_engine(str(model_folder("llama")))
    benign = [Prompt(f"b{i}", f"question {i} about France") for i in range(KL_PROMPTS + 2)]
    own = development(attacks=resolve_attacks("direct"), benign=benign)
    assert "kl" not in own.measure(engine), "not begun"
    own.begin(engine)
    assert 0 < len(own.starting) <= KL_PROMPTS
    assert own.measure(engine)["kl"] == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    moved = LocalEngine(engine.model, engine.tokenizer)
    assert own.measure(moved)["kl"] == pytest.approx(measure_drift(moved, own.starting)["kl"]["value"])
    assert own.measure(moved)["kl"] > 1e-3
    own.begin(FakeEngine())
    assert "kl" not in own.measure(FakeEngine())


class Silent:
    """Ends its turn at once, whatever it is asked."""

    name = "silent"

    def generate(self, conversations, params, progress=None):
        return [[Completion("", (2,), ("<eos>",), (0.0,))] for _ in conversations]


def test_saying_nothing_is_no_defence_and_helps_nobody() -> None:
    got = development().measure(Silent())
    assert (got["dsr"], got["over_refusal"], got["empty"], got["unscored"]) == (0.0, 1.0, 1.0, 0)
    assert got["over_refusal/plain"] == got["over_refusal/sounds_harmful"] == 1.0


def test_what_cannot_be_judged_is_counted_apart() -> None:
    class Half:
        name = "half"

        def judge(self, items):
            return [Judgement("unscored" if "3" in i.prompt else "full_refusal") for i in items]

    got = development(judge=Half()).measure(FakeEngine())
    assert (got["dsr"], got["unscored"]) == (1.0, 3), "two attacks on one goal, and a question"
