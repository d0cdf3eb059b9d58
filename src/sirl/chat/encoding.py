"""Conversations and texts to token ids. One that cannot be sent to the model is an error of its own, never its batch's.

Three things go wrong with single conversations: the chat template refuses them (Gemma 2 knows no system role, Mistral
wants user and assistant to take turns), they hold half of a surrogate pair, which is no text, or they are longer than
the model's context. `encode_chat` raises `EncodingError` for all of them, and `spread` turns that into an answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jinja2 import TemplateError

from sirl.records import Conversation, Prompt, ends_in_prefill

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

TEMPLATE_FAILURES = (
    *(TemplateError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError),
    *(AttributeError, MemoryError),
)
"""What a template can raise: its own errors, and those of the Python that it is made of (`None + ''`, `1 / 0`)."""

SCALED_BY_FACTOR = ("linear", "dynamic", "yarn")
"""Kinds of RoPE scaling by which a model takes more tokens than `max_position_embeddings` may say."""


TOO_LONG = "the prompt has {} tokens, the model takes {}"


class EncodingError(Exception):
    """One conversation, or one text, that cannot be put to a model; the message says why."""


def encode_chat(tokenizer: Any, conversation: Conversation, limit: int | None = None) -> list[int]:
    """Token ids of a conversation, ready for the model's next words; an assistant turn at the end is continued.

    `limit` is how many tokens the model takes, its answer included (None: no limit).

    Raises:
        EncodingError: the template refuses it, it is no text, or it leaves no room for one token of an answer.
    """
    # the template wrote the special tokens
    ids = tokenizer(chat_text(tokenizer, conversation), add_special_tokens=False)["input_ids"]
    return check_length(ids, limit)


def chat_text(tokenizer: Any, conversation: Conversation) -> str:
    """A conversation as the text that the model goes on from.

    Raises:
        EncodingError: the template refuses it, or it is no text.
    """
    check_text(*(message["content"] for message in conversation))
    prefill = ends_in_prefill(conversation)
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(m) for m in conversation],
            tokenize=False,
            add_generation_prompt=not prefill,
            continue_final_message=prefill,
            **template_arguments(tokenizer),
        )
    except TEMPLATE_FAILURES as error:
        raise refusal(error) from error
    return text


def refusal(error: BaseException) -> EncodingError:
    """What a chat template raised, in one line."""
    return EncodingError(" ".join(f"{type(error).__name__}: {error}".split()))


def encode_text(tokenizer: Any, text: str, limit: int | None = None) -> list[int]:
    """Token ids of a plain text, with the token that begins a sequence.

    Raises:
        EncodingError: it is no text, or it leaves no room for one token of an answer.
    """
    check_text(text)
    return check_length(tokenizer(text)["input_ids"], limit)


def check_text(*texts: object) -> None:
    """Raise `EncodingError` for half of a surrogate pair, as JSON may hold it (`"\\ud83d"`): UTF-8 cannot say it."""
    for text in texts:
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise EncodingError(f"half of a surrogate pair at character {error.start}: not valid Unicode") from None


def check_length(ids: Sequence[int], limit: int | None) -> list[int]:
    """The ids, where they leave room for one token of an answer; else `EncodingError`."""
    if limit is not None and len(ids) >= limit:
        raise EncodingError(TOO_LONG.format(len(ids), limit))
    return list(ids)


def is_too_long(error: str | None) -> bool:
    """Whether an error says that a prompt leaves no room for an answer."""
    return error is not None and re.fullmatch(TOO_LONG.format(r"\d+", r"\d+"), error) is not None


def attempted(encode: Callable[[T], R], items: Sequence[T]) -> list[R | EncodingError]:
    """`encode` of each item, or why there is none."""
    out: list[R | EncodingError] = []
    for item in items:
        try:
            out.append(encode(item))
        except EncodingError as error:
            out.append(error)
    return out


def spread(
    encoded: Sequence[T | EncodingError],
    run: Callable[[list[T]], Sequence[R]],
    failed: Callable[[EncodingError], R],
) -> list[R]:
    """`run` on all that could be encoded, in one call, and `failed` on the rest: results in the order given."""
    fine = [item for item in encoded if not isinstance(item, EncodingError)]
    found = iter(run(fine) if fine else ())
    return [failed(item) if isinstance(item, EncodingError) else next(found) for item in encoded]


def fitting_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, most: int, context: int | None = None, what: str | None = "prompts"
) -> list[Prompt]:
    """The prompts that a model can be asked and that have at most `most` tokens, chat template included.

    `context` is how many tokens the model takes, its answer included. What is left out is counted in one log line,
    which calls the prompts `what` (None: nothing is said).
    """
    most = most if context is None else min(most, context - 1)
    encoded = attempted(lambda prompt: encode_chat(tokenizer, prompt.conversation), prompts)
    kept: list[Prompt] = []
    errors: list[EncodingError] = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        if isinstance(ids, EncodingError):
            errors.append(ids)
        elif len(ids) <= most:
            kept.append(prompt)
    words = []
    if long := len(prompts) - len(kept) - len(errors):
        words.append(f"{long} of {len(prompts)} {what} are longer than {most} tokens and left out")
    if errors:
        words.append(f"{len(errors)} of {len(prompts)} {what} cannot be encoded and are left out ({errors[0]})")
    if words and what:
        log.warning("%s", "; ".join(words))
    return kept


def context_length(config: Any) -> int | None:
    """How many tokens a model takes, prompt and answer together; None where its configuration sets no limit.

    Never less than the model can do: a sliding window is no limit, and RoPE scaling by a factor raises it.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    scaling = getattr(config, "rope_parameters", None)
    if isinstance(scaling, Mapping) and scaling.get("rope_type") in SCALED_BY_FACTOR:
        trained = scaling.get("original_max_position_embeddings") or limit
        limit = max(limit, int(trained * float(scaling.get("factor") or 1)))
    return limit


# --- arguments of the chat template ---------------------------------------------------------------------------------


def with_template_arguments(tokenizer: Any, arguments: Mapping[str, Any] | None) -> Any:
    """The tokenizer with arguments that its chat template gets at every call, such as `enable_thinking`.

    They are kept with the tokenizer, so that all that is made from it encodes alike; they are not saved with it.
    """
    tokenizer.template_arguments = dict(arguments or {})
    return tokenizer


def template_arguments(tokenizer: Any) -> dict[str, Any]:
    """What `with_template_arguments` gave."""
    found: dict[str, Any] = getattr(tokenizer, "template_arguments", {})
    return found
