"""The folder that models are kept in between runs."""

from __future__ import annotations

import os
from pathlib import Path

from sirl.disk import reason, try_writing
from sirl.errors import UserError

VARIABLE = "SIRL_CACHE"
DEFAULT = "~/.cache/sirl"


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder `models` in the one that is given, else in `$SIRL_CACHE`, else in `~/.cache/sirl`."""
    return Path(given or os.environ.get(VARIABLE) or DEFAULT).expanduser() / "models"


def check_cache(folder: Path) -> None:
    """Raise `UserError` where the cache cannot be made or written."""
    try:
        try_writing(next(p for p in (folder, *folder.absolute().parents) if p.exists()))
    except OSError as error:
        raise UserError(
            f"{VARIABLE}: cannot write to {folder} ({reason(error)}); set it to a folder that can be written"
        ) from None
