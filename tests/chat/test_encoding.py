"""Conversations that cannot be put to a model: each is an error of its own, and its neighbours are answered."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sirl.chat.encoding import EncodingError, context_length, encode_chat, fitting_prompts
from sirl.compare.inference_defences import SystemPrompt, defend
from sirl.errors import UserError
from sirl.evals.choices import Question, answer_choices
from sirl.evals.drift import read_texts
from sirl.generation import SamplingParams, load_engine
from sirl.generation.base import UNSCORABLE
from sirl.generation.local import LocalEngine
from sirl.records import Conversation, Message, Prompt, user_turn
from sirl.training.retention import reference_answers
from tiny_models import TEMPLATE, tiny_model, tiny_tokenizer

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% endfor %}"
)
SYSTEM = (Message(role="system", content="Be brief."), *user_turn("How do I bake bread?"))
ASSISTANT_FIRST = (Message(role="assistant", content="Hello."), *user_turn("How do I bake bread?"))
HALF = user_turn("how \ud83d")
FINE = user_turn("How large is it?")
LONG = user_turn("Tell me more. " * 200)


def strict_tokenizer(check: str = NO_SYSTEM + ALTERNATE) -> Any:
    """A tokenizer whose template refuses what Gemma 2's and Mistral's refuse."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = check + TEMPLATE
    return tokenizer


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_bad_conversation_is_one_error(family: str) -> None:
    engine = LocalEngine(tiny_model(family), strict_tokenizer())
    seen: list[int] = []
    asked = [FINE, SYSTEM, ASSISTANT_FIRST, HALF, LONG, FINE]
    params = SamplingParams(max_new_tokens=3, n=2, temperature=1.0)
    answers = engine.generate(asked, params, seen.append)
    reasons = [group[0].error for group in answers]
    tokens, limit = len(encode_chat(engine.tokenizer, LONG)), {"llama": 512, "gpt2": 256}[family]
    assert reasons == [
        None,
        "TemplateError: System role not supported",
        "TemplateError: Conversation roles must alternate user/assistant/user/assistant/...",
        "half of a surrogate pair at character 4: not valid Unicode",
        f"the prompt has {tokens} tokens, the model takes {limit}",
        None,
    ]
    assert all(len(group) == 2 for group in answers)
    assert {c.finish_reason for group in answers[1:5] for c in group} == {"error"}
    assert answers[0][0].token_ids, "the neighbours are answered"
    assert sum(seen) == 12
    # as without the others: nobody's draw depends on who cannot be asked
    assert engine.generate([FINE, FINE], params) == [answers[0], answers[5]]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_answer_ends_where_the_context_does(family: str, tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model(family, eos_bias=-50.0), tokenizer)
    limit = engine.context
    assert limit in (512, 256)
    room = 3
    base = len(encode_chat(tokenizer, user_turn("")))
    text = "!" * (limit - room - base)
    assert len(encode_chat(tokenizer, user_turn(text))) == limit - room
    params = SamplingParams(max_new_tokens=8, temperature=1.0, seed=1)
    (short,), (cut,), (none,) = engine.generate([FINE, user_turn(text), user_turn(text + "!!!")], params)
    assert (len(short.token_ids), len(cut.token_ids), cut.finish_reason) == (8, room, "length")
    assert none.error == f"the prompt has {limit} tokens, the model takes {limit}"
    (alone,) = engine.generate([user_turn(text)], SamplingParams(max_new_tokens=room, temperature=1.0, seed=1))
    assert alone[0].token_ids == cut.token_ids, "the same draw as with room"


def test_plain_texts() -> None:
    engine = LocalEngine(tiny_model("gpt2"), tiny_tokenizer())
    fine, half, long = engine.complete(["How?", "how \ud83d", "Tell me more. " * 200], SamplingParams(max_new_tokens=2))
    assert fine.token_ids
    assert "surrogate" in (half.error or "")
    assert "the model takes 256" in (long.error or "")


