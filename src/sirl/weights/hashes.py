"""SHA-256 of files of gigabytes."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; one that was not written since is not read again."""
    found = path.stat()
    return _sha256(str(path.resolve()), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    del size, changed
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
