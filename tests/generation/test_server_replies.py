"""What servers send instead of what the protocol says: each form is one error completion or the answer, never an
exception for the batch."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from openai_server import Reply, Server, choice
from sirl.errors import UserError
from sirl.generation import SamplingParams, load_engine
from sirl.generation.base import served_completion
from sirl.generation.replies import Refusal, match_model, model_ids, read_answers, read_error, refused_parameter
from sirl.records import Completion, user_turn

SAID = {"role": "assistant", "content": "Hello there."}
PARTS = [{"type": "text", "text": "Hello "}, {"type": "image"}, {"type": "text", "text": "there."}, "!"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.generation.server.FIRST_WAIT", 0.01)


def ask(server: Server, *texts: str, params: SamplingParams | None = None) -> list[Completion]:
    engine = load_engine("served", engine=server.url)
    return [answer for (answer,) in engine.generate([user_turn(t) for t in texts], params or SamplingParams())]


INSTEAD = {
    "error in 200": (Reply({"id": None, "choices": None, "error": {"message": "Provider down"}}), "Provider down"),
    "error alone": (Reply({"error": {"message": "Provider down", "code": 404}}), "Provider down"),
    "error as text": (Reply({"error": "Provider down"}), "Provider down"),
    "choices null": (Reply({"id": "1", "choices": None}), "no choices"),
    "choices missing": (Reply({"id": "1"}), "no choices"),
    "choices no list": (Reply({"choices": "none"}), "no choices"),
    "choice null": (Reply({"choices": [None]}), "choice that is not an object"),
    "no message": (Reply({"choices": [{"index": 0, "finish_reason": "stop"}]}), "choice without a message"),
    "message null": (choice(None), "choice without a message"),
    "error in a choice": (choice(SAID, "error", error={"message": "GPU lost"}), "GPU lost"),
    "content null": (choice({"content": None}, None), "message without content"),
    "content of another kind": (choice({"content": 5}, "stop"), "content that is not text"),
    "content without text": (choice({"content": [{"type": "image", "image": "x"}]}, "stop"), "not text"),
    "thoughts": (choice({"content": None, "reasoning_content": "Hm."}, "length"), r"thoughts .* give --max_new_tokens"),
    "thoughts, over": (choice({"content": "", "reasoning": "Hm."}, "stop"), "thoughts .* and no answer$"),
    "thoughts as a part": (choice({"content": [{"type": "thinking", "thinking": []}]}, "length"), "thoughts .* give"),
    "tool calls": (choice({"content": None, "tool_calls": [{"id": "1"}]}, "stop"), "tool calls and no text"),
    "cut off": (Reply('{"choices": [{"message": {"content": "He'), "broken or cut off"),
    "stream": (Reply('data: {"choices": []}\n\ndata: [DONE]\n\n', content_type="text/event-stream"), "event stream"),
    "unannounced stream": (Reply('data: {"choices": []}\n\ndata: [DONE]\n\n'), "event stream"),
    "page": (Reply("<!doctype html><p>Welcome", content_type="text/html"), "HTML page"),
    "unannounced page": (Reply("\n<html></html>", content_type="text/plain"), "HTML page"),
    "plain text": (Reply("Come\x1b[2J again", content_type="text/plain"), r"text/plain .*'Come \[2J again'"),
    "nothing": (Reply("", content_type="text/plain"), "empty body"),
    "a list": (Reply([1]), "a JSON list"),
    "a number": (Reply("7"), "a JSON int"),
    "page of a proxy": (
        Reply("<html>Bad gateway</html>", 502, "text/html"),
        "InternalServerError: .* HTML .*502",
    ),
    "details": (Reply({"detail": [{"loc": ["body", "messages"], "msg": "too many"}]}, 422), "'messages': too many"),
}


def test_what_is_no_answer_is_an_error_of_its_own(server: Server) -> None:
    server.scripts = {f"<{name}>": (reply,) for name, (reply, _) in INSTEAD.items()}
    found = ask(server, *server.scripts, "fine")
    for answer, (name, (_, reason)) in zip(found, INSTEAD.items(), strict=False):
        assert (answer.finish_reason, answer.text) == ("error", ""), name
        assert re.search(reason, str(answer.error)), (name, answer.error)
        assert str(answer.error).isprintable(), name
    assert (found[-1].error, found[-1].finish_reason) == (None, "stop")


def test_an_answer_in_another_form_is_the_answer(server: Server) -> None:
    server.scripts = {
        "<parts>": (choice({"content": PARTS}),),
        "<part>": (choice({"content": PARTS[0]}),),
        "<refusal>": (choice({"content": None, "refusal": "No."}),),
        "<thoughts>": (choice({"content": "Hello.", "reasoning_content": "Hm."}),),
        "<text>": (Reply({"choices": [{"text": "Hello.", "finish_reason": "stop"}]}),),
        "<mark>": (Reply("\ufeff" + json.dumps({"choices": [{"message": SAID}]})),),
        "<no type>": (Reply({"choices": [{"message": SAID}]}, content_type=""),),
    }
    found = ask(server, *server.scripts)
    said = ["Hello there.!", "Hello ", "No.", "Hello.", "Hello.", "Hello there.", "Hello there."]
    assert [(a.text, a.error) for a in found] == [(text, None) for text in said]


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        *(
            (word, "stop")
            for word in ("stop", "eos_token", "stop_sequence", "end_turn", "STOP", "FinishReason.STOP", None)
        ),
        *((word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length")),
        *((word, "error") for word in ("content_filter", "SAFETY", "error", "abort", "tool_calls")),
        ("something_new", "stop"),
    ],
)
def test_words_for_the_end(server: Server, reason: str | None, ended: str) -> None:
    server.scripts = {"there": (choice(SAID, reason),)}
    (answer,) = ask(server, "there")
    assert (answer.finish_reason, answer.text) == (ended, "" if ended == "error" else "Hello there.")
    assert ended != "error" or answer.error == f"the server ended the answer with {reason}"


def test_an_unknown_end_without_text_is_an_error(server: Server) -> None:
    nothing = {"content": ""}
    server.scripts = {"new": (choice(nothing, "something_new"),), "no": (Reply({"choices": [{"message": nothing}]}),)}
    new, absent = ask(server, "new", "no")
    assert (new.error, absent.error) == (
        "the server ended the answer with something_new",
        "the server ended the answer with no text and no reason",
    )
    assert served_completion("", "stop", "x").error is None, "a model that says nothing has answered"


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}], [""]])
def test_a_model_that_says_nothing_has_answered(content: Any) -> None:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]})
    (answer,) = read_answers(body)
    assert (answer.error, answer.text, answer.finish_reason) == (None, "", "stop")


def test_answers_are_in_the_order_of_their_index() -> None:
    choices = [{"index": i, "message": {"content": f"answer {i}"}, "finish_reason": "stop"} for i in (2, 0, 1)]
    answers = read_answers(json.dumps({"choices": choices}))
    assert [answer.text for answer in answers] == ["answer 0", "answer 1", "answer 2"]


@pytest.mark.parametrize("inside", [True, False])
def test_too_many_requests_are_asked_again(server: Server, inside: bool) -> None:
    error = {"message": "Too Many Requests", "code": 429}
    busy = Reply({"choices": None, "error": error}, 200 if inside else 429, headers={"Retry-After": "0"})
    server.scripts = {"<once>": (busy, choice(SAID)), "<always>": (busy,)}
    once, always = ask(server, "<once>", "<always>")
    assert (once.text, once.error) == ("Hello there.", None)
    assert str(always.error) == "RateLimitError: Too Many Requests (HTTP 429)"
    assert (server.asked["<once>"], server.asked["<always>"]) == (2, 6)


def test_what_asking_again_cannot_mend_is_asked_once(server: Server) -> None:
    broke = {"message": "no money", "type": "insufficient_quota", "code": "insufficient_quota"}
    server.scripts = {"<quota>": (Reply({"error": broke}, 429),), "<bad>": (Reply({"error": "bad"}, 400),)}
    ask(server, "<quota>", "<bad>")
    assert (server.asked["<quota>"], server.asked["<bad>"]) == (1, 1)


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "86400"}, 60.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, 60.0),
    ],
)
def test_a_server_that_asks_for_time_gets_it_within_bounds(
    server: Server, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], waited: float
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("threading.Event.wait", lambda _, seconds=None: bool(waits.append(seconds)))
    server.scripts = {"busy": (Reply({"error": "busy"}, 429, headers=headers), choice(SAID))}
    assert ask(server, "busy")[0].error is None
    assert waited in waits


def test_a_reply_that_breaks_off_is_asked_for_again(server: Server) -> None:
    server.scripts = {
        "<once>": (Reply(choice(SAID).body, cut=True), choice(SAID)),
        "<always>": (Reply("x" * 99, cut=True),),
    }
    once, always = ask(server, "<once>", "<always>")
    assert once.text == "Hello there."
    assert "APIConnectionError" in str(always.error)


def test_half_a_surrogate_pair_is_one_error(server: Server) -> None:
    bad, fine = ask(server, "how \ud83d", "fine")
    assert "surrogate" in str(bad.error)
    assert fine.error is None
    server.scripts = {"half": (Reply('{"choices": [{"message": {"content": "a\\ud83d"}}]}'),)}
    assert ask(server, "half")[0].text == "a\ud83d"


def test_parameters_that_are_not_taken(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.refuses = {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        "top_p": "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        "seed": "body.seed: Extra inputs are not permitted",
        "n": "Unknown name 'n': Cannot find field.",
    }
    engine = load_engine("served", engine=server.url)
    params = SamplingParams(max_new_tokens=9, temperature=0.5, n=3)
    (answers,) = engine.generate([user_turn("a")], params)
    assert [a.error for a in answers] == [None] * 3
    body = server.requests[-1]
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "served",
        "max_completion_tokens": 9,
        "temperature": 0.5,
    }
    asked = len(server.requests)
    engine.generate([user_turn("b")], params)
    assert len(server.requests) == asked + 3, "what is not taken is found out once"
    assert "takes no seed" in caplog.text


def test_another_temperature_is_never_taken_instead(server: Server) -> None:
    server.refuses = {"temperature": "'temperature' does not support 0.0 with this model. Only the default (1) is."}
    (answer,) = ask(server, "a")
    assert "does not take temperature 0; --decoding sample asks with 1" in str(answer.error)
    assert all("temperature" in body for body in server.requests)
    assert ask(server, "a", params=SamplingParams(temperature=1.0))[0].error is None, "1 is what is meant by none"
    assert "temperature" not in server.requests[-1]


def test_a_prefill_that_is_not_taken_is_an_error(server: Server) -> None:
    server.refuses = {"continue_final_message": "Unrecognized request argument supplied: continue_final_message"}
    engine = load_engine("served", engine=server.url)
    begun: Any = (*user_turn("hello"), {"role": "assistant", "content": "Sure"})
    (begun_answer,), (plain,) = engine.generate([begun, user_turn("hello")], SamplingParams())
    assert "does not continue a prefilled answer" in str(begun_answer.error)
    assert plain.error is None


@pytest.mark.parametrize("said", ["Sure, here is how.", " is how."])
def test_a_prefill_that_is_said_again_is_no_part_of_the_answer(server: Server, said: str) -> None:
    server.scripts = {"Sure": (choice({"content": said}),), "fine": (choice({"content": "Sure, here"}),)}
    engine = load_engine("served", engine=server.url)
    begun: Any = (*user_turn("hello"), {"role": "assistant", "content": "Sure, here"})
    (begun_answer,), (plain,) = engine.generate([begun, user_turn("fine")], SamplingParams())
    assert (begun_answer.text, plain.text) == (" is how.", "Sure, here")


def test_fewer_answers_than_asked_for_are_asked_for_one_by_one(server: Server) -> None:
    (answers,) = load_engine("served", engine=server.url).generate(
        [user_turn("stingy 2")], SamplingParams(n=3, temperature=1.0)
    )
    assert [a.error for a in answers[:2]] == [None, None]
    assert answers[2].error == "the server gave fewer answers than asked for"
    assert len({body["seed"] for body in server.requests}) == 2


def test_what_a_prompt_says_is_no_parameter(server: Server) -> None:
    server.scripts = {"sow": (Reply({"error": {"message": "invalid: where do I sow 'seed' corn"}}, 400),)}
    engine = load_engine("served", engine=server.url)
    engine.generate([user_turn("sow")], SamplingParams())
    engine.generate([user_turn("fine")], SamplingParams())
    assert "seed" in server.requests[-1], "only what works without is left out"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Unsupported value: 'temperature' does not support 0.0 with this model.", "temperature"),
        ("seed: Extra inputs are not permitted", "seed"),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'top_p')}]", "top_p"),
        ("Only one completion choice is allowed: 'n' must be 1", "n"),
        ("This model's maximum context length is 8192 tokens", None),
        ("'max_tokens' is too large: 100", None),
        ("max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens.", None),
        ("Invalid value for 'n': n must be at least 1", None),
        ("Internal error", None),
    ],
)
def test_which_parameter_is_refused(said: str, name: str | None) -> None:
    sent = ["model", "messages", "max_tokens", "temperature", "top_p", "n", "seed"]
    assert refused_parameter(Refusal(said), sent) == name
    assert refused_parameter(Refusal("no", parameter="seed"), sent) == "seed"


def test_errors_and_models_are_read_in_every_form() -> None:
    assert read_error([{"error": {"code": 400, "message": "Bad"}}]) == Refusal("Bad", 400)
    assert read_error({"error": {"message": {"detail": "Deep"}}}).reason == "Deep"
    assert "without a message" in read_error({"object": "error"}).reason
    assert len(read_error({"message": "x" * 999}).reason) == 300
    assert model_ids([{"id": "a"}, "b", {"name": "c"}, {}, None]) == ["a", "b", "c"]
    assert model_ids({"models": [{"model": "a"}]}) == ["a"]
    assert model_ids({"status": "ok"}) is model_ids("x") is None
    served = ["llama3:latest", "models/gemini", "Qwen/Big", "openai/*"]
    for name, match in {
        "llama3": "llama3:latest",
        "gemini": "models/gemini",
        "qwen/big": "Qwen/Big",
        "openai/gpt": "openai/gpt",
        "llama": None,
    }.items():
        assert match_model(name, served) == match
    assert match_model("a", ["A", "a:latest", "a"]) == "a"


def test_a_key_that_is_refused_inside_a_200_stops(server: Server) -> None:
    server.scripts = {"x": (Reply({"error": {"message": "bad key", "code": 401}}),)}
    with pytest.raises(UserError, match="refused the key"):
        ask(server, "x")
