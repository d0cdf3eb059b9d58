"""The exceptions that a user is meant to see."""

from __future__ import annotations


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
