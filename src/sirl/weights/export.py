"""A model written as a folder in the format that everybody reads, whole or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sirl.disk import sync_folder, sync_tree, unfinished, writing

log = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
"""Settings of a `generation_config.json` that say something only together with `do_sample`."""


def settle_generation_config(model: Any) -> None:
    """Make the sampling settings that come with a model ones that can be saved.

    Many `generation_config.json` name a temperature without `do_sample`. transformers loads them, and refuses to save
    them once anything else in them was changed. They were meant for sampling; sirl itself never uses them.
    """
    settings = model.generation_config
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list | tuple) else [settings.eos_token_id]
    if not all(end is None or isinstance(end, int) for end in ends):
        log.warning("generation_config.json: eos_token_id %r is not a token id, and left out", settings.eos_token_id)
        settings.eos_token_id = None
    for change in ({}, {"do_sample": True}, {"do_sample": False, **dict.fromkeys(SAMPLING)}):
        for key, value in change.items():
            setattr(settings, key, value)
        try:
            settings.validate(strict=True)
        except ValueError:
            continue
        return


def export_model(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write a full transformers-format copy (safetensors, tokenizer, chat template) that `from_pretrained` loads.

    Padding that was borrowed (`choose_padding`) is not written: who trains on with the end-of-sequence token as padding
    may teach the model never to end.
    """
    target = Path(folder)
    partial = unfinished(target)
    with writing(target):
        if partial.exists():  # a process was killed while it wrote
            shutil.rmtree(partial)
        try:
            with own_padding(model, tokenizer):
                model.save_pretrained(partial, safe_serialization=True)
                tokenizer.save_pretrained(partial)
            sync_tree(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk has room again
            raise
        partial.rename(target)  # a folder of this name is complete
        sync_folder(target.parent)
    return target


@contextmanager
def own_padding(model: Any, tokenizer: Any) -> Iterator[None]:
    """Model and tokenizer without padding that was borrowed, in both configurations too, where TRL enters it."""
    borrowed = getattr(tokenizer, "borrowed_padding", None)
    holders = (tokenizer, model.config.get_text_config(), model.generation_config)
    if borrowed is None:
        yield
        return
    kept = [holder.pad_token_id for holder in holders]
    for holder, value in zip(holders, kept, strict=True):
        if holder is not tokenizer and value == tokenizer.pad_token_id:
            holder.pad_token_id = None
    tokenizer.pad_token = borrowed["before"]
    try:
        yield
    finally:
        tokenizer.pad_token = borrowed["token"]
        for holder, value in zip(holders[1:], kept[1:], strict=True):
            holder.pad_token_id = value
