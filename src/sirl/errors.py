"""The exceptions that a user is meant to see."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


class UserError(Exception):
    """Bad input from the user: shown as one line without a traceback, exit code 2.

    The message names the flag or file at fault and says what would be right.
    """


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
