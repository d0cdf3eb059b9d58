"""The flags of `sirl train`: fields of three dataclasses, given in a YAML file, on a command line or in both.

Flags win over the file; what no dataclass knows is an error.

    training = parse_training(["--model_name_or_path", "demo", "--dataset_name", "demo/train"], {"max_steps": 5})
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from trl import ModelConfig
from trl.scripts._hf_argparser import string_to_bool
from trl.scripts.utils import TrlParser

from sirl.errors import UserError, suggestion
from sirl.training import SIRLConfig
from sirl.training.inherited import refuse_ignored
from sirl.wrapping import resolve_families

JOINED = ("dataset_name", "retention_dataset_name", "wrap_prompts", "wrapping_families")
"""Flags that take several values with commas between; in a file they may be a list."""

_NAMES = re.compile(r"[\w.]+(,[\w.]+)*")

OF_ALL_STAGES = ("model_name_or_path", "model_revision", "output_dir", "seed", "chat_template_kwargs")
"""Flags that the file of a run has at its top, and not in its section on training."""


@dataclass
class DataConfig:
    """Where the prompts of training come from. Nothing but their prompt column is read."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Unlabeled prompts: file (.jsonl, .csv, .parquet, .txt, ...), hub dataset (org/name:config@split) "
            "or bundled name; separate several with commas."
        },
    )
    prompt_column: str | None = field(
        default=None,
        metadata={"help": "Read the prompts from this column (default: the first known name, such as `prompt`)."},
    )
    dataset_train_split: str = field(
        default="train", metadata={"help": "Split of a hub dataset that is named without one."}
    )
    max_prompts: int | None = field(
        default=None, metadata={"help": "Train on at most this many prompts, sampled with --seed."}
    )
    retention_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Benign unlabeled prompts on which the policy is kept close to the base model."},
    )
    wrap_prompts: str | None = field(
        default=None,
        metadata={
            "help": "Unlabeled prompts, harmful and benign, to put in training wrappings: the policy learns to answer "
            "each wrapped form as the base model answers the bare prompt."
        },
    )
    wrapping_families: str = field(
        default="all",
        metadata={"help": "Families of training wrappings (`sirl list wrappings`); -NAME excludes one."},
    )
    forms: int = field(default=2, metadata={"help": "Wrapped forms per prompt of --wrap_prompts."})

    def __post_init__(self) -> None:
        resolve_families(self.wrapping_families)
        if self.forms < 1:
            raise UserError(f"--forms: must be 1 or more, got {self.forms}")
        if self.max_prompts is not None and self.max_prompts < 1:
            raise UserError(f"--max_prompts: must be 1 or more, got {self.max_prompts}")


@dataclass(frozen=True)
class Training:
    """One training: its data, the trainer's configuration and the model's."""

    data: DataConfig
    config: SIRLConfig
    model: ModelConfig
    rest: argparse.Namespace

    def as_dict(self) -> dict[str, Any]:
        """All values, as the manifest keeps them."""
        plain = {**vars(self.data), **self.config.to_dict(), **vars(self.model)}
        return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]


