"""Which version of a model, a data set or this software was used, as far as it can be known.

A name says little by itself, as what stands behind it can change. Commits of the hub go into the manifest, from there
into report and card. Of files and folders it is a fingerprint of what they hold. A run is not continued with another.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.weights.known import known_models
from sirl.weights.names import HUB_FILE, SNAPSHOT, is_gguf

Source = dict[str, Any]
"""`name`, `kind`, `revision` as it was asked for, `commit`; None where unknown. Of a GGUF file `sha256` as well, of
other files and of folders `fingerprint`.

Kinds: hub, folder, file, gguf, known (`sirl.weights.known`), bundled."""

_PACKAGES = ("sirl", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy")
_MODEL_FILES = ("*.json", "*.jinja", "*.safetensors", "*.bin", "*.model")
_PROBES = 64
_PROBE_BYTES = 1 << 16


def check_has_versions(flag: str, revision: str | None, model: str) -> None:
    """Raise `UserError` for a revision of a model that is not a hub id."""
    local = demo_scale(model) is not None or Path(model).expanduser().exists()
    if revision is not None and (local or (is_gguf(model) and not HUB_FILE.fullmatch(model))):
        raise UserError(f"{flag} {revision}: {model} is not a hub id, and only hub ids have versions; leave it out")


def model_source(name: str, revision: str | None = None) -> Source:
    """What a model's name stood for; call it when the model was loaded, and its files are in the hub's cache."""
    if is_gguf(name):
        from sirl.weights.origin import packed

        file = packed(name, revision)
        kind = "known" if name in known_models() else "gguf"
        return {"name": name, "kind": kind, "revision": revision, "commit": file.commit, "sha256": file.sha256}
    kind = "bundled" if demo_scale(name) is not None else "folder" if Path(name).expanduser().exists() else "hub"
    commit = _cached_commit(name, revision) if kind == "hub" else None
    found = {"name": name, "kind": kind, "revision": revision, "commit": commit}
    if kind == "folder":
        folder = Path(name).expanduser()
        files = {path for pattern in _MODEL_FILES for path in folder.glob(pattern)}
        found["fingerprint"] = fingerprint(files, whole=False)
    return found


def fingerprint(paths: Iterable[Path], whole: bool = True) -> str | None:
    """A digest of names and content of files; None where one cannot be read.

    Unless it reads them `whole`, it reads the size of one of more than 4 MB, and 64 places from its beginning to its
    end: enough to tell other weights, in no time for a model of any size.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(paths, key=lambda path: path.name):
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
                step = _PROBE_BYTES if whole else max(_PROBE_BYTES, (size - _PROBE_BYTES) // (_PROBES - 1))
                for place in range(0, size, step):
                    file.seek(place)
                    digest.update(file.read(_PROBE_BYTES))
    except OSError:
        return None
    return digest.hexdigest()[:16]


def _cached_commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):
        for file in ("adapter_config.json", "config.json"):
            path = try_to_load_from_cache(name, file, revision=revision)
            found = SNAPSHOT.search(path) if isinstance(path, str) else None
            if found:
                return found[1]
    return None


def data_sources(sources: Mapping[str, str | None]) -> dict[str, Source]:
    """What the names of data sets stood for, by the flag or key that names them; one entry for each part of a list."""
    from sirl.prompts import BUNDLED, is_file, parts_of
    from sirl.prompts.hub_data import HUB_SETS, HubName

    out: dict[str, Source] = {}
    for flag, source in sources.items():
        parts = parts_of(source) if source else []
        for number, part in enumerate(parts, 1):
            key = flag if len(parts) == 1 else f"{flag} {number}"
            kind = "bundled" if part in BUNDLED else "file" if is_file(part) else "hub"
            known = HUB_SETS.get(part)  # `xstest` stands for a hub id
            name = HubName.parse(known.source if known else part) if kind == "hub" else None
            revision = name.revision if name else None
            commit = _dataset_commit(name.path, revision) if name and "/" in name.path else None
            out[key] = {"name": part, "kind": kind, "revision": revision, "commit": commit}
            if kind == "file":
                out[key]["fingerprint"] = fingerprint([Path(part).expanduser()])
    return out


def _dataset_commit(path: str, revision: str | None) -> str | None:
    """The commit that the hub gives for a data set; None where it cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client it brings

    try:
        return HfApi().dataset_info(path, revision=revision, timeout=10).sha
    except (HTTPError, OSError, ValueError):
        return None


def changed(old: Mapping[str, Source], new: Mapping[str, Source]) -> tuple[str, Source, Source] | None:
    """The first role whose version is known in both and is another one, with both sources."""
    for role, source in new.items():
        before = old.get(role) or {}
        if version_of(before) and version_of(source) and version_of(before) != version_of(source):
            return role, dict(before), source
    return None


def version_of(source: Mapping[str, Any]) -> str | None:
    """What tells which content a name stood for: `SHA-256 ...` of a GGUF file, `fingerprint ...` of other files and of
    folders, else `commit ...`; None if unknown."""
    for key, word in (("sha256", "SHA-256"), ("commit", "commit"), ("fingerprint", "fingerprint")):
        if source.get(key):
            return f"{word} {source[key]}"
    return None


def source_words(sources: Mapping[str, Any]) -> str:
    """`org/name at 1a2b3c4d5e6f (revision v1)` for each that comes from the hub or has a SHA-256, each once."""
    words = []
    for roles in sources.values():
        for one in roles.values() if isinstance(roles, Mapping) else ():
            if one.get("sha256"):
                words.append(f"{one['name']} with {version_of(one)}")
            elif one.get("kind") == "hub":
                asked = f" (revision {one['revision']})" if one.get("revision") else ""
                words.append(f"{one['name']} at {one.get('commit') or 'an unknown commit'}{asked}")
    return "; ".join(dict.fromkeys(words))


# --- this software and this machine -----------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on; None where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Platform, CPU count and, where torch is loaded, threads and accelerators."""
    torch = sys.modules.get("torch")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    out: dict[str, Any] = {"platform": platform.platform(), "processor": platform.machine(), "cpus": usable}
    if torch is not None:
        out["threads"] = torch.get_num_threads()
        out["accelerators"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return out


def git_commit(folder: Path) -> str | None:
    """Commit checked out in a folder, with `+changes` where the tree differs from it; None outside git."""
    head = _git(folder, "rev-parse", "HEAD")
    return head and head + ("+changes" if _git(folder, "status", "--porcelain") else "")


def sirl_commit() -> str | None:
    """`git_commit` of the checkout that this package runs from; None where it was installed as a wheel."""
    home = Path(__file__).parent
    tracked = _git(home, "ls-files", "--error-unmatch", Path(__file__).name)
    return git_commit(home) if tracked else None  # else the commit would be that of what the environment lies in


def _git(folder: Path, *args: str) -> str | None:
    if shutil.which("git") is None:
        return None
    try:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
