"""The attacks, by name. A dotted path (`package.module:Class`) names one from outside the package.

from sirl.attacks import load_attack, resolve_attacks
attacks = resolve_attacks("direct,dan,my_package.attacks:Mine")
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from sirl.attacks.base import Attack, AttackOptions
from sirl.errors import UserError
from sirl.inputs.comma_list import comma_list

ATTACKS: dict[str, str] = {
    "direct": "sirl.attacks.direct:Direct",
    "aim": "sirl.attacks.personas:AIM",
    "dan": "sirl.attacks.personas:DAN",
    "dev_mode": "sirl.attacks.personas:DevMode",
    "refusal_suppression": "sirl.attacks.instructions:RefusalSuppression",
    "prefix_injection": "sirl.attacks.instructions:PrefixInjection",
    "base64": "sirl.attacks.encodings:Base64",
    "past_tense": "sirl.attacks.rewriting:PastTense",
    "anti_gpt": "sirl.attacks.personas:AntiGPT",
    "evil_confidant": "sirl.attacks.personas:EvilConfidant",
    "better_dan": "sirl.attacks.personas:BetterDAN",
    "dev_mode_rant": "sirl.attacks.personas:DevModeRant",
    "style_short": "sirl.attacks.instructions:StyleShort",
    "style_json": "sirl.attacks.instructions:StyleJson",
    "distractors": "sirl.attacks.instructions:Distractors",
    "combination_1": "sirl.attacks.combinations:Combination1",
    "combination_2": "sirl.attacks.combinations:Combination2",
    "combination_3": "sirl.attacks.combinations:Combination3",
    "rot13": "sirl.attacks.encodings:Rot13",
    "leetspeak": "sirl.attacks.encodings:Leetspeak",
    "disemvowel": "sirl.attacks.encodings:Disemvowel",
    "morse": "sirl.attacks.encodings:Morse",
    "homoglyph": "sirl.attacks.encodings:Homoglyph",
    "zero_width": "sirl.attacks.encodings:ZeroWidth",
    "caesar": "sirl.attacks.ciphers:Caesar",
    "self_cipher": "sirl.attacks.ciphers:SelfCipher",
    "art_prompt": "sirl.attacks.ascii_art:ArtPrompt",
    "payload_splitting": "sirl.attacks.code_wrapping:PayloadSplitting",
    "code_chameleon": "sirl.attacks.code_wrapping:CodeChameleon",
    "code_attack": "sirl.attacks.code_wrapping:CodeAttack",
    "deep_inception": "sirl.attacks.nesting:DeepInception",
    "renellm": "sirl.attacks.nesting:ReNeLLM",
    "future_tense": "sirl.attacks.rewriting:FutureTense",
    "low_resource_language": "sirl.attacks.languages:LowResourceLanguage",
    "in_context": "sirl.attacks.in_context:InContext",
    "many_shot_4": "sirl.attacks.in_context:ManyShot4",
    "many_shot_16": "sirl.attacks.in_context:ManyShot16",
    "many_shot_64": "sirl.attacks.in_context:ManyShot64",
    "pap_authority": "sirl.attacks.persuasion:PapAuthority",
    "pap_evidence": "sirl.attacks.persuasion:PapEvidence",
    "pap_logical": "sirl.attacks.persuasion:PapLogical",
    "pap_misrepresentation": "sirl.attacks.persuasion:PapMisrepresentation",
    "pap_expert": "sirl.attacks.persuasion:PapExpert",
    "poem": "sirl.attacks.formats:Poem",
    "encyclopedia": "sirl.attacks.formats:Encyclopedia",
    "prefill": "sirl.attacks.conversations:Prefill",
    "system_override": "sirl.attacks.conversations:SystemOverride",
    "scripted_crescendo": "sirl.attacks.conversations:ScriptedCrescendo",
    "foot_in_the_door": "sirl.attacks.conversations:FootInTheDoor",
    # adaptive
    "random_search": "sirl.attacks.adaptive.random_search:RandomSearch",
    "gcg": "sirl.attacks.adaptive.gcg:GCG",
    "best_of_n": "sirl.attacks.adaptive.best_of_n:BestOfN",
    "prefill_search": "sirl.attacks.adaptive.prefill_search:PrefillSearch",
    "pair": "sirl.attacks.adaptive.pair:PAIR",
    "tap": "sirl.attacks.adaptive.tap:TAP",
    "template_mutation": "sirl.attacks.adaptive.template_mutation:TemplateMutation",
    "crescendo": "sirl.attacks.adaptive.crescendo:Crescendo",
    "autodan": "sirl.attacks.adaptive.autodan:AutoDAN",
}

GROUPS = ("static", "adaptive", "all")

OWN_TEMPLATES = "templates"
"""Names the attacks of the user's template file, where there is one."""