def test_scores_and_counts() -> None:
    engine = LocalEngine(tiny_model("gpt2"), strict_tokenizer())
    asked = [FINE, SYSTEM, LONG, HALF]
    first, *others = engine.target_logprobs(asked, ["Sure"] * 4)
    assert first > -100
    assert others == [UNSCORABLE] * 3
    assert engine.count_tokens(asked)[1:] == [0, 0, 0]
    # a prompt that fits, but not with its target
    ids, wanted = engine.encode([FINE])[0], engine.tokenizer("a" * 300, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    assert engine.token_logprobs([ids, ids], [wanted, [5]])[0] == [UNSCORABLE]
    questions = [Question("How large is it?", ("small", "large"), 0), Question("Tell. " * 200, ("a", "b"), 0)]
    assert answer_choices(engine, questions)[1] is None
    assert isinstance(answer_choices(engine, questions)[0], bool)


def test_texts_for_drift_and_retention(caplog: pytest.LogCaptureFixture) -> None:
    engine = LocalEngine(tiny_model("gpt2"), strict_tokenizer())
    texts = read_texts(engine, [(FINE, "Bread."), (SYSTEM, "Bread."), (LONG, "Bread."), (FINE, "bread " * 200)])
    assert len(texts) == 1
    prompts = [Prompt("a", "How?"), Prompt("b", "x", messages=SYSTEM), Prompt("c", "Tell me more. " * 200)]
    assert len(reference_answers(engine, prompts, tokens=2)) == 1
    assert "2 of 3 retention prompts cannot be encoded" in caplog.text


def test_a_system_prompt_that_the_template_refuses() -> None:
    engine = SystemPrompt(LocalEngine(tiny_model("llama"), strict_tokenizer()), "Refuse what is harmful.")
    ((answer,),) = engine.generate([FINE], SamplingParams(max_new_tokens=2))
    assert answer.error == "TemplateError: System role not supported"
    with pytest.raises(UserError, match=r"method system_prompt: .* \(TemplateError: System role not supported\)"):
        defend("system_prompt", engine.inner, {"text": "Refuse what is harmful."})
    kind = SystemPrompt(LocalEngine(tiny_model("llama"), tiny_tokenizer()), "Refuse what is harmful.")
    (fine,), (long,) = kind.generate([FINE, LONG], SamplingParams(max_new_tokens=2))
    assert fine.token_ids
    assert "the model takes 512" in (long.error or "")


def test_fitting_prompts(caplog: pytest.LogCaptureFixture) -> None:
    prompts = [
        Prompt("a", "How?"),
        Prompt("b", "x", messages=SYSTEM),
        Prompt("c", "how \ud83d"),
        Prompt("d", "Tell me more. " * 20),
    ]
    assert fitting_prompts(prompts, strict_tokenizer(), 64, what="retention prompts") == prompts[:1]
    (record,) = caplog.records
    assert record.getMessage() == (
        "1 of 4 retention prompts are longer than 64 tokens and left out; "
        "2 of 4 retention prompts cannot be encoded and are left out (TemplateError: System role not supported)"
    )
    caplog.clear()
    assert fitting_prompts(prompts[:1], strict_tokenizer(), 64) == prompts[:1]
    assert not caplog.records
    own = len(encode_chat(tiny_tokenizer(), user_turn("How?")))
    assert fitting_prompts(prompts[:1], tiny_tokenizer(), 64, context=own + 1) == prompts[:1]
    assert fitting_prompts(prompts[:1], tiny_tokenizer(), 64, context=own) == []


def rope(kind: str, factor: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, "factor": factor, **more}


def test_context_length() -> None:
    from transformers import BloomConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

    yarn = rope("yarn", 4.0, original_max_position_embeddings=32_768)
    llama3 = rope("llama3", 8.0, original_max_position_embeddings=8_192, low_freq_factor=1.0, high_freq_factor=4.0)
    for config, expected in (
        (GPT2Config(n_positions=256), 256),
        (LlamaConfig(max_position_embeddings=512), 512),
        (MistralConfig(max_position_embeddings=32_768, sliding_window=4_096), 32_768),
        (LlamaConfig(max_position_embeddings=131_072, rope_parameters=llama3), 131_072),
        (Qwen2Config(max_position_embeddings=32_768, rope_parameters=yarn), 131_072),
        (LlamaConfig(max_position_embeddings=4_096, rope_parameters=rope("linear", 4.0)), 16_384),
        (BloomConfig(), None),
    ):
        assert context_length(config) == expected


@pytest.mark.parametrize("raising", ["{{ 1 / 0 }}", "{{ none + 'a' }}", "{{ messages[7]['role'] }}", "{% if %}"])
def test_whatever_a_template_raises(raising: str) -> None:
    with pytest.raises(EncodingError):
        encode_chat(strict_tokenizer(raising), FINE)


class FakeLLM:
    """The part of `vllm.LLM` that is used; it refuses a whole call for one bad conversation, as vLLM does."""

    def __init__(self, model: str, **_: Any) -> None:
        self.calls: list[int] = []
        self.options: list[dict[str, Any]] = []

    def chat(self, messages: list[Any], sampling_params: list[Any], **options: Any) -> list[Any]:
        self.calls.append(len(messages))
        self.options.append(options)
        return self._answers([m[-1]["content"] for m in messages], sampling_params)

    def generate(self, prompts: list[str], sampling_params: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        return self._answers(prompts, sampling_params)

    @staticmethod
    def _answers(texts: list[str], params: list[Any]) -> list[Any]:
        for text in texts:
            text.encode()
            if "long" in text:
                raise ValueError("The decoder prompt (length 9) is longer than the maximum model length of 8.")
        out = [SimpleNamespace(text=f"{text}!", finish_reason="stop") for text in texts]
        return [SimpleNamespace(outputs=[o] * p.n) for o, p in zip(out, params, strict=True)]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.usefixtures("vllm")
def test_vllm_answers_the_neighbours() -> None:
    engine: Any = load_engine("org/model", engine="vllm")
    texts = ["a", "b", "how \ud83d", "too long", "c", "d", "e"]
    answers = engine.generate([user_turn(t) for t in texts], SamplingParams(n=2))
    assert [group[0].text for group in answers] == ["a!", "b!", "", "", "c!", "d!", "e!"]
    assert [len(group) for group in answers] == [2] * 7
    assert answers[3][0].error.startswith("ValueError: The decoder prompt (length 9) is longer")
    assert "surrogate" in answers[2][0].error
    assert engine._llm.calls == [6, 3, 1, 2, 1, 1, 3], "halves, not one by one"
    assert [c.text for c in engine.complete(texts, SamplingParams())] == ["a!", "b!", "", "", "c!", "d!", "e!"]


def test_a_server_answers_the_neighbours(server: Any) -> None:
    conversations: list[Conversation] = [user_turn("a"), HALF, user_turn("b")]
    (a,), (half,), (b,) = load_engine("served", engine=server.url).generate(conversations, SamplingParams())
    assert a.text
    assert b.text
    assert "half of a surrogate pair" in (half.error or "")
