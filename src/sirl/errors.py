"""The one exception that a user is meant to see."""

from __future__ import annotations


class UserError(Exception):
    """Bad input from the user: shown as one line without a traceback, exit code 2.

    The message names the flag or file at fault and says what would be right.
    """


class NoAnswerError(UserError):
    """A model, or the server behind it, answers nothing at all.

    Nothing binds what comes next: the same work may start again with other settings.
    """
