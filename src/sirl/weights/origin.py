"""What a model's name stands for: a folder or hub id in transformers format, or something to make such a folder of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sirl.errors import UserError
from sirl.progress import terminal_bar
from sirl.weights.cache import cache_folder
from sirl.weights.fetch import fetch
from sirl.weights.hashes import sha256
from sirl.weights.known import known_models
from sirl.weights.model_files import FLAG, UNREADABLE, first_line
from sirl.weights.names import HUB_FILE, SNAPSHOT, is_gguf


@dataclass(frozen=True)
class Packed:
    """A GGUF file, its SHA-256, and the commit of the hub's repository that it is from."""

    path: Path
    sha256: str
    commit: str | None = None


def located(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Folder or hub id, and revision, that transformers reads for a model's name.

    A GGUF file is fetched and dequantised first, unless that was done before. Any other name stays as it is.

    Raises:
        UserError: the file is not there, or holds no model that can be read.
        CannotWriteError: the cache cannot be written.
    """
    if not is_gguf(name):
        return name, revision
    from sirl.weights.gguf_file import dequantised

    return str(dequantised(packed(name, revision).path, cache_folder(), name)), None


def packed(name: str, revision: str | None = None) -> Packed:
    """The GGUF file that a name stands for. One of a hub, or of a model that is known by name, is fetched first.

    Raises:
        UserError: it is not there, or cannot be fetched.
    """
    known = known_models().get(name)
    if known is not None:
        return Packed(fetch(known, cache_folder(), terminal_bar), known.sha256)
    path = Path(name).expanduser()
    if path.is_file():
        return Packed(path, sha256(path))
    found = HUB_FILE.fullmatch(name)
    if found is None:
        raise UserError(
            f"{FLAG} {name}: no such file; give a GGUF file, or one of a hub repository (org/name:file.gguf)"
        )
    path = _from_hub(name, found[1], found[2], revision)
    commit = SNAPSHOT.search(str(path))
    return Packed(path, sha256(path), commit[1] if commit else None)


def _from_hub(name: str, repository: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except UNREADABLE as error:
        raise UserError(
            f"{FLAG} {name}: cannot be downloaded from the hub ({first_line(error)}); "
            f"give a file that {repository} holds, or one on this machine"
        ) from error
