"""A real HTTP server on this machine that speaks the OpenAI protocol: chat completions, completions, models."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSAL = "I'm sorry, but I can't help with that."


LISTED = {"object": "list", "data": [{"id": "served", "object": "model", "created": 0, "owned_by": "x"}]}


@dataclass(frozen=True)
class Reply:
    """One scripted reply: text as it is, anything else as JSON. `cut` leaves out the end of what was announced."""

    body: Any = None
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


def choice(message: Any = None, finish_reason: Any = "stop", **more: Any) -> Reply:
    """A reply with one choice."""
    return Reply({"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **more}]})


class Server(ThreadingHTTPServer):
    """Answers by what the last message or the prompt says, or by `answer`; keeps what it was asked.

    `scripts` gives the replies to the questions that hold a text, one after the other, the last one for ever; `refuses`
    the words of a 400 for a parameter; `models` the reply to GET /models. Where `root` is set, all else is 404. What
    asks for "hang" waits for `released`.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()
        self.key: str | None = None
        self.answer: Callable[[str], str] | None = None
        self.models = Reply(LISTED)
        self.scripts: dict[str, tuple[Reply, ...]] = {}
        self.refuses: dict[str, str] = {}
        self.root: str | None = None
        self.released = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Silence."""

    def _lost(self) -> bool:
        if self.server.root is None or self.path.startswith(f"{self.server.root}/"):
            return False
        self._reply(404, {"detail": "Not Found"})
        return True

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.headers.append(dict(self.headers))
        if not self._lost():
            self._send(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        with self.server.lock:
            self.server.requests.append(body)
            self.server.asked[text] += 1
            times = self.server.asked[text]
        if self._lost():
            return
        if "hang" in text:
            self.server.released.wait(30)
        scripted = next((replies for part, replies in self.server.scripts.items() if part in text), None)
        refused = next((words for name, words in self.server.refuses.items() if name in body), None)
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self._reply(401, {"error": {"message": "no such key"}})
        elif scripted:
            self._send(scripted[min(times, len(scripted)) - 1])
        elif refused:
            self._reply(400, {"error": {"message": refused, "type": "invalid_request_error"}})
        elif "always broken" in text or ("broken once" in text and times == 1):
            self._reply(500, {"error": {"message": "out of order"}})
        elif "too long" in text:
            self._reply(400, {"error": {"message": "maximum context length\nis 8"}})
        else:
            self._reply(
                200,
                {"id": "1", "object": "chat.completion", "created": 0, "model": "served", **self._answer(body, text)},
            )

    def _answer(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        finish = "content_filter" if "filtered" in text else "length" if "story" in text else "stop"
        content = None if "silent" in text else REFUSAL if "snack" in text else f"{text} {body.get('seed')}"
        if self.server.answer is not None:
            finish, content = "stop", self.server.answer(text)
        message = {"role": "assistant", "content": content}
        n = body.get("n", 1)
        n = n - 1 if "stingy" in text else n
        said = {"message": message} if "messages" in body else {"text": content}
        return {"choices": [{"index": i, **said, "finish_reason": finish} for i in range(n)]}

    def _reply(self, code: int, body: dict[str, Any]) -> None:
        self._send(Reply(body, code))

    def _send(self, reply: Reply) -> None:
        data = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who was interrupted has gone
            self.wfile.write(data[: len(data) // 2] if reply.cut else data)
