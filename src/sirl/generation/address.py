"""Where an OpenAI-compatible server is, what it calls the model, and which key it may have.

    key, source = api_key("https://api.openai.com/v1")
    found = find_server(base_url, model, ask)          # with /v1 where that is what answers

People leave `/v1` out, paste the whole address of an endpoint, or name a model as another program does. What can be
found out without an answer of the model is found out here, before any work.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sirl.errors import UserError
from sirl.generation.replies import Refusal, excerpt, is_plain_list, match_model, model_ids, read_error, read_json

KEY = "SIRL_API_KEY"
"""Environment variable of the key for every address that is named; with `_HOST` behind it, for that host alone."""

OPENAI_KEY = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
"""OpenAI's key goes to OpenAI and to nobody else."""


@dataclass(frozen=True)
class Reply:
    """What came back for a request: HTTP status, body and headers of interest."""

    status: int
    text: str
    content_type: str = ""
    retry_after: float | None = None


Ask = Callable[[str, str, dict[str, Any] | None], Reply]
"""`ask(base_url, path, body)` sends one request, GET where there is no body."""


@dataclass(frozen=True)
class Found:
    """Where the server is, and its own name for the model."""

    base_url: str
    model: str


def host_key(host: str) -> str:
    """The environment variable of the key for one host: `SIRL_API_KEY_OPENROUTER_AI` for openrouter.ai."""
    return f"{KEY}_{re.sub(r'[^A-Z0-9]+', '_', host.upper()).strip('_')}"


def key_names(base_url: str) -> tuple[str, ...]:
    """Environment variables that may hold the key for an address, in the order in which they are looked at."""
    host = urlsplit(base_url).hostname or ""
    return (host_key(host), *((OPENAI_KEY,) if is_openai(base_url) else ()), KEY)


def is_openai(base_url: str) -> bool:
    """Whether an address is OpenAI's own."""
    return urlsplit(base_url).hostname == OPENAI_HOST


def api_key(base_url: str) -> tuple[str | None, str | None]:
    """The key for an address and the environment variable that it is from; None where there is none.

    Raises:
        UserError: OpenAI's own key would travel in the clear, or what the variable holds is no key.
    """
    name = next((name for name in key_names(base_url) if os.environ.get(name)), None)
    if name is None:
        return None, None
    if name == OPENAI_KEY and not base_url.startswith("https://"):
        raise UserError(
            f"--engine {shown(base_url)}: {OPENAI_KEY} is sent over https only; write https://{OPENAI_HOST}/v1"
        )
    key = os.environ[name].strip()
    if not key.isascii() or not key.isprintable():  # no header can hold it
        raise UserError(f"{name}: contains characters that no key has; set it again, without quotation marks")
    return key, name


def is_in_the_clear(base_url: str) -> bool:
    """Whether what is sent to an address can be read on the way: plain http to another machine."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def shown(base_url: str) -> str:
    """An address for messages, without the user and password that may stand in it."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def tidy(base_url: str) -> str:
    """An address as the client takes it: the endpoint that people paste with it is taken off.

    Raises:
        UserError: it names no host, or no port that there can be.
    """
    try:
        parts = urlsplit(base_url.strip())
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_ok = urlsplit(""), False
    if not parts.hostname or not port_ok:
        raise UserError(f"--engine {excerpt(base_url, 100)}: is not an address; write http://HOST:PORT/v1")
    path = re.sub(r"/(?:chat/completions|completions|models|responses)/*$", "", parts.path).rstrip("/")
    return urlunsplit(parts._replace(path=path, fragment=""))


def find_server(base_url: str, model: str, ask: Ask) -> Found:
    """The address that speaks the protocol, at or below `base_url`, and the server's name for the model.

    Raises:
        UserError: nothing there speaks it, or the server says which models it has and this is none of them.
    """
    places, chats = [base_url], []
    if not re.search(r"/v\d+\w*$|/openai$", urlsplit(base_url).path):
        parts = urlsplit(base_url)
        places.append(urlunsplit(parts._replace(path=f"{parts.path}/v1")))
    for place in places:
        reply = ask(place, "models", None)
        body = read_json(reply.text, reply.content_type) if reply.status == 200 else None
        served = None if isinstance(body, Refusal) else model_ids(body)
        if served is not None:
            return Found(place, _named(model, served, is_plain_list(body), place))
        if not isinstance(body, Refusal):  # a web page in place of the list: no API is here
            chats.append(place)
    for place in chats:  # not every server lists its models
        if _speaks(ask(place, "chat/completions", _hello(model)), model, place):
            return Found(place, model)
    raise UserError(f"--engine {shown(base_url)}: is not an OpenAI-compatible address (does it end in /v1?)")


def _hello(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def _named(model: str, served: list[str], plain: bool, place: str) -> str:
    name = match_model(model, served)
    if name is None and served and plain:
        more = f" and {len(served) - 8} more" if len(served) > 8 else ""
        names = ", ".join(excerpt(one, 80) for one in served[:8])
        raise UserError(f"--model_name_or_path {model}: {shown(place)} does not serve it; it has {names}{more}")
    return name or model


def _speaks(reply: Reply, model: str, place: str) -> bool:
    """Whether a reply to a chat is of the protocol; its errors will be said of the first questions."""
    body = read_json(reply.text, reply.content_type)
    if isinstance(body, Refusal):  # a server may be out of order, or ask everybody for a key
        return reply.status in (401, 403, 429) or (reply.status >= 500 and reply.status != 501)
    if reply.status not in (404, 405):
        return True
    error = body.get("error") if isinstance(body, dict) else None
    said = read_error(body).reason
    if error and re.search(r"\bmodels?\b", said, re.I):
        raise UserError(f"--model_name_or_path {model}: {shown(place)} does not serve it; it says: {said}")
    return False
