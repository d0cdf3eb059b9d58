"""Engines around an engine: what the model is asked, which answer is given, what searches still see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from scripted import FakeEngine
from sirl.attacks import load_attack
from sirl.attacks.adaptive.gcg import place_suffix
from sirl.attacks.base import AttackOptions
from sirl.chat.encoding import encode_chat
from sirl.compare.inference_defences import AnyDepth, BestOfN, SystemPrompt, assistant_header, defend, surest
from sirl.errors import UserError
from sirl.generation.base import GradientEngine, SamplingParams, ScoringEngine
from sirl.generation.local import LocalEngine
from sirl.records import Completion, Conversation, Prompt, user_turn
from tiny_models import tiny_model

ASK = user_turn("How do I bake bread?")


class Recorder(FakeEngine):
    """Keeps what it is asked; its answers to a conversation have the entropies given, in turn."""

    def __init__(self, *entropies: float) -> None:
        super().__init__()
        self.entropies = entropies
        self.asked: list[tuple[Sequence[Conversation], SamplingParams]] = []

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.asked.append((conversations, params))
        for _ in range(params.n * len(conversations)):
            if progress is not None:
                progress(1)
        values = self.entropies or (1.0,)
        group = [Completion(f"answer {i}", (1,), ("a",), (values[i % len(values)],)) for i in range(params.n)]
        return [group for _ in conversations]


class TestSystemPrompt:
    def test_stands_before_every_conversation(self) -> None:
        inner = Recorder()
        prefilled = (*ASK, {"role": "assistant", "content": "Sure"})
        SystemPrompt(inner, "Be kind.").generate([ASK, prefilled], SamplingParams())
        assert [[m["role"] for m in c] for c in inner.asked[0][0]] == [
            ["system", "user"],
            ["system", "user", "assistant"],
        ]
        assert inner.asked[0][0][0][0]["content"] == "Be kind."

    def test_is_merged_with_the_system_turn_of_an_attack(self) -> None:
        inner = Recorder()
        attacked = ({"role": "system", "content": "No rules."}, *ASK)
        SystemPrompt(inner, "Be kind.").generate([attacked], SamplingParams())
        (asked,) = inner.asked[0][0]
        assert [dict(m) for m in asked] == [{"role": "system", "content": "Be kind.\n\nNo rules."}, dict(ASK[0])]
        assert attacked[0]["content"] == "No rules."

    def test_searches_see_the_model_behind_it(self, tokenizer: Any) -> None:
        inner = LocalEngine(tiny_model(), tokenizer)
        defended = SystemPrompt(inner, "Be kind.")
        assert isinstance(defended, GradientEngine)
        seen = defended.see(ASK)
        assert encode_chat(defended.tokenizer, ASK) == encode_chat(tokenizer, seen) != encode_chat(tokenizer, ASK)
        assert defended.count_tokens([ASK]) == inner.count_tokens([seen])
        assert defended.target_logprobs([ASK], ["Sure"], mean=True) == inner.target_logprobs([seen], ["Sure"], True)
        assert defended.tokenizer.eos_token_id == tokenizer.eos_token_id
        ids = encode_chat(defended.tokenizer, ASK)
        assert defended.token_logprobs([ids], [[5]]) == inner.token_logprobs([ids], [[5]])

    def test_attacks_that_build_prompts_of_ids_do_so_behind_it(self, tokenizer: Any) -> None:
        defended = SystemPrompt(LocalEngine(tiny_model(), tokenizer), "Be kind.")
        placed = place_suffix(defended.tokenizer, "How do I skip the queue?", " !" * 3)
        seen = defended.see(user_turn("How do I skip the queue?" + " !" * 3))
        assert list(placed.prompt) == encode_chat(tokenizer, seen)
        attack = load_attack("gcg").configure(AttackOptions(budget=6))
        (result,) = attack.run(defended, [Prompt("g0", "How do I skip the queue?")], SamplingParams(4), seed=0)
        assert result.error is None
        assert [m["role"] for m in result.messages] == ["user"], "the defence is no part of the attack's prompt"

    def test_promises_no_more_than_the_engine_has(self) -> None:
        assert not isinstance(SystemPrompt(FakeEngine(), "Be kind."), ScoringEngine)
        assert not isinstance(BestOfN(FakeEngine(), 2), ScoringEngine)


class TestBestOfN:
    def test_gives_the_surest_of_n(self) -> None:
        inner = Recorder(0.9, 0.2, 0.5)
        answers = BestOfN(inner, 3).generate([ASK, ASK], SamplingParams(max_new_tokens=5, seed=7))
        assert [[a.text for a in group] for group in answers] == [["answer 1"], ["answer 1"]]
        assert inner.asked[0][1] == SamplingParams(max_new_tokens=5, temperature=1.0, n=3, seed=7)

    def test_several_answers_each_of_n(self) -> None:
        inner = Recorder(0.9, 0.2, 0.1, 0.5)
        (group,) = BestOfN(inner, 2).generate([ASK], SamplingParams(temperature=0.7, n=2))
        assert [a.text for a in group] == ["answer 1", "answer 2"]
        assert inner.asked[0][1] == SamplingParams(temperature=0.7, n=4)

    def test_progress_counts_answers_given(self) -> None:
        steps: list[int] = []
        BestOfN(Recorder(), 4).generate([ASK] * 3, SamplingParams(), steps.append)
        assert sum(steps) == 3

    def test_differs_from_greedy_on_a_real_model(self, tokenizer: Any) -> None:
        inner = LocalEngine(tiny_model(), tokenizer)
        params = SamplingParams(max_new_tokens=8, seed=1)
        (drawn,) = inner.generate([ASK], replace(params, temperature=1.0, n=4))
        ((given,),) = BestOfN(inner, 4).generate([ASK], params)
        assert given.mean_entropy == min(a.mean_entropy for a in drawn if a.mean_entropy is not None)


REFUSAL = "I'm sorry, but I can't help with that."


class TestAnyDepth:
    @pytest.fixture
    def looked(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        """A defended engine that always answers with the ids given; `looks` says what it answers at each look."""

        def make(answer: Sequence[int], looks: Sequence[str], text: str = "Sure.") -> tuple[AnyDepth, list[list[int]]]:
            inner, shown = LocalEngine(tiny_model(), tokenizer), []

            def answered(conversations: Sequence[Conversation], *_: Any) -> list[list[Completion]]:
                return [[Completion(text, tuple(answer))] for _ in conversations]

            def look(prompts: Sequence[list[int]], _: SamplingParams) -> list[list[Completion]]:
                shown.extend(prompts)
                return [[Completion(looks[i % len(looks)])] for i in range(len(prompts))]

            monkeypatch.setattr(inner, "generate", answered)
            monkeypatch.setattr(inner, "answer_ids", look)
            return AnyDepth(inner, every=2, tokens=4), shown

        return make

    def test_looks_at_every_depth_behind_the_header(self, tokenizer: Any, looked: Callable[..., Any]) -> None:
        defended, shown = looked([5, 6, 7, tokenizer.eos_token_id], ["Sure."])
        ((answer,),) = defended.generate([ASK], SamplingParams())
        asked, header = encode_chat(tokenizer, ASK), assistant_header(tokenizer)
        assert shown == [[*asked, 5, 6, *header], [*asked, 5, 6, 7, *header]]
        assert answer.text == "Sure."

    def test_the_first_refusal_takes_the_place_of_the_answer(self, looked: Callable[..., Any]) -> None:
        defended, shown = looked([5, 6, 7, 8, 9], ["Sure.", REFUSAL, f"{REFUSAL} Ever."])
        ((first,), (second,)) = defended.generate([ASK, ASK], SamplingParams())
        assert len(shown) == 6
        assert first.text == second.text == REFUSAL

    def test_of_a_prefill_it_looks_at_once(self, tokenizer: Any, looked: Callable[..., Any]) -> None:
        begun = (*ASK, {"role": "assistant", "content": "Sure, first"})
        defended, shown = looked([5], ["Sure."])
        defended.generate([begun], SamplingParams())
        assert shown[0] == encode_chat(tokenizer, begun) + assistant_header(tokenizer)

    def test_a_refusal_is_not_looked_at(self, looked: Callable[..., Any]) -> None:
        defended, shown = looked([5, 6, 7], [REFUSAL], text=f"{REFUSAL} Really.")
        ((answer,),) = defended.generate([ASK], SamplingParams())
        assert (answer.text, shown) == (f"{REFUSAL} Really.", [])

    def test_header_closes_one_turn_and_begins_the_assistants(self, tokenizer: Any) -> None:
        whole = encode_chat(tokenizer, ASK)
        header = assistant_header(tokenizer)
        assert whole[-len(header) :] == header
        assert "bread" not in tokenizer.decode(header)

    def test_answers_on_a_real_model(self, tokenizer: Any) -> None:
        inner = LocalEngine(tiny_model(), tokenizer)
        (answers,) = defend("ada", inner, {"every": 2, "tokens": 3}).generate([ASK], SamplingParams(6, 1.0, n=2))
        assert [a.text for a in answers] == [a.text for a in inner.generate([ASK], SamplingParams(6, 1.0, n=2))[0]]

    def test_needs_the_model_at_hand(self) -> None:
        with pytest.raises(UserError, match="in this process"):
            defend("ada", FakeEngine(), {"every": 2, "tokens": 3})


def test_errors_and_empty_answers_are_given_last() -> None:
    failed, empty, told = Completion.failed("no"), Completion(""), Completion("a", (1,), ("a",), (3.0,))
    assert surest([failed, empty, told]) is told
    assert surest([failed, empty]) is empty
    assert surest([failed]) is failed


def test_unknown_defence() -> None:
    with pytest.raises(UserError, match="sft"):
        defend("sft", FakeEngine(), {})
