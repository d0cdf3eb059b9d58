"""One writer a folder. The kernel gives a lock back when its process ends, in whatever way it ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sirl.disk import LEFTOVER, reason, sweep
from sirl.errors import CannotWriteError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NAME = ".sirl.lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_held: dict[Path, int] = {}
"""Lock files of this process, each with how often it was taken: stages call each other."""


@contextmanager
def sole_writer(folder: Path, flag: str = "--output_dir", name: str = NAME, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder, which is made where it is missing; temporary files of killed processes are deleted from it.

    A lock file that a dead process left behind locks nothing. Where the file system knows no locks, a warning says so;
    on Windows nothing is locked. With `wait` another process that writes there is waited for.

    Raises:
        UserError: another process, which it names, writes there.
        CannotWriteError: the lock file cannot be written.
    """
    if fcntl is None:
        yield
        return
    path = folder.resolve() / name
    if path in _held:
        _held[path] += 1
        try:
            yield
        finally:
            _held[path] -= 1
        return
    made = not folder.exists()
    handle = _take(path, f"{flag}: {folder if name == NAME else path.name}", wait)
    _held[path] = 1
    try:
        if name == NAME:
            sweep(folder)
        yield
    finally:
        del _held[path]
        path.unlink(missing_ok=True)  # while it is still ours
        os.close(handle)
        if made:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed process leaves before it has begun."""
    return all(path.name == NAME or LEFTOVER.fullmatch(path.name) for path in folder.iterdir())


def _take(path: Path, what: str, wait: bool) -> int:
    """An open and locked file at `path`; the lock is given back when it is closed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(handle, what, wait)
                if _is_at(handle, path):
                    os.ftruncate(handle, 0)
                    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
                    os.write(handle, json.dumps(holder).encode())
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its last holder deleted it in the meantime
    except OSError as error:
        raise CannotWriteError(path, reason(error)) from error


def _lock(handle: int, what: str, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN and wait:
            log.info("%s is being written by %s; waiting for it", what, _holder(handle))
            fcntl.flock(handle, fcntl.LOCK_EX)
            return
        if error.errno in _TAKEN:
            raise UserError(f"{what} is being written by {_holder(handle)}; wait for it, or give another one") from None
        log.warning("%s: no locks on this file system (%s); let nothing else write there", what, reason(error))


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 1000, 0))
        return f"process {int(found['pid'])} on {found['host']!s:.100} since {found['since']!s:.40}"
    except (ValueError, KeyError, TypeError):  # it has not said yet
        return "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
