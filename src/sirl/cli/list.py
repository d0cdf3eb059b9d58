"""List what you can choose from: attacks, judges, rewards, methods, bundled data, configurations and more."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sirl.cli.common import Outcome

RESUME_HINT = "run it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sirl list`."""
    parser.add_argument("what", choices=sorted(_TABLES), help="what to list")


def run(args: argparse.Namespace) -> Outcome:
    """Make the list."""
    rows = _TABLES[args.what]()
    return Outcome(rows, lambda: _show(rows))


def _attacks() -> list[dict[str, Any]]:
    from sirl.attacks import ATTACKS, load_attack
    from sirl.attacks.families import family_of
    from sirl.attacks.taxonomy import tags_of

    loaded = [load_attack(name) for name in ATTACKS]
    return [
        {
            "name": a.name,
            "kind": a.kind,
            "family": family_of(a.name),
            "description": a.description,
            "source": a.source,
            **asdict(tags_of(a.name)),
        }
        for a in loaded
    ]


def _hazards() -> list[dict[str, Any]]:
    from sirl.attacks.taxonomy import HAZARDS

    return [{"name": category, "AILuminate": hazard} for category, hazard in HAZARDS.items()]


def _wrappings() -> list[dict[str, Any]]:
    from sirl.wrapping import wrapping_families

    return [
        {
            "name": f.name,
            "templates": len(f.templates),
            "description": f.description,
            "attacks alike": ", ".join(f.also),
        }
        for f in wrapping_families().values()
    ]


def _judges() -> list[dict[str, Any]]:
    from sirl.judges import JUDGES, judge_class

    return [{"name": name, "description": _first_line(judge_class(name))} for name in JUDGES]


def _rewards() -> list[dict[str, Any]]:
    from sirl.training.config import REWARDS

    return [{"name": name, "description": text} for name, text in REWARDS.items()]


def _methods() -> list[dict[str, Any]]:
    from sirl.compare.methods import METHODS

    return [{"name": name, "description": m.description, "source": m.source} for name, m in METHODS.items()]


def _data() -> list[dict[str, Any]]:
    from sirl.prompts import BUNDLED, load_prompts

    return [{"name": n, "prompts": len(load_prompts(n)), "description": text} for n, text in BUNDLED.items()]


def _configs() -> list[dict[str, Any]]:
    from sirl.experiment.config import bundled_configs, bundled_fragments, read_yaml

    kinds = {"configuration": bundled_configs(), "fragment": bundled_fragments()}
    return [
        {"name": name, "kind": kind, "model": read_yaml(str(path)).get("model_name_or_path")}
        for kind, paths in kinds.items()
        for name, path in paths.items()
    ]


def _models() -> list[dict[str, Any]]:
    from sirl.weights.known import known_models

    return [
        {
            "name": name,
            "what": model.title,
            "licence": model.licence,
            "MB": f"{model.size / 1e6:.0f}",
            "memory, GB": model.memory_gb,
            "s an update": model.update_seconds,
            "from": model.hub or "package registry",
        }
        for name, model in known_models().items()
    ]


_TABLES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "attacks": _attacks,
    "judges": _judges,
    "rewards": _rewards,
    "methods": _methods,
    "data": _data,
    "hazards": _hazards,
    "configs": _configs,
    "models": _models,
    "wrappings": _wrappings,
}


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _show(rows: list[dict[str, Any]]) -> None:
    from sirl.cli.common import print_table

    columns = [name for name, value in rows[0].items() if not isinstance(value, tuple)] if rows else []
    print_table(columns, [["-" if row[c] is None else str(row[c]) for c in columns] for row in rows])
