"""The local server around an engine: what it answers, what it refuses, and to whom."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sirl.generation.base import SamplingParams
from sirl.generation.server import ServerEngine
from sirl.records import Completion, Conversation, user_turn
from sirl.referees.server import EngineServer, serving


class Engine:
    """Says the last turn again; keeps what it was asked, by call."""

    name = "echo"

    def __init__(self) -> None:
        self.calls: list[tuple[list[Conversation], SamplingParams]] = []
        self.go = threading.Event()
        self.go.set()

    def generate(self, conversations: Sequence[Conversation], params: SamplingParams, progress: Any = None) -> Any:
        self.calls.append((list(conversations), params))
        assert self.go.wait(10)
        if any("poison" in c[-1]["content"] for c in conversations):
            raise ValueError("the template takes no poison")
        return [[self._one(c[-1]["content"])] * params.n for c in conversations]

    def _one(self, text: str) -> Completion:
        return Completion.failed("too long") if "long" in text else Completion(f"you said {text}")


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def server(engine: Engine) -> Iterator[EngineServer]:
    with serving(EngineServer(engine, "tiny", max_new_tokens=7, seed=3)) as made:
        yield made


def post(server: EngineServer, body: Any, key: str | None = None, path: str = "/v1/chat/completions") -> Any:
    """(status, parsed body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Authorization": f"Bearer {server.key if key is None else key}"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def until(done: Callable[[], bool]) -> None:
    for _ in range(2000):
        if done():
            return
        time.sleep(0.005)
    raise TimeoutError


def turn(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def test_an_answer(server: EngineServer, engine: Engine) -> None:
    status, body = post(server, turn("hello", max_tokens=5, temperature=0, n=2, seed=9, stop=None, top_p=1.0))
    assert status == 200
    assert [c["message"] for c in body["choices"]] == [{"role": "assistant", "content": "you said hello"}] * 2
    assert body["choices"][0]["finish_reason"] == "stop"
    assert engine.calls == [([user_turn("hello")], SamplingParams(5, 0.0, 2, 9))]
    assert server.answered == 1


def test_our_own_client_understands_it(server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIRL_API_KEY", server.key)
    asked = (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "Sure"},
    )
    client = ServerEngine(server.url, "tiny")
    answers = client.generate([user_turn("a"), asked, user_turn("too long")], SamplingParams(4))  # type: ignore[list-item]
    assert [a.text for (a,) in answers[:2]] == ["you said a", "you said Sure"]
    assert "too long" in str(answers[2][0].error)


def test_defaults(server: EngineServer, engine: Engine) -> None:
    parts = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
    body = {"messages": [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]}
    assert post(server, body)[0] == 200
    conversation = ({"role": "system", "content": "be kind"}, {"role": "user", "content": "in parts"})
    assert engine.calls == [([conversation], SamplingParams(7, 1.0, 1, 3))]


def test_what_comes_again_without_a_seed_is_drawn_anew(server: EngineServer, engine: Engine) -> None:
    for text in ("a", "a", "b", "a"):
        post(server, turn(text))
    assert [params.seed for _, params in engine.calls] == [3, 4, 3, 5]


def test_requests_under_way_are_one_batch(server: EngineServer, engine: Engine) -> None:
    engine.go.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(post, server, turn("first", temperature=0))
        until(lambda: bool(engine.calls))
        others = [pool.submit(post, server, turn(f"t{i}", temperature=0, max_tokens=5 + i % 2)) for i in range(8)]
        until(lambda: server._waiting.qsize() == 8)
        engine.go.set()
        texts = [done.result()[1]["choices"][0]["message"]["content"] for done in [first, *others]]
    assert texts == ["you said first", *(f"you said t{i}" for i in range(8))]
    assert sorted(len(conversations) for conversations, _ in engine.calls) == [1, 4, 4]


def test_one_bad_conversation_does_not_fail_its_neighbours(server: EngineServer, engine: Engine) -> None:
    engine.go.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, server, turn("first"))
        until(lambda: bool(engine.calls))
        others = [pool.submit(post, server, turn(text)) for text in ("good", "poison", "too long")]
        until(lambda: server._waiting.qsize() == 3)
        engine.go.set()
        found = [done.result() for done in [first, *others]]
    assert [status for status, _ in found] == [200, 200, 400, 400]
    assert "no poison" in found[2][1]["error"]["message"]
    assert found[3][1]["error"]["message"] == "too long"
    assert server.answered == 3  # an answer that failed is one, too


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Expecting"),
        (b"\xff", "codec"),
        ([], "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text"),
        (turn("x", stop=["#"]), "`stop` is not supported"),
        (turn("x", stream=True), "`stream` is not supported"),
        (turn("x", tools=[{}]), "`tools` is not supported"),
        (turn("x", top_p=0.5), "`top_p` is not supported"),
        (turn("x", max_tokens=-1), "invalid"),
        (turn("x", temperature="warm"), "warm"),
    ],
)
def test_what_is_not_understood_is_refused(server: EngineServer, engine: Engine, body: Any, says: str) -> None:
    status, answer = post(server, body)
    assert status == 400
    assert says in answer["error"]["message"]
    assert engine.calls == []


def test_only_who_has_the_key(server: EngineServer, engine: Engine) -> None:
    for key in ("", "wrong", server.key[:-1], "é"):
        assert post(server, turn("x"), key=key.encode("utf-8").decode("latin-1"))[0] == 401
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 401
    assert engine.calls == []
    assert server.server_address[0] == "127.0.0.1"
    with EngineServer(engine, "tiny") as other:
        assert other.key != server.key


def test_other_addresses_and_lengths(server: EngineServer) -> None:
    assert post(server, turn("x"), path="/v1/completions")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413
