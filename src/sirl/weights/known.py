"""Models that are known by name: the table `known.yaml`, as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from sirl.inputs.yaml_text import parse_yaml


@dataclass(frozen=True)
class Part:
    """A piece of a file, in a wheel of the package registry: the bytes of `member`, `size` of them."""

    package: str
    version: str
    member: str
    size: int
    sha256: str


@dataclass(frozen=True)
class KnownModel:
    """A GGUF file that has a name; `hub` is the repository that publishes it (None: no hub has it).

    `memory_gb` and `update_seconds` are needs of training by `config`, a bundled configuration (None: not measured).
    """

    name: str
    title: str
    licence: str
    base_model: str
    file: str
    size: int
    sha256: str
    hub: str | None
    config: str
    memory_gb: float | None
    update_seconds: float | None
    parts: tuple[Part, ...]


@lru_cache(maxsize=1)
def known_models() -> Mapping[str, KnownModel]:
    """All of them, by name."""
    table = parse_yaml((resources.files("sirl.weights") / "known.yaml").read_text(encoding="utf-8"))
    return {
        name: KnownModel(name=name, **{**entry, "parts": tuple(Part(*part) for part in entry["parts"])})
        for name, entry in table.items()
    }
