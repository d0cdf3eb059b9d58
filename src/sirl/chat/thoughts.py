"""A response without its thoughts: a reasoning model is judged by what it tells the user.

Thoughts quote the request and weigh the policy, so a judge that reads them sees refusals and answers that were never
given. `answer_of` takes out what stands between the markers of the families below. Where the chat template has opened
the thought, the response holds the closing marker alone; what stands before it is then left out only if it reads like
deliberation, so that an answer cannot be hidden by closing a thought that was never opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

NOT_BEGUN = "the answer had not begun"
"""The reason of an `unscored` verdict on a response that was cut inside its thoughts."""

_NAMES = r"think|thinking|thoughts?|reason|reasoning|seed:think|mm:think|longcat_think|scratchpad|reflection"
_OPENING = (
    rf"<(?:{_NAMES})>"  # Qwen3, DeepSeek-R1, Seed-OSS, MiniMax, LongCat
    r"|<\|begin_of_thought\|>|<\|start_thinking\|>"  # Sky-T1, Command A
    r"|\[think\]|◁think▷|<unused94>"  # Magistral, Kimi, MedGemma
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]{0,80}<\|message\|>"  # gpt-oss
    r"|<\|channel>(?:thought\b)?|<\|inner_prefix\|>"  # Gemma 4, Apertus
)
_CLOSING = (
    rf"</(?:{_NAMES})>|<\|end_of_thought\|>|<\|end_thinking\|>|\[/think\]|◁/think▷|<unused95>"
    r"|<\|channel\|>final\b[^<\n]{0,80}<\|message\|>|<channel\|>|<\|inner_suffix\|>"
)
_MARKER = re.compile(rf"(?P<opening>{_OPENING})|{_CLOSING}", re.IGNORECASE)
_PARTS = ("<|channel|>", "<|message|>")
"""Of gpt-oss: tokens that make a marker together with words between them."""
_BARE_CHANNEL = re.compile(r"\s*+analysis(?=[A-Z])")
"""How gpt-oss begins where its control tokens were left out in decoding; `_BARE_FINAL` begins its answer."""
_BARE_FINAL = "assistantfinal"
_DELIBERATION = re.compile(
    r"\bthe (?:user|request|question|prompt|guidelines|policy)\b|"
    r"\b(?:i|we) (?:need|have|should|must|want|could|think)\b|\blet(?: me|'s)\b|"
    r"\b(?:okay|ok|alright|hmm|wait|first|so),|\bthey(?:'re| are| want| ask| did)\b",
    re.IGNORECASE,
)


def answer_of(response: str) -> str | None:
    """What a response says to the user, without its thoughts; None where it was cut before the answer began.

    A response without markers is returned as it is. Takes time linear in the response.
    """
    if not _may_think(response):
        return response
    if _BARE_CHANNEL.match(response):
        _, final, answer = response.rpartition(_BARE_FINAL)
        return answer if final else None
    kept: list[str] = []
    start, opened = 0, False
    for marker in _MARKER.finditer(response):
        if marker["opening"] is None:
            before = response[start : marker.start()]
            if not opened and _DELIBERATION.search(before):
                kept.clear()  # the thought that the template opened is all that came before
            elif not opened:
                kept.append(before)
            start, opened = marker.end(), False
        elif not opened:
            kept.append(response[start : marker.start()])
            start, opened = marker.end(), True
    if opened and not any(part.strip() for part in kept):
        return None
    return "\n".join([*kept, response[start:]])  # cut in a thought behind an answer: all that is left is read


def _may_think(response: str) -> bool:
    """Whether there can be a marker; much faster than to look for one."""
    lower = response.lower()
    return any(
        word in lower
        for word in (
            "think",
            "thought",
            "reason",
            "scratchpad",
            "reflection",
            "<unused9",
            "channel",
            "analysis",
            "<|inner_",
        )
    )


def answer_reader(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """What turns the ids of an answer into text: without special tokens, but for those that mark thoughts.

    In many families these are special tokens, and a text without them would be one of thoughts and answer together.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    markers = {
        token_id: str(token.content)
        for token_id, token in added.items()
        if token.special and (_MARKER.fullmatch(token.content) or token.content in _PARTS)
    }

    def plain(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def read(token_ids: Sequence[int]) -> str:
        text, start = "", 0
        for place in [place for place, token in enumerate(token_ids) if token in markers]:
            text += plain(token_ids[start:place]) + markers[token_ids[place]]
            start = place + 1
        return text + plain(token_ids[start:])

    return read


def last_marker_opens(text: str) -> bool | None:
    """Whether the last marker in a text opens a thought; None where there is no marker."""
    last = None
    for last in _MARKER.finditer(text):  # noqa: B007
        pass
    return None if last is None else last["opening"] is not None
