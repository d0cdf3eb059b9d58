"""Names of models that stand for no folder in transformers format. Nothing is read or loaded to tell them."""

from __future__ import annotations

import re
from pathlib import Path

HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+):([^:]+\.gguf)", re.IGNORECASE)
"""A GGUF file of a hub repository: `org/name:file.gguf`."""
SNAPSHOT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]")
"""A path in the hub's cache, with the commit that it is of."""


def is_gguf(name: str) -> bool:
    """Whether a name is that of a GGUF file, here or on the hub."""
    return name.lower().endswith(".gguf") and not Path(name).expanduser().is_dir()
