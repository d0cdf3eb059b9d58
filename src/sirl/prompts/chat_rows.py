"""Conversations as people write them, read into turns of `role` and `content`.

Turns are OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`); a content is a text or a list of text parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sirl.records import Conversation, Message

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other words for a role, ShareGPT's first. Any other stays as it is: chat templates know more than these."""
_WRITTEN_TURNS = re.compile(r"""\s*+\[\s*+\{\s*+["'](?:role|from|content|value)["']\s*+:""")
"""A list of turns in a cell of a table, which holds text alone."""
_TEXT_PARTS = ("text", "input_text", "output_text")


class NoPromptError(ValueError):
    """A value that is no prompt; the message says what it is."""


def read_conversation(value: Any, prefill: bool) -> tuple[str, Conversation]:
    """What the user asks last, and the turns where there are others.

    Turns behind the user's last one are kept if they are a `prefill`.

    Raises:
        NoPromptError: `value` is neither a text nor a list of turns in which the user asks something.
    """
    if isinstance(value, str):
        if not value.strip():
            raise NoPromptError("blank prompt")
        return read_conversation(_unwritten(value), prefill) if _WRITTEN_TURNS.match(value) else (value, ())
    if not isinstance(value, Sequence) or not value:
        raise NoPromptError(f"no prompt but {'nothing' if value == [] else type(value).__name__}")
    if all(isinstance(part, Mapping) and "type" in part and not {"role", "from"} & set(part) for part in value):
        return read_conversation(_content(value, "it"), prefill)
    turns = [_turn(turn, f"turn {place}") for place, turn in enumerate(value, 1)]
    asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    if not asked:
        raise NoPromptError("no prompt but list (no turn of the user)")
    text = turns[asked[-1]]["content"]
    if not text.strip():
        raise NoPromptError("blank prompt")
    if not prefill:
        turns = turns[: asked[-1] + 1]
    return text, tuple(turns) if len(turns) > 1 else ()


def _unwritten(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise NoPromptError("no prompt but a list of turns as text that is not JSON") from None


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, Mapping):
        raise NoPromptError(f"no prompt but list ({place} is {type(turn).__name__})")
    role, content = ("role", "content") if "role" in turn else ("from", "value")
    who = turn.get(role)
    if not isinstance(who, str) or not who.strip():
        raise NoPromptError(f"no prompt but list ({place} has no role)")
    who = who.strip().lower()
    return Message(role=_ROLES.get(who, who), content=_content(turn.get(content), place))


def _content(content: Any, place: str) -> str:
    """The text of a turn; text parts with line ends between them, as chat servers join them."""
    if content is None:  # an assistant's turn that only calls a tool
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise NoPromptError(f"no prompt but list ({place} holds {type(content).__name__})")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in _TEXT_PARTS:
            raise NoPromptError(f"no prompt but list ({place} holds a part of type {kind!r}; only text is read)")
        if not isinstance(text, str):
            raise NoPromptError(f"no prompt but list ({place} holds a text part without text)")
        texts.append(text)
    return "\n".join(texts)
