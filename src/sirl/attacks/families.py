"""What kind of disguise each attack is: a model that was trained on a family has seen the attacks of that family.

Training wrappings (`sirl.wrapping`) are of other families, but for those that are named alike there.
"""

from __future__ import annotations

from sirl.attacks import ATTACKS, REPLAY, load_attack

OTHER = "other"
"""The family of an attack from outside the package."""

FAMILIES: dict[str, str] = {
    "direct": "none",
    "aim": "persona",
    "dan": "persona",
    "dev_mode": "persona",
    "refusal_suppression": "instruction",
    "prefix_injection": "instruction",
    "base64": "encoding",
    "past_tense": "tense",
    "anti_gpt": "persona",
    "evil_confidant": "persona",
    "better_dan": "persona",
    "dev_mode_rant": "persona",
    "style_short": "instruction",
    "style_json": "instruction",
    "distractors": "distractors",
    "combination_1": "combination",
    "combination_2": "combination",
    "combination_3": "combination",
    "rot13": "encoding",
    "leetspeak": "encoding",
    "disemvowel": "encoding",
    "morse": "encoding",
    "homoglyph": "encoding",
    "zero_width": "encoding",
    "caesar": "encoding",
    "self_cipher": "encoding",
    "art_prompt": "encoding",
    "payload_splitting": "code",
    "code_chameleon": "code",
    "code_attack": "code",
    "deep_inception": "fiction",
    "renellm": "fiction",
    "future_tense": "tense",
    "low_resource_language": "language",
    "in_context": "demonstrations",
    "many_shot_4": "demonstrations",
    "many_shot_16": "demonstrations",
    "many_shot_64": "demonstrations",
    "pap_authority": "persuasion",
    "pap_evidence": "persuasion",
    "pap_logical": "persuasion",
    "pap_misrepresentation": "persuasion",
    "pap_expert": "persuasion",
    "poem": "verse",
    "encyclopedia": "reference_article",
    "prefill": "begun_answer",
    "system_override": "system_prompt",
    "scripted_crescendo": "slow_approach",
    "foot_in_the_door": "slow_approach",
    "random_search": "suffix_search",
    "gcg": "suffix_search",
    "best_of_n": "sampling",
    "prefill_search": "begun_answer",
    "pair": "attacker_model",
    "tap": "attacker_model",
    "template_mutation": "template_search",
    "crescendo": "slow_approach",
    "autodan": "template_search",
}
"""Attack name -> family."""


def family_of(attack: str) -> str:
    """The family of an attack; a replay has that of the attack that it replays."""
    return FAMILIES.get(attack.partition("@")[0], OTHER)


def is_readable(attack: str) -> bool:
    """Whether the request stands in clear in an attack's prompts; of attacks from outside the package it is said to."""
    name = attack.removesuffix(REPLAY)
    return name not in ATTACKS or load_attack(name).readable