class TrainingParser(TrlParser):  # type: ignore[misc]
    """TRL's parser with errors in one line, and without guessing at shortened flags."""

    def __init__(self) -> None:
        super().__init__((DataConfig, SIRLConfig, ModelConfig), prog="sirl train", allow_abbrev=False)
        # not TRL's defaults: dropout makes the entropy noisy, and the model's own type is the fast one for rollouts
        self.set_defaults(lora_dropout=0.0, dtype="auto")

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` in place of printing and leaving."""
        raise UserError(message)


def parse_training(
    argv: Sequence[str], options: Mapping[str, Any], source: str = "--config", parser: TrainingParser | None = None
) -> Training:
    """Flags of the command line, with `options` (the content of a file, named `source` in errors) below them.

    Raises:
        UserError: an unknown key or flag, or a value that its dataclass does not take.
    """
    parser = parser or TrainingParser()
    below = _as_flags(parser, options, source)
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            [*below, *argv], return_remaining_strings=True, look_for_args_file=False
        )
    except UserError:
        raise
    except Exception as error:  # the dataclasses check themselves and raise whatever they like
        raise UserError(f"sirl train: {' '.join(str(error).split()) or type(error).__name__}") from error
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"{unknown[0]} is not a known flag of sirl train{suggestion(unknown[0], known)}")
    data, config, model, *rest = parsed
    values = {**vars(data), **vars(config), **vars(model)}
    refuse_ignored([*options, *_named(argv)], values, (SIRLConfig, ModelConfig))
    for name in ("lora_target_modules", "lora_modules_to_save", "lora_target_parameters"):
        setattr(model, name, _modules(getattr(model, name, None)))
    return Training(data, config, model, rest[0] if rest else argparse.Namespace())


def _modules(given: str | list[str] | None) -> str | list[str] | None:
    """Names of modules, divided by commas or blanks. A pattern stays whole, and so does `all-linear`."""
    if isinstance(given, list):
        return [part for word in given for part in (word.split(",") if _NAMES.fullmatch(word) else [word])]
    if given is None or not (given.isidentifier() or ("," in given and _NAMES.fullmatch(given))):
        return given
    return given.split(",")  # one word: TRL takes it out of its list, and PEFT then for a pattern


@contextmanager
def named_in_file(section: str) -> Iterator[None]:
    """Let errors inside name flags of the training as the file of a run does: `train.learning_rate`."""
    fields = {f.name for cls in (DataConfig, SIRLConfig, ModelConfig) for f in dataclasses.fields(cls)}
    known = "|".join(sorted(fields.difference(OF_ALL_STAGES), key=len, reverse=True))
    try:
        yield
    except UserError as error:
        error.args = (re.sub(rf"--({known})\b", rf"{section}.\1", str(error.args[0])),)
        raise


def _named(argv: Sequence[str]) -> list[str]:
    """Names of the flags on a command line."""
    words = [word.partition("=")[0] for word in argv if word.startswith("--")]
    return [word[2:].replace("-", "_") for word in words]


def _as_flags(parser: TrainingParser, options: Mapping[str, Any], source: str) -> list[str]:
    """The content of a file as words of a command line, so that both are checked alike.

    What a command line cannot say (null, a list or mapping for a flag that takes such a thing) becomes the default.
    """
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest not in ("help", "config"):
            actions.setdefault(action.dest, action)  # a flag's own action, which comes before its `--no_` twin's
    hints = {name: hint for cls in parser.dataclass_types for name, hint in typing.get_type_hints(cls).items()}
    words: list[str] = []
    for key, value in options.items():
        if key not in actions:
            raise UserError(f"{source}: {key} is not a known key{suggestion(str(key), list(actions))}")
        action, kinds = actions[key], _kinds(hints.get(key))
        if value is None:
            if type(None) in kinds:
                parser.set_defaults(**{key: None})
        elif action.nargs == 0 or action.type is string_to_bool:
            words += _switch(action, key, value, source)
        elif isinstance(value, list) and action.nargs == "+":
            words += [f"--{key}", *(_word(action, kinds, key, part, source) for part in value)] if value else []
        elif isinstance(value, list) and key in JOINED:
            words.append(f"--{key}=" + ",".join(_word(action, kinds, key, part, source) for part in value))
        elif isinstance(value, list | dict) and type(value) in kinds:
            parser.set_defaults(**{key: value})
        else:
            words.append(f"--{key}={_word(action, kinds, key, value, source)}")
    return words


def _kinds(hint: Any) -> set[Any]:
    """The types that a field takes; `list` for any list, `dict` for any mapping."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return {typing.get_origin(option) or option for option in (typing.get_args(hint) if union else (hint,))}


def _switch(action: argparse.Action, key: str, value: Any, source: str) -> list[str]:
    """The words for a flag that is on or off: `--key=True`, or `--key` alone where it takes no value."""
    try:
        on = string_to_bool(value if isinstance(value, bool) else str(value))
    except argparse.ArgumentTypeError:
        raise UserError(f"{source}: {key}: expected true or false, got {value!r}") from None
    if action.nargs == 0:
        return [f"--{key}"] if on else []
    return [f"--{key}={on}"]


def _word(action: argparse.Action, kinds: set[Any], key: str, value: Any, source: str) -> str:
    """A value as one word. `no`, which YAML reads as false, is meant as written where the flag has such a choice."""
    if isinstance(value, bool) and bool not in kinds:
        if not value and action.choices and "no" in action.choices:
            return "no"
        wanted = "a number" if kinds & {int, float} else "a text"
        raise UserError(
            f"{source}: {key}: expected {wanted}, got {str(value).lower()} (YAML reads yes, no, on and off as true and "
            "false: put such a word in quotes)"
        )
    if value is None or isinstance(value, list | dict):
        found = "null" if value is None else "a list" if isinstance(value, list) else "a mapping"
        raise UserError(f"{source}: {key}: expected one value, got {found}")
    return str(value)
