"""`ServerEngine`: a model behind an OpenAI-compatible HTTP API (vLLM, SGLang, llama.cpp, hosted ones).

Such servers do not give the whole distribution, so completions carry no entropies: fit for attacks and evaluation, not
for `sirl gap` and rollouts. Needs the extra `server`. `address.py` finds the server, `replies.py` reads what it sends;
`docs/attack.md` says which servers this was run against.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from sirl.errors import UserError
from sirl.generation.address import Reply, api_key, find_server, is_in_the_clear, is_openai, key_names, shown, tidy
from sirl.generation.base import SamplingParams, request_seeds
from sirl.generation.replies import Refusal, read_answers, read_error, read_json, refused_parameter
from sirl.records import Completion, Conversation, ends_in_prefill, user_turn

log = logging.getLogger(__name__)

CONCURRENCY = 32
"""Requests under way at a time; the server batches them."""

FIRST_WAIT, LONGEST_BACKOFF, LONGEST_WAIT = 0.5, 8.0, 60.0
"""Seconds before the first retry, doubled for each further one up to the second; the most that `Retry-After` gets."""

FOUND_WITHIN = 60.0
"""Seconds that a server may take to say which models it has."""

RETRIED = {408, 409, 425, 429, *range(500, 600)} - {501, 505}
"""HTTP statuses after which the same request may fare better."""

STATUS_NAMES = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}

LEARNED = {
    "seed": "takes no seed, so its samples cannot be repeated",
    "n": "gives one answer a request: it is asked once for each",
}
"""What is worth saying of a parameter that a server does not take."""

Dropped = set[str]
"""Parameters that a server does not take."""


@dataclass(frozen=True)
class _Question:
    """One request, but for what a server may refuse of it."""

    path: str
    content: dict[str, Any]
    params: SamplingParams
    seed: int
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, model: str, n: int, seed: int, dropped: Dropped) -> dict[str, Any]:
        """The request without what is `dropped`; each of those has the same meaning where it is left out."""
        params = self.params
        limit = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
        own = {"temperature": params.temperature, "top_p": 1.0, "n": n, "seed": seed}
        kept = {name: value for name, value in own.items() if name not in dropped}
        return {"model": model, **self.content, limit: params.max_new_tokens, **kept, **self.extra}


class ServerEngine:
    """Chat completions from `base_url`; `/v1` is added where that is what answers.

    What fails after `retries` is an error completion. A key that is refused, and a server that cannot be reached, when
    this is made or later, are a `UserError`, since no other request would fare better.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        concurrency: int = CONCURRENCY,
        timeout: float = 600.0,
        retries: int = 5,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise UserError(
                f"--engine {shown(base_url)}: needs the extra `server` (pip install 'sirl[server]')"
            ) from None
        self.name, self.concurrency, self.timeout = model, concurrency, timeout
        self._template = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}
        self._openai, self._given, self._lock = openai, tidy(base_url), threading.Lock()
        self._refused: Dropped = set()
        key, source = api_key(self._given)
        if key and is_in_the_clear(self._given):
            log.warning("%s: the key of %s is sent over plain http; others can read it", shown(self._given), source)
        # whom the user's account with OpenAI belongs to is nobody else's business either
        private = () if is_openai(self._given) else ("OpenAI-Organization", "OpenAI-Project")
        self._client = openai.OpenAI(
            base_url=self._given,
            api_key=key or "none",
            timeout=timeout,
            max_retries=retries,
            default_headers={name: openai.Omit() for name in private},
        )
        found = find_server(self._given, model, self._look)
        self.base_url, self._model = shown(found.base_url), found.model
        self._client = self._client.with_options(base_url=found.base_url)
        if found.base_url != self._given:
            log.info("--engine %s: nothing answers there, but at %s, which is used", shown(self._given), self.base_url)
        if found.model != model:
            log.info("--model_name_or_path %s: the server calls it %s", model, found.model)

    def _look(self, base_url: str, path: str, body: dict[str, Any] | None) -> Reply:
        """One request of the search for the server; a connection that breaks is tried once more.

        Raises:
            UserError: nobody is there, or the key is refused.
        """
        for tries in range(2):
            try:
                reply = self._send(path, body or {}, base_url, min(self.timeout, FOUND_WITHIN))
                break
            except self._openai.APITimeoutError as error:
                if body is not None:  # it said no to the list of models, and is slow with an answer
                    return Reply(504, "{}")
                raise UserError(f"--engine {shown(base_url)}: does not answer within {FOUND_WITHIN:g} s") from error
            except self._openai.APIConnectionError as error:
                if tries:
                    raise UserError(f"--engine {shown(base_url)}: cannot be reached ({_cause(error)})") from error
                _wait(0, None, threading.Event())
        if reply.status == 401:
            raise self._key_refused()
        return reply

    def _key_refused(self) -> UserError:
        names = [name for name in key_names(self._given) if "API_KEY_" not in name]
        return UserError(
            f"--engine {shown(self._given)}: the server refused the key; set {' or '.join(reversed(names))} "
            f"(or {key_names(self._given)[0]}, for this host alone)"
        )

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        return _in_order(self.generate_each(conversations, params), len(conversations), params.n, progress)

    def generate_each(
        self, conversations: Sequence[Conversation], params: SamplingParams, wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """The place of each conversation and its `params.n` answers, as they come: so that those of
        a batch that is interrupted can be kept. Of the rest, those in `wanted` places are asked as before."""
        seeds = request_seeds(conversations, params)
        places = range(len(conversations)) if wanted is None else wanted
        chats = [_chat(conversations[i], params, seeds[i], self._template) for i in places]
        found = self._each([partial(self._ask, chat, params.n) for chat in chats])
        return ((places[number], answers) for number, answers in found)

    def complete(
        self,
        texts: Sequence[str],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """See `TextEngine.complete`; asks the server's `completions`, which hosted services often lack."""
        seeds = request_seeds([user_turn(text) for text in texts], params)
        asked = [_Question("completions", {"prompt": t}, params, s) for t, s in zip(texts, seeds, strict=True)]
        found = self._each([partial(self._ask, question, 1) for question in asked])
        return [answer for (answer,) in _in_order(found, len(texts), 1, progress)]

    def _each(
        self, calls: Sequence[Callable[[threading.Event], list[Completion]]]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """The results of all calls as they come, `concurrency` of them under way at a time.

        In daemon threads of our own: Python joins those of an executor when it exits, so that Ctrl-C would wait for a
        server that hangs.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, list[Completion] | BaseException]] = queue.SimpleQueue()
        stop = threading.Event()
        for i in range(len(calls)):
            waiting.put(i)

        def work() -> None:
            while not stop.is_set():
                try:
                    i = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((i, calls[i](stop)))
                except BaseException as error:  # handed to the thread that waits, and raised there
                    done.put((i, error))

        for number in range(min(self.concurrency, len(calls))):
            threading.Thread(target=work, name=f"sirl-server-{number}", daemon=True).start()
        try:
            for _ in calls:
                i, found = done.get()
                if isinstance(found, BaseException):
                    raise found
                yield i, found
        finally:  # after Ctrl-C, too, nothing more is asked
            stop.set()

    def _ask(self, question: _Question, n: int, stop: threading.Event) -> list[Completion]:
        """The `n` answers of one question; a server that gives one at a time is asked again, under other seeds."""
        try:
            json.dumps(question.content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return [Completion.failed("UnicodeEncodeError: the text holds half of a surrogate pair")] * n
        out = self._reply(question, n, question.seed, stop)
        while len(out) < n:
            out += self._reply(question, 1, (question.seed + len(out)) % (1 << 31), stop)
        begun = question.content["messages"][-1]["content"] if "continue_final_message" in question.extra else ""
        return [_behind(begun, answer) for answer in out[:n]]

    def _reply(self, question: _Question, n: int, seed: int, stop: threading.Event) -> list[Completion]:
        """The answers to one request, at least one; what the server refuses or fails to do is an error of each."""
        dropped, tries = set(self._refused), 0
        while not stop.is_set():
            body = question.body(self._model, 1 if "n" in dropped else n, seed, dropped)
            try:
                reply = self._send(question.path, body)
            except self._openai.APIConnectionError as error:
                # what has hung for ten minutes once is not waited for six times
                often = 1 if isinstance(error, self._openai.APITimeoutError) else self._client.max_retries
                if tries >= often:
                    return [self._unreached(error)] * n
                _wait(tries, None, stop)
                tries += 1
                continue
            found = _read(reply)
            if isinstance(found, list):
                self._learn(dropped)
                return found
            status = found.status or reply.status
            if status == 401:
                raise self._key_refused()
            if status in (400, 422) and (name := refused_parameter(found, list(body))):
                if missing := _cannot_drop(name, question.params, found.reason):
                    return [Completion.failed(missing)] * n
                dropped.add(name)
                continue
            if status not in RETRIED or found.kind == "insufficient_quota" or tries >= self._client.max_retries:
                return [Completion.failed(_words(status, found.reason))] * n
            _wait(tries, reply.retry_after, stop)
            tries += 1
        return [Completion.failed("interrupted")] * n

    def _learn(self, dropped: Dropped) -> None:
        """Remember what a server does not take, once it has answered without."""
        with self._lock:
            new, self._refused = dropped - self._refused, self._refused | dropped
        for name in sorted(new & LEARNED.keys()):
            log.warning("%s %s", self.base_url, LEARNED[name])

    def _unreached(self, error: Exception) -> Completion:
        """An error of this request, if the server is still there.

        Raises:
            UserError: it is not.
        """
        if not isinstance(error, self._openai.APITimeoutError):
            try:
                self._send("models", {}, timeout=min(self.timeout, FOUND_WITHIN))
            except self._openai.APIConnectionError as gone:
                raise UserError(f"--engine {self.base_url}: cannot be reached any more ({_cause(gone)})") from error
        return Completion.failed(f"{type(error).__name__}: {_cause(error)}")

    def _send(
        self, path: str, body: dict[str, Any], base_url: str | None = None, timeout: float | None = None
    ) -> Reply:
        """One request, once.

        Raises:
            openai.APIConnectionError: there is no whole reply.
        """
        more: dict[str, Any] = {"base_url": base_url} if base_url else {}
        client = self._client.with_options(max_retries=0, timeout=timeout or self.timeout, **more)
        known = {k: v for k, v in body.items() if k in _TYPED}
        extra = {k: v for k, v in body.items() if k not in _TYPED}
        try:
            if path == "models":
                raw = client.models.with_raw_response.list().http_response
            elif path == "completions":
                raw = client.completions.with_raw_response.create(**known, extra_body=extra or None).http_response
            else:
                raw = client.chat.completions.with_raw_response.create(**known, extra_body=extra or None).http_response
        except self._openai.APIStatusError as error:
            raw = error.response
        headers = raw.headers
        return Reply(raw.status_code, raw.text, headers.get("content-type", ""), _retry_after(headers))


_TYPED = {"model", "messages", "prompt", "max_tokens", "temperature", "top_p", "n", "seed"}
"""What the client's methods take by name; the rest goes as `extra_body`."""


def _chat(conversation: Conversation, params: SamplingParams, seed: int, template: Mapping[str, Any]) -> _Question:
    extra: dict[str, Any] = {**template}  # vLLM's, SGLang's and llama.cpp's name for them
    if ends_in_prefill(conversation):  # vLLM's and SGLang's names for going on from it
        extra |= {"add_generation_prompt": False, "continue_final_message": True}
    messages = [dict(message) for message in conversation]
    return _Question("chat/completions", {"messages": messages}, params, seed, extra)


SHORTEST_ECHO = 8
"""Characters of a prefill that is taken for said again."""


def _behind(begun: str, answer: Completion) -> Completion:
    """An answer without the prefill, which llama.cpp says again before it: those words are not the model's.

    A prefill of a few characters stays: an answer of another server may well begin with the same ones ("1", "10 g").
    """
    echo = next(
        (one for one in (begun, begun.rstrip()) if len(one) >= SHORTEST_ECHO and answer.text.startswith(one)), ""
    )
    return replace(answer, text=answer.text[len(echo) :])


def _in_order(
    found: Iterator[tuple[int, list[Completion]]], count: int, n: int, progress: Callable[[int], None] | None
) -> list[list[Completion]]:
    out: list[list[Completion]] = [[] for _ in range(count)]
    for i, answers in found:
        out[i] = answers
        if progress is not None:
            progress(n)
    return out


def _read(reply: Reply) -> list[Completion] | Refusal:
    if 200 <= reply.status < 300:
        return read_answers(reply.text, reply.content_type)
    body = read_json(reply.text, reply.content_type)
    return body if isinstance(body, Refusal) else read_error(body, reply.status)


def _cannot_drop(name: str, params: SamplingParams, reason: str) -> str | None:
    """Why an answer without that parameter would be another one than was asked for; None where it would not."""
    if name == "temperature" and params.temperature != 1.0:
        way_out = "; --decoding sample asks with 1" if params.temperature == 0 else ""
        return f"BadRequestError: the server does not take temperature {params.temperature:g}{way_out}: {reason}"
    if name in ("continue_final_message", "add_generation_prompt"):
        return f"BadRequestError: the server does not continue a prefilled answer: {reason}"
    if name == "max_completion_tokens":
        return f"BadRequestError: the server does not take the limit of tokens: {reason}"
    return None


def _words(status: int, reason: str) -> str:
    """An error of a status, which begins with the kind of error as the client library calls it."""
    if 200 <= status < 300:
        return reason
    name = STATUS_NAMES.get(status) or ("InternalServerError" if status >= 500 else "APIStatusError")
    return f"{name}: {reason} (HTTP {status})"


def _cause(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split()) or type(error.__cause__ or error).__name__


def _wait(tries: int, after: float | None, stop: threading.Event) -> None:
    """Before the next try: as long as the server asks for, within bounds, or twice as long each time."""
    backoff = min(FIRST_WAIT * 2**tries, LONGEST_BACKOFF) * random.uniform(0.75, 1.0)
    stop.wait(backoff if after is None else min(max(after, 0.0), LONGEST_WAIT))


def _retry_after(headers: Any) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date; None where there is none to be read."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        try:
            return float(value) * unit
        except (TypeError, ValueError):
            pass
    try:
        return (parsedate_to_datetime(headers.get("retry-after")) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
