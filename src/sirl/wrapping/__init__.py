"""Training wrappings: the same request in many dresses, for learning that the dress does not matter.

The model's own answer to a bare request tells, without any label, what its answer to the wrapped request should be
(consistency training: Chua et al. 2024, arXiv 2403.05518; Irpan et al. 2025, arXiv 2510.27062). `families.yaml` holds
the wrappings, by family. No family is one of the attacks' that are reported, so that a report tells what was learnt
about requests from what was learnt about wrappings.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import yaml

from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list
from sirl.records import Conversation, Message, Prompt, user_turn

PLACEHOLDER = "[PROMPT]"
"""Where the request goes."""


@dataclass(frozen=True)
class Family:
    """One kind of disguise with its templates; `also` names the attacks that are of the same kind, if any are."""

    name: str
    description: str
    templates: tuple[Conversation, ...]
    also: tuple[str, ...] = ()


@functools.cache
def wrapping_families() -> dict[str, Family]:
    """The bundled families by name."""
    text = (resources.files("sirl.wrapping") / "families.yaml").read_text(encoding="utf-8")
    families = {}
    for name, entry in yaml.safe_load(text).items():
        templates = tuple(_turns(template) for template in entry["templates"])
        families[name] = Family(name, entry["description"], templates, tuple(entry.get("also", ())))
    return families


def resolve_families(spec: str | Sequence[str]) -> list[Family]:
    """The families of a list of names with commas; `all` stands for all of them, `-NAME` leaves one out.

    Raises:
        UserError: a name is unknown, or no family is left.
    """
    known = wrapping_families()
    chosen: dict[str, Family] = {}
    for word in comma_list(spec):
        name = word.removeprefix("-")
        if name != "all" and name not in known:
            raise UserError(f"--wrapping_families: {name!r} is unknown; choose from all, {', '.join(known)}")
        if word.startswith("-"):
            chosen = {key: family for key, family in (chosen or known).items() if key != name}
        else:
            chosen |= known if name == "all" else {name: known[name]}
    if not chosen:
        raise UserError(f"--wrapping_families: {spec!r} selects no family; give all, or some of {', '.join(known)}")
    return list(chosen.values())


def wrap(prompt: Prompt, family: Family, rng: random.Random) -> Prompt:
    """The request in one of a family's templates; `clean` keeps what a model is asked without it."""
    template = rng.choice(family.templates)
    messages = tuple(
        Message(role=turn["role"], content=turn["content"].replace(PLACEHOLDER, prompt.text)) for turn in template
    )
    return replace(prompt, id=f"{prompt.id}~{family.name}", messages=messages, clean=prompt.conversation)


def wrapped_forms(prompts: Iterable[Prompt], families: Sequence[Family], forms: int, seed: int) -> list[Prompt]:
    """`forms` wrapped forms of each prompt, of as many families, drawn under `seed` and the prompt's id.

    Prompts that are conversations already are left out: there is no one place for the wrapping.
    """
    out = []
    for prompt in prompts:
        if prompt.messages:
            continue
        rng = random.Random(f"{seed}/{prompt.id}")
        out += [wrap(prompt, family, rng) for family in rng.sample(families, min(forms, len(families)))]
    return out


def _turns(template: str | list[dict[str, str]]) -> Conversation:
    if isinstance(template, str):
        return user_turn(template)
    return tuple(Message(role=role, content=text) for turn in template for role, text in turn.items())
