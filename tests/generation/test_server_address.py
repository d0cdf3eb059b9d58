"""Finding a server: what people type for its address and its model, which key it gets, and Ctrl-C while it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from openai_server import Reply, Server
from sirl.errors import UserError
from sirl.generation import SamplingParams, load_engine
from sirl.generation.address import api_key, is_in_the_clear, key_names, shown, tidy
from sirl.records import user_turn

PAGE = Reply("<html>Welcome</html>", content_type="text/html")
NO_ADDRESS = r"--engine {}: is not an OpenAI-compatible address \(does it end in /v1\?\)"


def answers(address: str, model: str = "served") -> bool:
    (found,) = load_engine(model, engine=address).generate([user_turn("fine")], SamplingParams())
    return found[0].error is None


@pytest.mark.parametrize(
    "body",
    [
        [{"id": "m"}],
        [{"id": "served"}],
        {"data": [{"name": "m"}]},
        {"data": [{}]},
        {"data": []},
        {"data": None},
        {"models": [{"model": "served"}]},
        {"object": "list"},
        "null",
    ],
)
def test_lists_of_models_in_other_forms_are_no_reason_to_stop(server: Server, body: Any) -> None:
    server.models = Reply(body)
    assert answers(server.url)


@pytest.mark.parametrize("status", [403, 404, 405, 500, 501])
def test_not_every_server_lists_its_models(server: Server, status: int) -> None:
    server.models = Reply({"error": {"message": "no such thing"}}, status)
    assert answers(server.url)


@pytest.mark.parametrize("page", [PAGE, Reply("data: x\n\n", content_type="text/event-stream"), Reply("")])
def test_a_web_page_is_no_server(server: Server, page: Reply) -> None:
    server.models = page
    with pytest.raises(UserError, match=NO_ADDRESS.format(server.url)):
        load_engine("served", engine=server.url)


def test_an_address_where_nothing_is_found(server: Server) -> None:
    server.root = "/somewhere/else"
    for address in (server.url, server.url.removesuffix("/v1")):
        with pytest.raises(UserError, match=NO_ADDRESS.format(address)):
            load_engine("served", engine=address)


def test_v1_is_added_where_that_answers(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.root = "/v1"
    caplog.set_level("INFO", "sirl")
    bare = server.url.removesuffix("/v1")
    for address in (bare, f"{bare}/"):
        engine: Any = load_engine("served", engine=address)
        assert engine.base_url == server.url
    assert f"{server.url}, which is used" in caplog.text
    server.models = Reply({"detail": "Not Found"}, 404)
    assert answers(bare), "found by a chat where models are not listed"


@pytest.mark.parametrize("ending", ["/chat/completions", "/completions", "/models", "/", "#x"])
def test_an_endpoint_that_is_pasted_whole(server: Server, ending: str) -> None:
    server.root = "/v1"
    assert answers(server.url + ending)


@pytest.mark.parametrize(
    ("listed", "name"),
    [("served:latest", "served"), ("models/served", "served"), ("Served", "served"), ("served", "models/served")],
)
def test_the_servers_own_name_is_asked_for(server: Server, listed: str, name: str) -> None:
    server.models = Reply({"data": [{"id": "other"}, {"id": listed}]})
    engine = load_engine(name, engine=server.url)
    engine.generate([user_turn("a")], SamplingParams())
    assert server.requests[-1]["model"] == listed
    assert engine.name == name, "the user's name stays that of the run"


def test_a_model_that_is_not_served(server: Server) -> None:
    server.models = Reply({"data": [{"id": f"m{i}"} for i in range(10)]})
    with pytest.raises(UserError, match=r"does not serve it; it has m0, .*, m7 and 2 more"):
        load_engine("served", engine=server.url)
    server.models = Reply({"error": "no list"}, 404)
    server.scripts = {"Hello": (Reply({"error": {"message": "model 'served' not found"}}, 404),)}
    with pytest.raises(UserError, match=r"does not serve it; it says: model 'served' not found"):
        load_engine("served", engine=server.url)


@pytest.mark.parametrize(
    "address", ["http://", "http://:80/v1", "http://h:99999/v1", "http://h:port/v1", "http://[::1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match=r"is not an address; write http://HOST:PORT/v1"):
        load_engine("served", engine=address)


def test_addresses_are_tidied_and_shown_without_secrets() -> None:
    assert tidy(" http://h:1/v1/chat/completions/ ") == "http://h:1/v1"
    assert tidy("https://h/openai/v1?api-version=1") == "https://h/openai/v1?api-version=1"
    assert shown("http://user:word@h:1/v1") == "http://h:1/v1"


def test_keys_go_to_whom_they_are_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if "API_KEY" in name:
            monkeypatch.delenv(name)
    openai, other = "https://api.openai.com/v1", "https://openrouter.ai/api/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "of openai")
    assert api_key(openai) == ("of openai", "OPENAI_API_KEY")
    for address in (
        other,
        "http://127.0.0.1:1/v1",
        "https://api.openai.com.evil.org/v1",
        "https://evil.org/api.openai.com",
    ):
        assert api_key(address) == (None, None)
    with pytest.raises(UserError, match="OPENAI_API_KEY is sent over https only"):
        api_key("http://api.openai.com/v1")
    monkeypatch.setenv("SIRL_API_KEY", "of all")
    assert api_key(other)[0] == "of all"
    assert api_key(openai)[0] == "of openai"
    monkeypatch.setenv("SIRL_API_KEY_OPENROUTER_AI", "of one")
    assert api_key(other) == ("of one", "SIRL_API_KEY_OPENROUTER_AI")
    assert key_names("http://127.0.0.1:8000/v1") == ("SIRL_API_KEY_127_0_0_1", "SIRL_API_KEY")


@pytest.mark.parametrize("name", ["SIRL_API_KEY", "SIRL_API_KEY_127_0_0_1"])
def test_what_is_sent_is_the_key_that_was_named(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    assert answers(server.url)
    assert server.keys[-1] == "Bearer none"
    assert "org-1" not in str(server.headers)
    monkeypatch.setenv(name, " named\n")
    assert answers(server.url)
    assert server.keys[-1] == "Bearer named"
    monkeypatch.setenv(name, "\u201cnamed\u201d")
    with pytest.raises(UserError, match=f"{name}: contains characters that no key has"):
        load_engine("served", engine=server.url)


@pytest.mark.parametrize(
    ("address", "clear"),
    [
        ("http://127.0.0.1:1/v1", False),
        ("http://localhost/v1", False),
        ("http://[::1]:1/v1", False),
        ("https://host/v1", False),
        ("http://host/v1", True),
        ("http://10.0.0.1/v1", True),
    ],
)
def test_what_others_can_read(address: str, clear: bool) -> None:
    assert is_in_the_clear(address) is clear


def test_a_key_over_plain_http_is_warned_of(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sirl.generation.server.is_in_the_clear", lambda _: True)
    load_engine("served", engine=server.url)
    assert "plain http" not in caplog.text
    monkeypatch.setenv("SIRL_API_KEY", "named")
    load_engine("served", engine=server.url)
    assert "the key of SIRL_API_KEY is sent over plain http" in caplog.text
    assert "named" not in caplog.text


def test_a_server_that_goes_away_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.generation.server.FIRST_WAIT", 0.01)
    for name in ("SIRL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = load_engine("served", engine=server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot be reached any more"):
        engine.generate([user_turn("a")], SamplingParams())


HANGING = """
import sys
from sirl.generation import SamplingParams, load_engine
from sirl.records import user_turn

engine = load_engine("served", engine=sys.argv[1])
print("asking", flush=True)
try:
    engine.generate([user_turn(f"hang {i}") for i in range(40)], SamplingParams())
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(server: Server) -> None:
    child = subprocess.Popen([sys.executable, "-c", HANGING, server.url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "asking\n"
    for _ in range(1000):
        if len(server.requests) == 32:
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert child.wait(20) == 130
    assert time.monotonic() - start < 10, "2 s on a machine that does nothing else; the server hangs for 30"
    server.released.set()
    assert len(server.requests) == 32, "nothing more is asked"
