"""What a comparison consists of: one run for each method or variant and seed, each with a configuration of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirl.compare.methods import METHODS, Method
from sirl.errors import UserError, suggestion
from sirl.experiment.config import RunConfig, merge, parse_config, put, read_yaml

FIXED_KEYS = ("attack", "evals", "seed", "name", "output_dir", "chat_template_kwargs")
"""Keys that an overlay must leave alone: the measure is the same for all, and the rest is the comparison's to set."""

TOP_LEVEL_KEYS = ("model_name_or_path",)
"""Keys at the top of a configuration that a run may have of its own."""

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Job:
    """One run: which method (a variant is run as `sirl` is), its settings, and the whole configuration of the run."""

    name: str
    seed: int
    method: Method
    settings: Mapping[str, Any]
    config: RunConfig

    @property
    def folder(self) -> Path:
        """Where the run leaves its files."""
        return self.config.run_dir

    def as_dict(self) -> dict[str, Any]:
        """What the run's manifest keeps: the configuration, and what the method adds to it."""
        out = self.config.as_dict()
        if self.method.how != "pipeline":
            out["compare"] = {"method": self.name, **self.settings}
        return out


def plan_jobs(
    config: str,
    *,
    methods: Sequence[str] = (),
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (),
    folder: Path,
    sets: Mapping[str, Any] | None = None,
) -> list[Job]:
    """The runs of a comparison, those of `none` first: what they measure before training serves the others.

    Args:
        config: YAML file or bundled configuration, as for `sirl run`.
        methods: keys of `METHODS`; `none` always takes part.
        variants: YAML files whose keys go over the configuration; their stems are their names.
        seeds: default: the configuration's.
        folder: each run gets `NAME-seedN` in it.
        sets: dotted keys for all runs (`train.max_steps`), or for one (`dpo:train.beta`, `best_of_n:n`).

    Raises:
        UserError: a name, key or value is wrong.
    """
    base, own = read_yaml(config), dict[str, dict[str, Any]]()
    for key, value in (sets or {}).items():
        name, colon, inner = key.partition(":")
        if colon:
            own.setdefault(name, {})[inner] = value
        else:
            put(base, key, value)
    reference = parse_config(base, config)
    chosen = _methods(methods, variants)
    for name in own:
        if name not in chosen:
            raise UserError(f"--set {name}:...: {name} is not in this comparison{suggestion(name, list(chosen))}")
    entries = [_entry(base, name, *source, own.get(name, {})) for name, source in chosen.items()]
    return [
        Job(name, seed, method, settings, _config(base, overlay, f"{name}-seed{seed}", seed, folder, source))
        for name, method, overlay, settings, source in entries
        for seed in dict.fromkeys(seeds or [reference.seed])
    ]


def _methods(methods: Sequence[str], variants: Sequence[str]) -> dict[str, tuple[Method, Mapping[str, Any], str]]:
    """By name: the method, the overlay of its file, and what errors call it."""
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--methods: {name} is unknown{suggestion(name, ['all', *METHODS])}")
    out: dict[str, tuple[Method, Mapping[str, Any], str]] = {
        name: (method, {}, f"method {name}") for name, method in METHODS.items() if name in {"none", *methods}
    }
    for file in variants:
        name = re.sub(r"\.ya?ml$", "", Path(file).name)  # `ablations/kl-0.01` is no `kl-0.001`
        if name in out or name in METHODS or not _NAME.fullmatch(name):
            raise UserError(
                f"--variants {file}: the name {name!r} is a method's, is given twice or cannot be a folder's"
            )
        out[name] = (METHODS["sirl"], read_yaml(file, "--variants"), file)
    return out


def _entry(
    base: Mapping[str, Any],
    name: str,
    method: Method,
    overlay: Mapping[str, Any],
    source: str,
    own: Mapping[str, Any],
) -> tuple[str, Method, Mapping[str, Any], Mapping[str, Any], str]:
    """Name, method, all that goes over the configuration, the method's own settings, and what errors call it."""
    settings, dotted = dict(method.settings), dict[str, Any]()
    for key, value in own.items():
        if key in settings:
            settings[key] = _like(settings[key], value, f"--set {name}:{key}")
        elif "." in key or key in TOP_LEVEL_KEYS:
            put(dotted, key, value)
        else:
            raise UserError(
                f"--set {name}:{key}: no setting of {name}{suggestion(key, list(settings))}; keys of the configuration "
                f"have a dot, as in train.learning_rate, except for {', '.join(TOP_LEVEL_KEYS)}"
            )
    # how a method is watched matters only where there is something to watch
    fits = {key: value for key, value in method.overlay.items() if key != "development" or base.get(key)}
    overlay = merge(merge(fits, overlay), dotted)
    for key in FIXED_KEYS:
        if key in overlay:
            where = f"--set {name}:{key}..." if key in dotted else source
            raise UserError(f"{where}: {key} is the same for all runs of a comparison; leave it out")
    return name, method, overlay, settings, source


def _like(old: Any, value: Any, where: str) -> Any:
    """The value of a method's setting, which has to be of the kind of its default, and positive."""
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old) or not value or (isinstance(value, int | float) and value < 0):
        kinds = {int: "a whole number from 1 up", float: "a number above 0", str: "text"}
        raise UserError(f"{where}: expected {kinds[type(old)]}, got {value!r}")
    return value


def _config(
    base: Mapping[str, Any], overlay: Mapping[str, Any], name: str, seed: int, folder: Path, source: str
) -> RunConfig:
    """The configuration of one run. A gap that is not there is a finding here, and stops nothing."""
    fixed = {"name": name, "seed": seed, "output_dir": str(folder / name), "gap": {"required": False}}
    return parse_config(merge(merge(base, overlay), fixed), source)
