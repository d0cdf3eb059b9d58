"""Arguments of chat templates, and templates that let the model think before it answers.

A reasoning model's first tokens are its thoughts. Within a short token limit they are all that is measured or rewarded.
Most templates of such models take an argument that switches thinking off (Qwen3: `enable_thinking`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list

log = logging.getLogger(__name__)

FLAG = "--chat_template_kwargs"
RESERVED = {
    *("messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("return_dict", "return_tensors", "return_assistant_tokens_mask", "padding", "truncation", "max_length"),
}
"""What sirl decides itself when it applies a template."""
SWITCH_OFF = """--chat_template_kwargs '{"enable_thinking": false}'"""

_PROBE = "sirl-probe"
_SWITCH = re.compile(r"\benable_thinking\b")
_OPT_IN = re.compile(r"\bif thinking\b|\bthinking is (?:not )?(?:defined|true)\b")


def parse_arguments(text: str) -> dict[str, Any]:
    """Template arguments from a command line: a JSON object, or KEY=VALUE pairs with commas.

    Raises:
        UserError: it is neither, or names what sirl decides itself.
    """
    from sirl.inputs.yaml_text import parse_yaml

    found: Any
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UserError(f"{FLAG} {text}: not valid JSON ({error})") from None
    else:
        found = {}
        for pair in comma_list(text):
            key, equals, value = (part.strip() for part in pair.partition("="))
            if not equals:
                raise UserError(f"{FLAG} {text}: expected JSON or KEY=VALUE, such as enable_thinking=false")
            try:
                found[key] = parse_yaml(value)
            except ValueError:
                raise UserError(f"{FLAG} {text}: {value!r} is not a YAML value") from None
    return check_arguments(found, FLAG)


def check_arguments(found: Mapping[str, Any], flag: str) -> dict[str, Any]:
    """The arguments as a plain dictionary; `UserError` for a name that is none, or that sirl decides itself."""
    for key in found:
        if not isinstance(key, str) or not key.isidentifier():
            raise UserError(f"{flag}: {key!r} cannot be the name of an argument")
        if key in RESERVED:
            raise UserError(f"{flag}: {key} is decided by sirl; leave it out")
    return dict(found)


def thinks(tokenizer: Any) -> bool:
    """Whether a model that is asked through this tokenizer's template is likely to think before it answers.

    The prompt that the template writes tells it, where it ends inside a thought or behind one. Else the template's text
    does: by a switch that is on unless it is given, or by markers of thoughts.
    """
    from sirl.chat.encoding import EncodingError, chat_text, template_arguments
    from sirl.chat.thoughts import last_marker_opens
    from sirl.records import user_turn

    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template)
    try:
        prompt = chat_text(tokenizer, user_turn(_PROBE)).rpartition(_PROBE)[2]
    except EncodingError:
        prompt = ""
    opened = last_marker_opens(prompt)
    if opened is not None:
        return opened
    given = template_arguments(tokenizer)
    if _SWITCH.search(text):
        return bool(given.get("enable_thinking", True))
    if _OPT_IN.search(text):
        return bool(given.get("thinking", False))
    return last_marker_opens(text) is not None


def warn_of_thoughts(tokenizer: Any, training: bool = False) -> None:
    """Say in one line, once, what a template that thinks means for what is measured or trained."""
    if getattr(tokenizer, "chat_template", None) and thinks(tokenizer):
        _warn(
            "the chat template lets the model think before it answers, so that "
            + ("the reward is on its thoughts" if training else "a short answer is all thoughts")
            + f"; switch that off ({SWITCH_OFF}, where the template has such an argument), or give a token limit that "
            "leaves room for the answer"
        )


@cache
def _warn(text: str) -> None:
    log.warning("%s", text)
