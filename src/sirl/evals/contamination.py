"""Whether prompts that measure a model are news to it: neither trained on, nor what it was chosen by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sirl.errors import UserError
from sirl.evals.overrefusal import load_benign
from sirl.manifest import Manifest, training_config
from sirl.prompts import check_disjoint, load_prompts
from sirl.records import Prompt
from sirl.run_folder import CHOSEN

log = logging.getLogger(__name__)


def check_contamination(asked: Sequence[Prompt], folder: Path, model: str, flag: str) -> None:
    """Refuse prompts that the model was trained on or chosen by: figures come from data that neither has seen.

    Looked up in the run folder that results go into, and in the one that the model lies in. Training and retention
    prompts are read again as the manifest says; where they are gone, a warning says that they were not looked at. Where
    there is a `chosen.json`, the development set is drawn again.

    Raises:
        UserError: a prompt is in one of these sets, or the development set cannot be read any more. It names `flag`.
    """
    weights = Path(model).expanduser()
    runs = [folder.resolve(), *([weights.resolve().parent] if weights.is_dir() else [])]
    for run in dict.fromkeys(runs) if asked else ():
        for how, sets in (("chosen by", _chosen_on(run, flag)), ("trained on", _trained_on(run, flag))):
            for name, prompts in sets.items():
                try:
                    check_disjoint(prompts, asked, train_name=name, test_name=flag)
                except UserError as error:
                    words = f"{flag}: the model of {run.name} was {how} some of these prompts"
                    raise UserError(f"{words}, so they do not measure it ({error})") from None


def _trained_on(run: Path, flag: str) -> dict[str, list[Prompt]]:
    """Training, retention and wrapped prompts of a run folder, or of a folder of `sirl train`, whole, by their keys."""
    try:
        manifest = Manifest.read(run)
    except UserError:
        return {}  # somebody else's file beside the model; in the folder for the results it is refused later
    train = training_config(manifest.data if manifest else None)
    section = "" if manifest and train is manifest.data.get("config") else "train."
    read: dict[str, dict[str, Any]] = {
        "dataset_name": {"column": train.get("prompt_column"), "split": train.get("dataset_train_split") or "train"},
        "retention_dataset_name": {},
        "wrap_prompts": {},
    }
    out: dict[str, list[Prompt]] = {}
    for key, how in read.items():
        try:
            if train.get(key):
                out[section + key] = load_prompts(str(train[key]), flag=section + key, **how)
        except UserError as error:
            log.warning("%s: not checked against what the model of %s was trained on (%s)", flag, run.name, error)
    return out


def _chosen_on(run: Path, flag: str) -> dict[str, list[Prompt]]:
    """The development set of a run folder, as `sirl.experiment.plan` drew it; empty where nothing was chosen by one."""
    manifest = Manifest.read(run) if (run / CHOSEN).is_file() else None
    config = (manifest.data.get("config") if manifest else None) or {}
    own, seed = config.get("development") or {}, int(config.get("seed") or 0)
    sources = [("goals", own.get("max_goals")), ("overrefusal", own.get("max_prompts"))]
    out: dict[str, list[Prompt]] = {}
    try:
        for key, limit in sources:
            if own.get(key):
                out[f"development.{key}"] = load_benign(own[key], limit, seed, f"development.{key}")
    except UserError as error:
        raise UserError(
            f"{flag}: cannot tell whether the model of {run.name} was chosen by the same prompts, as its development "
            f"set cannot be read ({error})"
        ) from error
    return out
