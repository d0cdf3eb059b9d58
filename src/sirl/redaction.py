"""Secrets are taken out of what is written down or shown, here and nowhere else.

Manifests, reports and cards are shared, and they hold commands, configurations and addresses. A secret is told by the
name that it stands behind (`hub_token`, `OPENAI_API_KEY`), by its place in an address (`http://user:password@host`), or
by its own look (`hf_...`). Numbers of tokens (`max_new_tokens`) and a tokenizer's own tokens (`pad_token`) are none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_SECRET = re.compile(
    r"(?:.*_)?(?:(?:access|api|private|secret|signing|auth|account)?key|(?:api|access)_?keys|token|secrets?|passwords?|"
    r"passwd|passphrase|pwd|credentials?|authorization|bearer)"
)
_PLAIN = re.compile(
    r"(?:.*_)?(?:pad|eos|bos|unk|sep|cls|mask|image|audio|video|boi|eoi|stop|end|start|think|special|per)_token"
)
# No pattern can start again within what it has read (possessive or bounded): redaction takes linear time.
_LINK = re.compile(
    r"""(?<![\w.\-])(?P<name>-{0,2}[A-Za-z][\w.\-]*+)(?:["']?=|["']:\s{0,9}|:\s{1,9}|(?<=\w)\s{1,9}(?!-))"""
)
_VALUE = re.compile(r"""["']?(?:(?<=")[^"]*|(?<=')[^']*|[^\s&#,;"')\]}]+)["']?""")
_SCHEME = re.compile(r"((?:bearer|basic)\s{1,9})(?=\S{0,200}[\d=]|\S{16})[\w.~+/=\-]{6,}", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)(?:[^\s/?#\"'<>]{0,400}|[^\s:/@\"'<>]{1,200}:(?!\d+(?:[/?#]|$))[^\s@\"'<>]{0,200})@")
_SHAPES = re.compile(
    r"(?<![\w/.\-])(?:hf_(?=[a-z]{0,40}[A-Z0-9])[A-Za-z0-9]{6,200}|sk-(?=[a-z\-]{0,40}[A-Z0-9])[\w\-]{6,200})(?![\w/])|"
    r"(?<![A-Za-z0-9])(?:(?:hf|api_org)_[A-Za-z0-9]{30,200}|sk-[\w\-]{24,200}|sk_live_\w{16,200}|"
    r"gh[opsur]_[A-Za-z0-9]{20,200}|github_pat_\w{20,200}|glpat-[\w\-]{16,200}|xox[abprs]-[\w\-]{10,200}|"
    r"A[KS]IA[0-9A-Z]{16}|AIza[\w\-]{30,200}|gsk_[A-Za-z0-9]{20,200}|nvapi-[\w\-]{20,200}|r8_[A-Za-z0-9]{20,200}|"
    r"eyJ[\w\-]{10,2000}\.eyJ[\w\-]{10,2000}\.[\w\-]{1,2000})"
)
_NO_VALUES = ("VALUE", "null", "None", "true", "false", "True", "False", HIDDEN)


def is_secret(name: str) -> bool:
    """Whether what stands behind a key, flag or variable of this name is a secret."""
    last = name.rpartition(".")[2][-80:]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last).lower().strip("-").replace("-", "_")
    return bool(_SECRET.fullmatch(words)) and not _PLAIN.fullmatch(words)


def redact(value: Any) -> Any:
    """A JSON-like value without its secrets; mappings, lists (and tuples, as lists) and texts are new.

    A list of texts is read as a command: what follows `--hub_token` is a secret. Done twice, it changes nothing more.
    """
    if isinstance(value, Mapping):
        return {  # a table of figures by a category such as "credentials" is no secret
            key: _hide(item) if is_secret(str(key)) and not isinstance(item, Mapping) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return _words(value)
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """One text, such as an error message, without the secrets in it."""
    text = _USERINFO.sub(f"{HIDDEN}@", text)
    text = _SCHEME.sub(rf"\1{HIDDEN}", _assigned(text))
    return _SHAPES.sub(HIDDEN, text)


def _assigned(text: str) -> str:
    """`NAME=value`, `'NAME': value` and `--NAME value` without the values of secrets."""
    out: list[str] = []
    at = 0
    for link in _LINK.finditer(text):
        name, joint = link["name"], link[0].removeprefix(link["name"])
        if link.end() < at or not is_secret(name):
            continue
        if joint.isspace() and not name.startswith("--"):
            continue
        in_mapping = text[max(0, link.start() - 20) : link.start()].rstrip()[-1:] in ("{", ",")
        quoted = text[link.end() : link.end() + 1] in ("'", '"')
        if joint[0] == ":" and not in_mapping and not quoted:  # as in `hub_token: expected text`
            continue
        value = _VALUE.match(text, link.end())
        if value and value[0].strip("\"'") not in _NO_VALUES:
            out += [text[at : link.end()], HIDDEN]
            at = value.end()
    return "".join([*out, text[at:]])


def _hide(value: Any) -> Any:
    """What stands behind a secret's name. That there is none, or a yes or no, may be seen."""
    return value if value is None or isinstance(value, bool) or value in ("", [], {}) else HIDDEN


def _words(words: list[Any] | tuple[Any, ...]) -> list[Any]:
    out: list[Any] = []
    secret = False
    for word in words:
        name, equals, _ = word.partition("=") if isinstance(word, str) else ("", "", "")
        if secret and isinstance(word, str) and not word.startswith("--"):
            out.append(HIDDEN)
        elif equals and " " not in name and is_secret(name):
            out.append(redact_text(name) + equals + HIDDEN)
        else:
            out.append(redact(word))
        secret = name.startswith("-") and not equals and is_secret(name)
    return out
