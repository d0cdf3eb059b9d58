"""Writing and reading our own files so that a crash, a full disk or a power cut loses no more than is said.

A file that is replaced is written under a temporary name, flushed to the disk and renamed: there is the old file or
the new one. A file that is appended to may end in the middle of a line; what is behind its last whole line is dropped
by readers and cut off by the next writer.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sirl.errors import CannotWriteError

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
"""Names of temporary files: a process that was killed leaves one behind."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_REFUSALS = (*_FULL, errno.EACCES, errno.EPERM, errno.EIO)


def unfinished(target: Path) -> Path:
    """Where a folder or file of weights is written before it is whole and gets its name; one that a killed process
    left there is written over."""
    return target.with_name(f".{target.name}.partial")


def temporary(target: Path) -> Path:
    """A name next to a file that matches `LEFTOVER` and is not taken."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")


def is_device(path: Path) -> bool:
    """Whether a name stands for a device, a pipe or an open stream (`/dev/stdout`), which is no file to be replaced."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            if path.absolute().parts[1:2] in (("dev",), ("proc",)):
                return True
            mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole, or leave the old one as it was; on return it is on the disk. The umask holds.

    What is no file (`is_device`) is written to.

    Raises:
        CannotWriteError: the disk is full, the folder is read-only, or the like.
    """
    target = Path(path)
    try:
        if is_device(target):
            with target.open("ab", buffering=0) as stream:
                _write_all(stream.fileno(), text.encode())
            return
        partial = temporary(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(partial, text.encode())
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
    except OSError as error:
        raise CannotWriteError(target, reason(error)) from error


def _write_new(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, _NEW, 0o644), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def try_writing(folder: Path) -> None:
    """Make a file in a folder and delete it again; raises `OSError` where that cannot be."""
    probe = temporary(folder / "sirl")
    os.close(os.open(probe, _NEW, 0o644))
    probe.unlink(missing_ok=True)  # the folder's one writer may have taken it for a leftover


def append_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Append whole lines to a file; on return they are on the disk. A torn last line is cut off first.

    Raises:
        CannotWriteError: the disk is full or the like. None of `data` is in the file then.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = not target.exists()
        with target.open("a+b", buffering=0) as handle:
            size = _cut_torn_line(handle.fileno())
            try:
                _write_all(handle.fileno(), data)
                os.fsync(handle.fileno())
            except OSError:
                os.ftruncate(handle.fileno(), size)
                raise
        if new:
            sync_folder(target.parent)
    except OSError as error:
        raise CannotWriteError(target, reason(error)) from error


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _cut_torn_line(handle: int) -> int:
    """Make a file end in a newline, where a line is torn by cutting it off; returns the size then."""
    size = os.lseek(handle, 0, os.SEEK_END)
    if not size or _read(handle, size - 1, 1) == b"\n":
        return size
    data = _read(handle, 0, size)
    end = data.rfind(b"\n") + 1
    if is_whole(data[end:]):
        _write_all(handle, b"\n")
        return size + 1
    if not is_torn(data[end:]):
        raise OSError(errno.EINVAL, "its last line is not a whole record")
    os.ftruncate(handle, end)
    return end


def _read(handle: int, start: int, size: int) -> bytes:
    os.lseek(handle, start, os.SEEK_SET)
    parts = []
    while size and (part := os.read(handle, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def is_whole(line: bytes) -> bool:
    """Whether a last line without its newline is a whole record all the same: only the newline was torn off."""
    try:
        return isinstance(json.loads(line.decode()), dict)
    except ValueError:  # UnicodeDecodeError is one too
        return False


def is_torn(line: bytes) -> bool:
    """Whether a last line without its newline can be the beginning of a record, or zeros after a power cut."""
    return line.lstrip(b"\0 ")[:1] in (b"", b"{")


def whole_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file of JSONL that are there to their end, without newline, with their numbers from 1.

    What follows the last newline was torn by a crash (half a record, half a character, zeros) unless it is whole. It is
    kept where it was never a record: the file is not ours then.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, line[:-1]
            elif is_whole(line) or not is_torn(line):
                yield number, line


_TORCH_REFUSALS = ("file write failed", "unexpected pos", "iostream error")
"""What torch's writer of zip files says, by where in a file the disk took no more; it gives no error number."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around another library's writing to `path`: what the disk refuses is a `CannotWriteError`.

    torch and safetensors tell it by exceptions of their own, whose text alone says what it was.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise CannotWriteError(path, reason(error)) from error
    except (SafetensorError, RuntimeError) as error:
        found = re.search(r"os error (\d+)", str(error))
        if found and int(found[1]) in _REFUSALS:
            raise CannotWriteError(path, os.strerror(int(found[1]))) from error
        if any(words in str(error) for words in _TORCH_REFUSALS):
            raise CannotWriteError(path, "the disk takes no more") from error
        raise


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, whole or not at all; on return it is on the disk.

    Raises:
        CannotWriteError: the disk is full, the folder is read-only, or the like.
    """
    from safetensors.torch import save_file

    partial = unfinished(path)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, partial, metadata=metadata)
        sync_file(partial)
        partial.replace(path)
        sync_folder(path.parent)


def refused(error: OSError) -> bool:
    """Whether an error of the system says that the disk takes no more, or not here."""
    return error.errno in _REFUSALS


def takes_no_more(error: OSError) -> bool:
    """Whether it says so of writing alone."""
    return error.errno in _FULL


def reason(error: OSError) -> str:
    """What the system says, in its words."""
    return error.strerror or type(error).__name__


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can: a renamed file survives a power cut then."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems cannot
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush all files below a folder, which other libraries wrote, and their names to the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote to the disk."""
    with path.open("r+b") as handle:  # Windows flushes only what is open for writing
        os.fsync(handle.fileno())


def sweep(folder: Path) -> None:
    """Delete temporary files that a killed process left in a run folder. Only for its one writer, see `sirl.lock`."""
    for place in (folder, *(folder / name for name in ("benchmarks", "checkpoints", "model"))):
        if place.is_dir():
            for path in place.iterdir():
                if LEFTOVER.fullmatch(path.name) and path.is_file():
                    path.unlink()
