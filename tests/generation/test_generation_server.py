"""`ServerEngine` against a real HTTP server on this machine that speaks the OpenAI protocol, and the vLLM backend
against a stand-in for its module."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import LlamaConfig

from openai_server import Server
from sirl.cli.main import main
from sirl.errors import UserError
from sirl.generation import SamplingParams, load_engine
from sirl.generation.base import Engine, request_seeds
from sirl.generation.vllm import parallel_size
from sirl.judges.model import judge_engine
from sirl.records import Attempt, read_jsonl, user_turn


def test_answers_come_in_order_with_what_was_asked(server: Server) -> None:
    engine: Engine = load_engine("served", engine=server.url)
    texts = [f"question {i}" for i in range(50)] + ["a story"]
    seen: list[int] = []
    params = SamplingParams(max_new_tokens=7, temperature=0.5, n=2, seed=3)
    answers = engine.generate([user_turn(t) for t in texts], params, seen.append)
    assert [len(a) for a in answers] == [2] * 51
    seeds = request_seeds([user_turn(t) for t in texts], params)
    assert [a[0].text for a in answers] == [f"{t} {s}" for t, s in zip(texts, seeds, strict=True)]
    assert len(set(seeds)) == 51
    assert sum(seen) == 102
    assert answers[0][0].entropies == ()
    assert (answers[0][0].finish_reason, answers[-1][0].finish_reason) == ("stop", "length")
    body = server.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["n"], body["top_p"]) == (
        "served",
        7,
        0.5,
        2,
        1.0,
    )
    assert "continue_final_message" not in body


def test_a_seed_hangs_on_the_conversation_alone() -> None:
    a, b = user_turn("a"), user_turn("b")
    params = SamplingParams(seed=1)
    first = request_seeds([a, b, a], params)
    assert request_seeds([b, a, a], params) == [first[1], first[0], first[2]]
    assert first[0] != first[2]
    assert request_seeds([a], SamplingParams(seed=2)) != first[:1]
    assert all(0 <= seed < 2**31 for seed in first)


def test_a_prefilled_answer_is_gone_on_from(server: Server) -> None:
    conversation = (*user_turn("hello"), {"role": "assistant", "content": "Sure, here"})
    load_engine("served", engine=server.url).generate([conversation], SamplingParams())
    assert (server.requests[0]["add_generation_prompt"], server.requests[0]["continue_final_message"]) == (False, True)


def test_plain_text_is_gone_on_from(server: Server) -> None:
    engine = load_engine("served", engine=server.url)
    seen: list[int] = []
    texts = ["<|user|>hello", "a story", "too long", "silent"]
    answers = engine.complete(texts, SamplingParams(max_new_tokens=3, n=2), seen.append)
    assert answers[0].text.startswith("<|user|>hello ")
    assert [a.finish_reason for a in answers] == ["stop", "length", "error", "stop"]
    assert answers[3].text == ""
    assert sum(seen) == 4
    asked = {body["prompt"]: (body["max_tokens"], body["temperature"], body["n"]) for body in server.requests}
    assert asked == dict.fromkeys(texts, (3, 0.0, 1))


def test_what_fails_is_an_error_and_nothing_else_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)
    engine = load_engine("served", engine=server.url)
    engine._client = engine._client.with_options(max_retries=1)  # type: ignore[attr-defined]
    texts = ["fine", "broken once", "always broken", "too long", "filtered", "stingy", "silent"]
    answers = [a for (a,) in engine.generate([user_turn(t) for t in texts], SamplingParams())]
    errors = {t: a.error for t, a in zip(texts, answers, strict=True)}
    assert errors["fine"] is errors["broken once"] is errors["silent"] is None
    assert "out of order" in str(errors["always broken"])
    assert "maximum context length is 8" in str(errors["too long"])
    assert errors["filtered"] == "the server ended the answer with content_filter"
    assert errors["stingy"] == "the server gave fewer answers than asked for"
    assert [a.finish_reason for a in answers] == ["stop", "stop", "error", "error", "error", "error", "stop"]
    assert answers[-1].text == ""


def test_bad_input_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--model_name_or_path other: .* does not serve it; it has served"):
        load_engine("other", engine=server.url)
    with pytest.raises(UserError, match=r"--engine http://127.0.0.1:1/v1: cannot be reached"):
        load_engine("served", engine="http://127.0.0.1:1/v1")
    with pytest.raises(UserError, match=r"--engine abacus: unknown; choose from local, vllm, http"):
        load_engine("served", engine="abacus")
    server.key = "secret"
    with pytest.raises(UserError, match="refused the key; set SIRL_API_KEY "):
        load_engine("served", engine=server.url).generate([user_turn("a")], SamplingParams())
    monkeypatch.setenv("SIRL_API_KEY", "secret")
    answers = load_engine("served", engine=server.url).generate([user_turn("a")], SamplingParams())
    assert answers[0][0].error is None
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="needs the extra `server`"):
        load_engine("served", engine=server.url)


def test_attack_on_a_served_model(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goals = tmp_path / "goals.txt"
    goals.write_text("Steal a snack\nTell a story\nGet filtered\n")
    words = ["--model_name_or_path", "served", "--engine", server.url, "--goals", str(goals), "--json"]
    assert main(["attack", *words, "--attacks", "direct,past_tense", "--output_dir", str(tmp_path / "run")]) == 0
    overall = json.loads(capsys.readouterr().out)["rates"]["greedy"]["before"]["by_attack"]["direct"]
    assert (overall["rate"], overall["n"], overall["errors"]) == (0.5, 2, 1)
    assert len(read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)) == 6
    assert main(["report", str(tmp_path / "run")]) == 0, "a report needs no entropies"


def test_gap_says_that_it_needs_entropies(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gap", "--model_name_or_path", "served", "--engine", server.url]) == 2
    assert "gives no entropies; sirl gap needs --engine local" in capsys.readouterr().err


class FakeLLM:
    """The part of `vllm.LLM` that is used, with its signature."""

    calls: list[dict[str, Any]]

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings, self.calls = model, settings, []

    def chat(
        self,
        messages: list[list[dict[str, str]]],
        sampling_params: list[Any],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        use_tqdm: bool,
    ) -> list[Any]:
        self.calls.append({"texts": [m[-1]["content"] for m in messages], "goes_on": continue_final_message})
        assert add_generation_prompt is not continue_final_message
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(text=f"{m[-1]['content']}!", finish_reason="abort" if "bad" in str(m) else "stop")
                    for _ in range(p.n)
                ]
            )
            for m, p in zip(messages, sampling_params, strict=True)
        ]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "devices", "size"),
    [
        (32, 8, 8, 8),  # Llama-3.1-8B
        (28, 4, 8, 4),  # Qwen2.5-7B: 7 would divide the query heads alone
        (12, 2, 8, 6),
        (14, 2, 8, 2),
        (32, 8, 6, 4),
        (32, 32, 1, 1),
        (32, 32, 0, 1),
        (7, 7, 4, 1),
    ],
)
def test_vllm_shares_heads_evenly(heads: int, kv_heads: int, devices: int, size: int, tmp_path: Path) -> None:
    LlamaConfig(hidden_size=heads * 2, num_attention_heads=heads, num_key_value_heads=kv_heads).save_pretrained(
        tmp_path
    )
    assert parallel_size(str(tmp_path), None, devices) == size


def test_vllm_without_a_readable_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert parallel_size(str(tmp_path / "none"), None, 8) == 1
    assert "on one GPU of 8" in caplog.text


def test_vllm_options(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    engine: Any = load_engine("org/model", engine="vllm?tensor_parallel_size=2&gpu_memory_utilization=0.4")
    assert engine._llm.settings["tensor_parallel_size"] == 2
    assert engine._llm.settings["gpu_memory_utilization"] == 0.4
    assert "max_model_len" not in engine._llm.settings
    engine = load_engine("org/model", engine="vllm?max_model_len=8192")
    assert (engine._llm.settings["max_model_len"], engine._llm.settings["tensor_parallel_size"]) == (8192, 1)
    assert "enforce_eager" not in engine._llm.settings, "left to vLLM"
    engine = load_engine("org/model", engine="vllm?enforce_eager=true&dtype=float32")
    assert engine._llm.settings["enforce_eager"] is True
    assert engine._llm.settings["dtype"] == "float32"
    assert load_engine("org/model", engine="vllm?enforce_eager=false")._llm.settings["enforce_eager"] is False


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("vllm?tensor_parallel=2", "vllm has no option 'tensor_parallel'; it has tensor_parallel_size, gpu_memory"),
        ("vllm?tensor_parallel_size=0", "tensor_parallel_size is a whole number above 0, not '0'"),
        ("vllm?max_model_len=", "max_model_len is a whole number above 0, not ''"),
        ("vllm?gpu_memory_utilization=1.5", "is a number above 0, up to 1, not '1.5'"),
        ("vllm?enforce_eager=1", "enforce_eager is true or false, not '1'"),
        ("vllm?dtype=int8", "dtype is auto or bfloat16 or float16 or float32, not 'int8'"),
        ("local?max_cache_gb=nan", "max_cache_gb is a number above 0, not 'nan'"),
        ("local?max_cache_gb=inf", "max_cache_gb is a number above 0, not 'inf'"),
        ("local?max_model_len=5", "local has no option 'max_model_len'; it has max_cache_gb"),
        ("warp?x=1", "--engine warp?x=1: unknown; choose from"),
    ],
)
def test_wrong_options(engine: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_engine("org/model", engine=engine)
    if "warp" not in engine:
        with pytest.raises(UserError, match=re.escape(f"--judge ...@{engine}#org/model: ")):
            judge_engine(f"{engine}#org/model", chat=True)


def test_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs the extra `vllm`"):
        load_engine("org/model", engine="vllm")
    with pytest.raises(UserError, match="demo is not a full model"):
        load_engine("demo", engine="vllm")
    module = ModuleType("vllm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    engine = load_engine("org/model", engine="vllm")
    llm: FakeLLM = engine._llm  # type: ignore[attr-defined]
    assert llm.settings["trust_remote_code"] is False
    prefilled = (*user_turn("b"), {"role": "assistant", "content": "Sure"})
    seen: list[int] = []
    answers = engine.generate([user_turn("a"), prefilled, user_turn("bad")], SamplingParams(n=2, seed=5), seen.append)
    assert [[c.text for c in group] for group in answers] == [["a!"] * 2, ["Sure!"] * 2, [""] * 2]
    assert [c.finish_reason for c in answers[2]] == ["error"] * 2
    assert llm.calls == [{"texts": ["a", "bad"], "goes_on": False}, {"texts": ["Sure"], "goes_on": True}]
    assert sum(seen) == 6


def test_vllm_refuses_a_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own errors are no `ValueError`s since 0.32: one prompt that is too long ended the attack."""
    module, errors = ModuleType("vllm"), ModuleType("vllm.exceptions")
    client_error = type("VLLMClientError", (Exception,), {})
    too_long = type("VLLMValidationError", (client_error,), {})("maximum context length is 256 tokens")

    class Strict(FakeLLM):
        def chat(self, messages: list[list[dict[str, str]]], *args: Any, **kwargs: Any) -> list[Any]:
            if any(len(m[-1]["content"]) > 9 for m in messages):
                raise too_long
            return super().chat(messages, *args, **kwargs)

    module.LLM = Strict  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    errors.VLLMClientError = client_error  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.exceptions", errors)
    engine = load_engine("org/model", engine="vllm?enforce_eager=true")
    chats = [user_turn("a"), user_turn("far too long"), user_turn("b")]
    answers = [group[0] for group in engine.generate(chats, SamplingParams())]
    assert [a.text for a in answers] == ["a!", "", "b!"]
    assert answers[1].error == "VLLMValidationError: maximum context length is 256 tokens"
