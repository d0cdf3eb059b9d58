"""What OpenAI-compatible servers send back, read strictly: answers, or why there are none.

Servers and the proxies in front of them differ in everything but the outline: errors inside a 200, `choices: null`,
content in parts, other words for how an answer ended, web pages, event streams. Nothing here raises on what was sent,
and nothing that is not an answer becomes one. Sources of each form: `docs/attack.md`, "Servers".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sirl.generation.base import served_completion
from sirl.records import Completion

EXCERPT = 300
"""Characters of a server's own words that a reason repeats."""


@dataclass(frozen=True)
class Refusal:
    """A body without answers: why, and what it names of HTTP status, parameter at fault and code."""

    reason: str
    status: int | None = None
    parameter: str | None = None
    kind: str | None = None


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """Somebody else's words as one short printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def read_json(text: str, content_type: str = "") -> Any | Refusal:
    """The JSON value of a body, or what the body is instead."""
    start = text.lstrip("\ufeff \t\r\n")
    kind = content_type.partition(";")[0].strip().lower()
    if not start:
        return Refusal("the server sent an empty body")
    try:
        return json.loads(start)
    except ValueError:
        pass
    except RecursionError:
        return Refusal("the server sent JSON that is nested too deep")
    if kind == "text/event-stream" or re.match(r"(?:data|event|id|retry):", start):
        return Refusal("the server sent an event stream instead of one JSON document")
    if kind in ("text/html", "application/xhtml+xml") or re.match(r"<(?:!doctype|html|head|body)\b", start, re.I):
        return Refusal("the server sent an HTML page instead of JSON")
    if start[0] in "{[":
        return Refusal("the server sent JSON that is broken or cut off")
    return Refusal(f"the server sent {kind or 'text'} instead of JSON: {excerpt(start, 80)!r}")


def read_answers(text: str, content_type: str = "") -> list[Completion] | Refusal:
    """The completions of a body that came with status 200, one a choice; errors of single choices included."""
    body = read_json(text, content_type)
    if isinstance(body, Refusal):
        return body
    if not isinstance(body, dict):
        return Refusal(f"the server sent a JSON {type(body).__name__} instead of an object with choices")
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return [_answer(choice) for choice in sorted(choices, key=_index)]
    if body.get("error") or _message(body):
        return read_error(body)
    return Refusal("the server gave fewer answers than asked for" if choices == [] else "the server sent no choices")


def read_error(body: Any, status: int | None = None) -> Refusal:
    """What a body says of an error: OpenAI's `error` object, a text, FastAPI's `detail`, ..."""
    error: Any = body[0] if isinstance(body, list) and body else body  # Gemini sends a list of one
    if isinstance(error, Mapping) and error.get("error"):
        error = error["error"]
    parameter = error.get("param") if isinstance(error, Mapping) else None
    said = _message(error)
    code = error.get("code") if isinstance(error, Mapping) else None
    kind = code if isinstance(code, str) else None
    if status is None and str(code).isdigit() and 400 <= int(str(code)) < 600:
        status = int(str(code))
    reason = excerpt(said or f"the server sent an error without a message: {json.dumps(body, default=str)[:80]}")
    return Refusal(reason, status, parameter if isinstance(parameter, str) else None, kind)


def _message(error: Any) -> str:
    """The words of an error, wherever they stand."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):  # FastAPI: [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
        return "; ".join(filter(None, map(_message, error)))
    if not isinstance(error, Mapping):
        return ""
    if isinstance(error.get("msg"), str):
        where = [str(part) for part in error.get("loc") or () if part != "body"]
        return ": ".join(filter(None, ["'" + ".".join(where) + "'" if where else "", error["msg"]]))
    for key in ("message", "detail", "error", "errors", "title"):
        if found := _message(error.get(key)):
            return found
    return ""


def _index(choice: Any) -> int:
    """Which of the answers it is, by which it is kept and asked for again; servers send them as they end."""
    index = choice.get("index") if isinstance(choice, Mapping) else None
    return index if isinstance(index, int) else 0


def _answer(choice: Any) -> Completion:
    """One choice, of chat completions or of completions."""
    if not isinstance(choice, Mapping):
        return Completion.failed("the server sent a choice that is not an object")
    if error := choice.get("error"):
        return Completion.failed(f"the server failed in the middle of the answer: {read_error(error).reason}")
    message = choice.get("message")
    ended = choice.get("finish_reason")
    ended = str(ended) if ended is not None else None
    if isinstance(message, Mapping):
        text = _text(message.get("content")) or _text(message.get("refusal"))
        if not text and (missing := _instead(message, ended)):
            return Completion.failed(missing)
        if not text and ended is None and message.get("content") is None:
            return Completion.failed("the server sent a message without content")
        if not text and not _may_be_blank(message.get("content")):
            return Completion.failed("the server sent a content that is not text")
    elif message is None and "text" in choice:
        text = _text(choice["text"])
    else:
        return Completion.failed("the server sent a choice without a message")
    return served_completion(text, ended, "the server")


