"""Benign requests in the wrappings of attacks: does a model refuse the request, or the wrapping?

A static attack is a wrapping around a request. A model that learns to refuse the wrapping defends itself against the
attack whatever is asked, which a defence success rate cannot tell from knowing harm. Over-refusal is measured on plain
requests elsewhere (XSTest: Röttger et al. 2024, arXiv 2308.01263); WildJailbreak (Jiang et al. 2024, arXiv 2406.18510)
holds benign prompts in the shape of jailbreaks. Here each attack's own wrapping is put around them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

from sirl.attacks import OWN_TEMPLATES, resolve_attacks
from sirl.attacks.base import Attack, StaticAttack
from sirl.attacks.direct import Direct
from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list
from sirl.records import Prompt

FLAG = "evals.wrappings"
ATTACKED = "attacks"
"""Stands for the static attacks of the run."""
IN_ALL = 200
"""Benign requests in wrappings, all wrappings together, where nobody says how many: 70 leave 9 points of doubt."""
LEAST_EACH = 5


def resolve_wrappings(
    spec: str | Sequence[str], templates: Sequence[Attack] = (), flag: str = FLAG
) -> list[StaticAttack]:
    """The static attacks of a list as `resolve_attacks` takes it. Of a group, `direct` is left out: it wraps nothing.

    `templates`, those of a template file, take part where the list says `templates`.

    Raises:
        UserError: none is named, or one is unknown, adaptive or `direct`.
    """
    words = comma_list(spec)
    if not words:
        raise UserError(f"{flag}: name at least one static attack, static for all, or null for none")
    if Direct.name in words:
        raise UserError(f"{flag}: {Direct.name} has no wrapping; evals.overrefusal asks bare benign requests")
    attacks = resolve_attacks(words, templates if OWN_TEMPLATES in words else (), flag=flag)
    adaptive = [attack.name for attack in attacks if not isinstance(attack, StaticAttack)]
    if adaptive:
        shown = ", ".join(adaptive[:3]) + (" ..." if len(adaptive) > 3 else "")
        raise UserError(f"{flag}: only static attacks wrap a request without a search; leave out {shown}")
    return wrappings_of(attacks)


def wrappings_of(attacks: Sequence[Attack]) -> list[StaticAttack]:
    """Those of the attacks that wrap a request: the static ones but `direct`."""
    return [attack for attack in attacks if isinstance(attack, StaticAttack) and not isinstance(attack, Direct)]


def prompts_each(limit: int | None, wrappings: int) -> int:
    """How many requests are put into each wrapping: `limit`, or as many as make `IN_ALL`, `LEAST_EACH` at least."""
    return limit if limit is not None else max(LEAST_EACH, -(-IN_ALL // max(wrappings, 1)))


def draw_evenly(prompts: Sequence[Prompt], limit: int, seed: int) -> list[Prompt]:
    """`limit` of the prompts in their order, drawn under `seed`, as evenly over categories as these allow."""
    rng = random.Random(seed)
    groups: dict[str | None, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        groups[prompt.category].append(place)
    queues = [rng.sample(places, len(places)) for places in groups.values()]
    rng.shuffle(queues)  # with more categories than prompts, none of them is always first
    turns = [place for turn in zip_longest(*queues) for place in turn if place is not None]
    return [prompts[place] for place in sorted(turns[:limit])]