REPLAY = "@before"
"""`gcg@before`: the prompts that `gcg` found in phase `before`, put to the model again (`sirl.attacks.replay`)."""


def load_attack(name: str, flag: str = "--attacks") -> Attack:
    """One attack.

    Args:
        name: a name in `ATTACKS`, `package.module:Class`, or `NAME@before`, which replays what a search found before.
        flag: what errors call it.

    Returns:
        The attack, ready to build prompts.

    Raises:
        UserError: no such attack, or the path does not lead to a usable `Attack` class.
    """
    if name.endswith(REPLAY):
        from sirl.attacks.replay import Replay

        return Replay(load_attack(name.removesuffix(REPLAY), flag))
    target = ATTACKS.get(name, name)
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name:
        raise UserError(
            f"{flag}: unknown attack {name!r}; choose from {', '.join(ATTACKS)}, a group ({', '.join(GROUPS)}) "
            "or a path like package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{flag}: attack {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Attack)):
        raise UserError(f"{flag}: attack {name!r} is not a subclass of sirl.attacks.base.Attack")
    try:
        return found()
    except TypeError as error:  # an abstract method is missing, or the constructor wants arguments
        raise UserError(f"{flag}: attack {name!r} cannot be made without arguments: {error}") from error


def resolve_attacks(
    spec: str | Sequence[str],
    templates: Sequence[Attack] = (),
    options: AttackOptions | None = None,
    flag: str = "--attacks",
) -> list[Attack]:
    """The attacks of a comma-separated list (or a sequence) of names, groups and dotted paths, each once, in order.

    `templates`, those of a template file (`sirl.attacks.templates.load_templates`), come behind them, or where the list
    says `templates`; to use nothing else, name only that. `options` are given to each (`Attack.configure`); errors call
    the list `flag`.

    Raises:
        UserError: nothing is named, an attack is unknown, a group is empty, or two different attacks share a name.
    """
    entries = comma_list(spec)
    if not entries:
        raise UserError(f"{flag}: none named; choose from {', '.join(ATTACKS)} or {', '.join(GROUPS)}")
    chosen: dict[str, Attack] = {}
    for entry in [*entries, OWN_TEMPLATES] if templates else entries:
        for attack in _expand(entry, templates, flag):
            known = chosen.setdefault(attack.name, attack)
            if type(known) is not type(attack):
                raise UserError(f"{flag}: two attacks are both named {attack.name!r}; give one of them another name")
    return [attack.configure(options or AttackOptions()) for attack in chosen.values()]


def _expand(entry: str, templates: Sequence[Attack], flag: str) -> Sequence[Attack]:
    if entry == OWN_TEMPLATES:
        if not templates:
            raise UserError(f"{flag}: {OWN_TEMPLATES!r} means the attacks of a template file; none was given")
        return templates
    if entry not in GROUPS:
        return [load_attack(entry, flag)]
    members = [load_attack(name) for name in ATTACKS]
    members = [attack for attack in members if entry in ("all", attack.kind)]
    if not members:
        raise UserError(f"{flag}: there is no {entry} attack yet; known ones: {', '.join(ATTACKS)}")
    return members
