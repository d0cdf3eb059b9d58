"""Write the model card (README.md) of a run's hardened model, and upload both to the Hugging Face Hub on request.

The card is made from the files of the run: method, settings, attacks, benign prompts, limits, provenance.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from sirl.cli.common import Outcome
from sirl.errors import UserError

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl card`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="run folder, such as runs/demo")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the model and its card to this repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private (with --push_to_hub)")


def run(args: argparse.Namespace) -> Outcome:
    """Write the card; upload."""
    from sirl.lock import sole_writer
    from sirl.manifest import check_writable
    from sirl.report.card import write_card

    if args.private and not args.push_to_hub:
        raise UserError("--private: needs --push_to_hub; give both or neither")
    if args.push_to_hub:
        check_name(args.push_to_hub)
    check_writable(args.run_dir, "RUN_DIR")
    with sole_writer(args.run_dir, "RUN_DIR"):
        card = write_card(args.run_dir)
        url = upload(card.parent, args.push_to_hub, args.private) if args.push_to_hub else None
    return Outcome({"card": str(card), "url": url}, lambda: print("\n".join(filter(None, (str(card), url)))))


def check_name(repo_id: str) -> None:
    """Raise `UserError` for a name that no repository of the hub can have, by the rules of its client."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    from sirl.report.card import HUB_ID

    if not HUB_ID.fullmatch(repo_id):
        raise UserError(f"--push_to_hub {repo_id}: expected OWNER/NAME")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub {repo_id}: {error}") from None


def upload(folder: Path, repo_id: str, private: bool) -> str:
    """Put a model folder into a repository of the hub, which is made where there is none; returns its address.

    Raises:
        UserError: the hub cannot be reached, does not allow it, or refuses the card's metadata; then no repository is
            made.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client it brings

    api = HfApi()
    try:
        _check_metadata(folder / "README.md")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Model hardened with SIRL")
    except (HTTPError, OSError) as error:  # what the hub answers, and everything on the way there
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--push_to_hub {repo_id}: {first} (the card is written; log in with `hf auth login`, then run it again)"
        ) from None
    except ValueError as error:  # how the hub's client says that metadata are refused
        reason = " ".join(str(error).split())[:400]
        raise UserError(
            f"--push_to_hub {repo_id}: {reason} (the card is kept: correct {folder / 'README.md'} by hand, then "
            f"`hf upload {repo_id} {folder}`)"
        ) from None
    return str(url)


def _check_metadata(card: Path) -> None:
    """Ask the hub whether it takes the card, before there is a repository that would stay empty.

    Raises:
        ValueError: it does not.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    with contextlib.suppress(HTTPError, OSError):  # nobody answers: the next request says it to the user
        ModelCard.load(card, ignore_metadata_errors=False).validate()
