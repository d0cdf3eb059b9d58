"""Names of models that stand for no folder in transformers format. Nothing is fetched or loaded to tell them."""

from __future__ import annotations

import re
from pathlib import Path

from sirl.demo import DEMO
from sirl.weights.known import known_models

HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+):([^:]+\.gguf)", re.IGNORECASE)
"""A GGUF file of a hub repository: `org/name:file.gguf`."""
SNAPSHOT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]")
"""A path in the hub's cache, with the commit that it is of."""


def is_gguf(name: str) -> bool:
    """Whether a name stands for a GGUF file: here, on the hub, or of a model that is known by name."""
    if name in known_models():
        return name != DEMO  # which has ways of its own
    return name.lower().endswith(".gguf") and not Path(name).expanduser().is_dir()
