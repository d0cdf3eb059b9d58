"""An engine behind the OpenAI chat protocol, on this machine only, for other people's tools to put questions to.

It speaks as much of the protocol as those tools need: `POST /v1/chat/completions` without streaming, and
`GET /v1/models`. A request for more (tools, stop words, log-probabilities, ...) is refused rather than half answered.
"""

from __future__ import annotations

import hmac
import json
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sirl.generation.base import Engine, SamplingParams
from sirl.generation.unanswered import is_failed
from sirl.records import Completion, Conversation, Message

GATHER = 0.02
"""Seconds that the first request of a batch waits for others."""
LARGEST = 16 << 20
"""Bytes that a request may have."""

# what these ask for is not done here; the values are those that ask for nothing
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stop": ([], ""),
    "tools": ([],),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
}


class BadRequestError(ValueError):
    """A request that is not understood, or asks for what there is not."""


@dataclass
class _Asked:
    conversation: Conversation
    params: SamplingParams
    answer: Future[list[Completion]] = field(default_factory=Future)


class EngineServer(ThreadingHTTPServer):
    """Answers chat completions by an engine, which sees all requests under way as one batch.

    Bound to the loopback address at a free port, and open only to who has the `key`, which is drawn anew each time.
    Where a request has no seed, a conversation that comes again is drawn with another one. `answered` counts requests
    that got through to the engine, `spoken` those that it had no error for; `failures` are the errors.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, engine: Engine, model: str, *, max_new_tokens: int = 64, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.key = model, secrets.token_urlsafe(24)
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.answered = self.spoken = 0
        self.failures: list[str] = []
        self._engine = engine
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base address, as clients of the protocol take it."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def ask(self, conversation: Conversation, params: SamplingParams) -> list[Completion]:
        """The answers to one conversation, once it has been answered with the others that wait."""
        asked = _Asked(conversation, params)
        self._waiting.put(asked)
        return asked.answer.result()

    def next_seed(self, conversation: Conversation) -> int:
        """The seed of a conversation for which none is given."""
        text = json.dumps(conversation)
        with self._lock:
            self._times[text] += 1
            return self.seed + self._times[text] - 1

    def work(self) -> None:
        """Answer what waits, a batch at a time, until `stop`: in one thread, since engines are not made for more."""
        while (first := self._waiting.get()) is not None:
            time.sleep(GATHER)
            batch = [first]
            while not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    self._waiting.put(None)
                    break
                batch.append(following)
            for params in dict.fromkeys(asked.params for asked in batch):
                self._answer([asked for asked in batch if asked.params == params], params)

    def stop(self) -> None:
        """Let `work` end."""
        self._waiting.put(None)

    def _answer(self, group: list[_Asked], params: SamplingParams) -> None:
        try:
            answers = self._engine.generate([asked.conversation for asked in group], params)
        except Exception as error:  # a conversation that a chat template refuses must not fail its neighbours
            if len(group) == 1:
                self.failures.append(f"{type(error).__name__}: {error}")
                group[0].answer.set_exception(error)
                return
            for asked in group:
                self._answer([asked], params)
            return
        self.answered += len(group)
        for asked, answer in zip(group, answers, strict=True):
            failed = [one.error or "no reason given" for one in answer if is_failed(one)]
            self.spoken += not failed
            self.failures += failed[:1]
            asked.answer.set_result(answer)


@contextmanager
def serving(server: EngineServer) -> Iterator[EngineServer]:
    """Serve while the block runs."""
    threads = [threading.Thread(target=run, daemon=True) for run in (server.serve_forever, server.work)]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.stop()
        server.server_close()


def read_request(body: Any, server: EngineServer) -> tuple[Conversation, SamplingParams]:
    """What a request asks.

    Raises:
        BadRequestError: it cannot be understood or answered.
    """
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise BadRequestError("`messages` must be a list of turns")
    for key, neutral in _NEUTRAL.items():
        if body.get(key) is not None and body[key] not in neutral:
            raise BadRequestError(f"`{key}` is not supported here")
    conversation = tuple(_turn(turn) for turn in body["messages"])
    length = body.get("max_completion_tokens") or body.get("max_tokens") or server.max_new_tokens
    seed, temperature = body.get("seed"), body.get("temperature")
    try:
        return conversation, SamplingParams(
            max_new_tokens=int(length),
            temperature=1.0 if temperature is None else float(temperature),
            n=int(body.get("n") or 1),
            seed=server.next_seed(conversation) if seed is None else int(seed),
        )
    except (TypeError, ValueError) as error:
        raise BadRequestError(str(error)) from None


def _turn(turn: Any) -> Message:
    role = turn.get("role") if isinstance(turn, dict) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise BadRequestError(f"a turn cannot have the role {role!r}")
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text")) for part in content)
    if not isinstance(content, str):
        raise BadRequestError("a turn must have text as its `content`")
    return {"role": "system" if role == "developer" else role, "content": content}


class _Handler(BaseHTTPRequestHandler):
    server: EngineServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """The tool that asks keeps the log."""

    def do_GET(self) -> None:
        if self._allowed():
            served = {"id": self.server.model, "object": "model", "created": 0, "owned_by": "sirl"}
            self._reply(200, {"object": "list", "data": [served]})

    def do_POST(self) -> None:
        body = self._body()
        if body is None or not self._allowed():
            return
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._error(404, f"there is no {self.path} here")
            return
        try:
            answers = self.server.ask(*read_request(json.loads(body), self.server))
        except (BadRequestError, UnicodeDecodeError, json.JSONDecodeError) as error:
            self._error(400, str(error))
            return
        except Exception as error:  # 400 and not 500, which garak would ask again for ever
            self._error(400, f"{type(error).__name__}: {error}")
            return
        failed = next((answer.error for answer in answers if answer.error is not None), None)
        if failed is not None:
            self._error(400, failed)  # asking again would not help
            return
        self._reply(200, self._completion(answers))

    def _completion(self, answers: list[Completion]) -> dict[str, Any]:
        choices = [
            {"index": i, "message": {"role": "assistant", "content": a.text}, "finish_reason": a.finish_reason}
            for i, a in enumerate(answers)
        ]
        about = {"id": f"chatcmpl-{secrets.token_hex(8)}", "object": "chat.completion", "created": int(time.time())}
        return {**about, "model": self.server.model, "choices": choices}

    def _body(self) -> bytes | None:
        """All of the request's body, read before anything is answered: what was left would begin the next request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            self._error(413, "a request needs a Content-Length, and one within reason")
            return None
        return self.rfile.read(int(length))

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if hmac.compare_digest(given, f"Bearer {self.server.key}".encode()):
            return True
        self._error(401, "no such key")
        return False

    def _error(self, code: int, message: str) -> None:
        self._reply(code, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def _reply(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
