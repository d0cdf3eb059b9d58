"""The exceptions that a user is meant to see."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

_FLAG = re.compile(r"(?<![\w-])--(?=[a-z])")
_names_flags = False


def name_flags(wanted: bool = True) -> None:
    """Have messages speak of flags (`--seed`), as on a command line; else they speak of arguments (`seed`)."""
    global _names_flags
    _names_flags = wanted


class UserError(Exception):
    """Bad input from the user: shown as one line without a traceback, exit code 2.

    The message names the flag or file at fault and says what would be right. It is written with flags; who calls from
    Python reads the arguments of the same names.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if _names_flags else _FLAG.sub("", text)


class NoAnswerError(UserError):
    """A model, or the server behind it, answers nothing at all.

    Nothing binds what comes next: the same work may start again with other settings.
    """


class CannotWriteError(UserError):
    """The disk takes no more, or not here. What was written before is whole, and the run can be resumed."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(
            f"{path}: cannot be written ({reason}); what was written before is kept: make room or see to the "
            "permissions, then run the same command again (without --overwrite)"
        )


def suggestion(name: str, known: Collection[str], most: int = 12) -> str:
    """The end of a message on an unknown name: the nearest known one, or all where there are at most `most`."""
    match = get_close_matches(name, known, n=1)
    if match:
        return f"; did you mean {match[0]}?"
    return f"; known are {', '.join(known)}" if len(known) <= most else ""
