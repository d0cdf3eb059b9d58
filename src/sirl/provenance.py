"""Which version of a model or data set was used: the commit of the hub's repository, as far as it can be known.

A name says little by itself, as what stands behind it can change. Commits go into the manifest, from there into report
and card, and a run is not continued with data of another commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.weights.known import known_models
from sirl.weights.names import HUB_FILE, SNAPSHOT, is_gguf

Source = dict[str, Any]
"""`name`, `kind`, `revision` as it was asked for, `commit`; None where unknown. Of a GGUF file `sha256` as well.

Kinds: hub, folder, file, gguf, known (`sirl.weights.known`), bundled."""


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
    return {"name": name, "kind": kind, "revision": revision, "commit": commit}


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
    """What tells which content a name stood for: `SHA-256 ...` of a GGUF file, else `commit ...`; None if unknown."""
    for key, word in (("sha256", "SHA-256"), ("commit", "commit")):
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