def _text(content: Any) -> str:
    """Text, or the text of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        return ""
    parts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


def _may_be_blank(content: Any) -> bool:
    """Whether a content without text is a model that says nothing, rather than something else than text."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return not content or any(isinstance(p, str) or (isinstance(p, Mapping) and "text" in p) for p in content)
    return content is None or isinstance(content, str) or (isinstance(content, Mapping) and "text" in content)


def _instead(message: Mapping[str, Any], ended: str | None) -> str | None:
    """What a message without text holds instead of it."""
    if message.get("tool_calls") or message.get("function_call"):
        return "the server sent tool calls and no text"
    names = ("reasoning_content", "reasoning", "thinking")
    parts = message.get("content")
    kinds = [p.get("type") for p in parts if isinstance(p, Mapping)] if isinstance(parts, list) else []  # Mistral's
    thoughts = next((name for name in names if message.get(name) or name in kinds), None)
    if thoughts is None:
        return None
    way_out = "; give --max_new_tokens for thoughts and answer" if ended != "stop" else ""
    return f"the server sent thoughts ({thoughts}) and no answer{way_out}"


def model_ids(body: Any) -> list[str] | None:
    """Names of a server's list of models; None where it is no such list. Entries without a name are left out."""
    entries = body
    if isinstance(body, Mapping):
        entries = next((body[key] for key in ("data", "models") if isinstance(body.get(key), list)), None)
    if not isinstance(entries, list):
        return None
    found = []
    for entry in entries:
        names = [entry] if isinstance(entry, str) else []
        if isinstance(entry, Mapping):
            names = [str(entry.get(key) or "") for key in ("id", "name", "model")]
        found += [name for name in names if name][:1]
    return found


def is_plain_list(body: Any) -> bool:
    """Whether a list of models has the form that the protocol gives it, so that what is missing is not served."""
    entries = body.get("data") if isinstance(body, Mapping) else None
    return isinstance(entries, list) and all(isinstance(e, Mapping) and isinstance(e.get("id"), str) for e in entries)


def match_model(name: str, served: Sequence[str]) -> str | None:
    """The server's own name for a model: the same, or but for case, `models/` before (Gemini) or `:latest` behind
    (Ollama). A served `prefix*` (LiteLLM) takes every name that begins so."""

    def bare(word: str) -> str:
        return word.removeprefix("models/").removesuffix(":latest")

    for same in (lambda w: w == name, lambda w: bare(w) == bare(name), lambda w: bare(w).lower() == bare(name).lower()):
        if found := next((word for word in served if same(word)), None):
            return found
    wild = (word for word in served if word.endswith("*") and name.startswith(word[:-1]))
    return name if any(wild) else None


PARAMETERS = (
    "max_completion_tokens",
    "max_tokens",
    "top_p",  # before temperature: where both cannot be given, this is the one to leave out
    "temperature",
    "seed",
    "n",
    "continue_final_message",
    "add_generation_prompt",
)
"""What a request holds besides model and messages."""

_REFUSING = re.compile(
    r"not support|n't support|unsupported|not permitted|not allowed|not accept|not compatible|unknown|unrecogni[sz]ed|"
    r"unexpected|invalid|no such|extra|forbidden|cannot|can't|must be|only|deprecated|instead",
    re.I,
)


_SIZE = re.compile(
    r"too (?:large|long|big|small|many|high|low)|greater|less than|exceed|at least|at most|maximum", re.I
)


def refused_parameter(refusal: Refusal, sent: Sequence[str]) -> str | None:
    """Which of the parameters that were `sent` a server says that it does not take; None where it says none.

    A value that it finds too large or too small is none of them: vLLM's `max_tokens=5000 cannot be greater than
    max_model_len=2048` complains of the value.
    """
    for name in PARAMETERS:
        if name in sent and refusal.parameter == name:
            return None if name.endswith("_tokens") and _SIZE.search(refusal.reason) else name
    if _SIZE.search(refusal.reason) or not _REFUSING.search(refusal.reason):
        return None
    quoted = [n for n in PARAMETERS if n in sent and re.search(rf"['\"`\[.]{n}['\"`\]]|^{n}\b", refusal.reason)]
    # "Use 'max_completion_tokens' instead": what is not sent is not what is refused
    plain = [n for n in PARAMETERS if n in sent and len(n) > 1 and re.search(rf"(?<!\w){n}(?!\w)", refusal.reason)]
    return next(iter([*quoted, *plain]), None)
