"""A trial of a chat template, in a process that can be stopped.

A chat template is a program that comes with a model. jinja's sandbox takes files and Python away from it, and bounds
`range`, but neither its time nor its memory: two loops, one in the other, run for years. So what a template does is
found out once, before it is used, where a limit of the system ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sirl.chat.encoding import EncodingError, chat_text, template_arguments
from sirl.records import Conversation, user_turn

SECONDS = 2
"""Of processor time: thousands of times what templates in use take."""
WALL = 120.0
"""Seconds by the clock: only for a machine that gives the trial no processor time."""
MEMORY = 1 << 30
"""Bytes that a trial may take on top of what this process has."""

HELLO = user_turn("Hello")
SHAPES: tuple[Conversation, ...] = (
    HELLO,
    ({"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Hi."}, *HELLO),
    (*HELLO, {"role": "assistant", "content": "Hi"}),
)
"""Conversations of all kinds: one turn, a system turn and several, the beginning of an answer."""


def written_for_hello(tokenizer: Any) -> int:
    """How many characters the chat template writes for `Hello`; whether other conversations suit it does not matter.

    A template that has passed is not tried again in this process: every stage reads the model anew.

    Raises:
        EncodingError: it refuses that one, leaves out what the user says, or takes too long, or too much memory, for
            any of `SHAPES`.
    """
    key = _reads(tokenizer)
    if key not in _PASSED:
        _PASSED[key] = _tried(tokenizer)
    return _PASSED[key]


_PASSED: dict[str, int] = {}


def _reads(tokenizer: Any) -> str:
    """A digest of all that a rendering depends on, but for the conversation."""
    parts = [type(tokenizer).__qualname__, tokenizer.chat_template, tokenizer.special_tokens_map]
    told = json.dumps([*parts, template_arguments(tokenizer)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _tried(tokenizer: Any) -> int:
    if not hasattr(os, "fork"):  # nothing here can stop it
        return _lengths(tokenizer)
    reader, writer = os.pipe()
    with _quiet_tokenizers():
        child = os.fork()
    if child == 0:
        _try(tokenizer, writer)
    os.close(writer)
    try:
        said = _read(reader)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not said:
        raise EncodingError(f"it takes more than {SECONDS} s, or {MEMORY >> 30} GB, for a short conversation")
    found = json.loads(said)
    if isinstance(found, str):
        raise EncodingError(found)
    return int(found)


def _lengths(tokenizer: Any) -> int:
    written = chat_text(tokenizer, HELLO)
    if written and written == chat_text(tokenizer, user_turn("Goodbye")):
        raise EncodingError("it writes the same whatever the user says; does it take lists of parts alone?")
    length = len(written)
    for shape in SHAPES[1:]:
        with contextlib.suppress(EncodingError):
            chat_text(tokenizer, shape)
    return length


def _try(tokenizer: Any, writer: int) -> None:
    """The child: says how many characters there are, or why there are none; nothing, where it was stopped."""
    import resource

    try:
        found: int | str
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _bound(resource.RLIMIT_CPU, SECONDS)
        with contextlib.suppress(OSError):  # there is no such file outside Linux
            pages = int(Path("/proc/self/statm").read_text().split()[5])
            _bound(resource.RLIMIT_DATA, pages * resource.getpagesize() + MEMORY)
        try:
            found = _lengths(tokenizer)
        except EncodingError as error:
            found = str(error)
        os.write(writer, json.dumps(found).encode()[: select.PIPE_BUF])
    finally:
        os._exit(0)


def _bound(limit: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(limit)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (most, most))


def _read(reader: int) -> bytes:
    """All that comes before the end, or before the time is over."""
    end, said = time.monotonic() + WALL, b""
    while (left := end - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        said += part
    return said


@contextlib.contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """Without the warning of the tokenizers library to all that fork: the child does not tokenize."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]
