"""PEFT adapters, of a folder or hub id: what their configuration says, and what they stand on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.weights.model_files import FLAG, HUB_ID, QUANTISED_NAME, UNREADABLE, quantisation, unquantised
from sirl.weights.names import is_gguf


def adapter_file(name: str, revision: str | None = None) -> Path | None:
    """`adapter_config.json` of a PEFT adapter, in a folder or on the hub (or in its cache); None for anything else."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if Path(name).is_dir():
        path = Path(name) / "adapter_config.json"
        return path if path.is_file() else None
    if is_gguf(name) or not HUB_ID.fullmatch(name):
        return None
    try:
        found = find_adapter_config_file(name, revision=revision)
    except OSError:  # no such model, or no access: who loads it says so
        return None
    return Path(found) if found else None


def base_of(name: str, path: Path) -> str:
    """The model that an adapter's configuration, the file `path`, names as its base.

    Raises:
        UserError: it names none, the adapter cannot be merged, or the base is quantised.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(f"{FLAG} {name}: {path.name} names no base model; set base_model_name_or_path in it")
    _check_mergeable(name, str(config.get("peft_type")))
    _check_chain(name, base)
    version = config.get("revision") or None  # which is what will be loaded
    plain = demo_scale(base) is not None or is_gguf(base) or adapter_file(base, version)
    method = None if plain else _quantisation(base, version)
    if method:
        raise UserError(
            f"{FLAG} {name}: the adapter's base {base} is quantised ({method}); set base_model_name_or_path in "
            f"{path.name} to the unquantised model{unquantised(base)}"
        )
    return base


@contextmanager
def of_adapter(name: str | None) -> Iterator[None]:
    """Name the adapter, if there is one, in what is wrong with its base."""
    try:
        yield
    except UserError as error:
        if name is None:
            raise
        raise UserError(f"{FLAG} {name}: the base of this adapter cannot be used: {error}") from error


def base_revision(path: Path) -> str | None:
    """The version of its base that an adapter's configuration, which `base_of` has checked, asks for."""
    revision = json.loads(path.read_text(encoding="utf-8")).get("revision")
    return revision if isinstance(revision, str) and revision else None


def has_tokenizer(name: str, revision: str | None = None) -> bool:
    """Whether an adapter, a folder or hub id, brings a tokenizer of its own."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        return (Path(name) / "tokenizer_config.json").exists()
    return bool(
        cached_file(
            name,
            "tokenizer_config.json",
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    )


def check_fits(with_adapter: Any, adapter: str, revision: str | None = None) -> None:
    """Raise `UserError` where a loaded adapter has weights that its base has no place for, or lacks some that it needs.

    PEFT leaves the former out and makes the latter up, so that neither adapter nor base would be measured.
    """
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    found = set_peft_model_state_dict(with_adapter, load_peft_weights(adapter, device="cpu", revision=revision))
    own = (with_adapter.base_model.prefix, "modules_to_save")
    for keys, what in (
        (found.unexpected_keys, "it has {} weights that this base has no place for, such as {}"),
        ([key for key in found.missing_keys if any(part in key for part in own)], "it lacks {} weights, such as {}"),
    ):
        if keys:
            raise UserError(f"adapter {adapter}: is of another base model: {what.format(len(keys), keys[0])}")


def _check_mergeable(name: str, kind: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    known = {str(getattr(key, "value", key)): tuner for key, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    if kind not in known:
        raise UserError(f"{FLAG} {name}: adapter of unknown type {kind}; a newer peft may know it: pip install -U peft")
    if not hasattr(known[kind], "merge_and_unload"):
        raise UserError(
            f"{FLAG} {name}: an adapter of type {kind} cannot be merged into its base's weights; give one that can, "
            "such as LoRA"
        )


def _check_chain(name: str, base: str) -> None:
    """That bases end in a model: an adapter may stand on another, and not on itself."""
    seen = {os.path.realpath(name)}
    while (path := adapter_file(base)) is not None:
        if os.path.realpath(base) in seen:
            raise UserError(f"{FLAG} {name}: the adapter is its own base; set base_model_name_or_path in {path}")
        seen.add(os.path.realpath(base))
        try:
            base = str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
        except (OSError, ValueError, LookupError, TypeError):  # told where that adapter is loaded
            return


def _quantisation(name: str, revision: str | None = None) -> str | None:
    """By what method a model, a folder or hub id, is quantised, as far as its configuration can be had."""
    from transformers import PretrainedConfig

    try:
        return quantisation(PretrainedConfig.get_config_dict(name, revision=revision)[0])
    except UNREADABLE:  # it may still be told by its name
        return "by its name" if QUANTISED_NAME.search(name) else None
