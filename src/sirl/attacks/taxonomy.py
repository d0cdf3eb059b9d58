"""The attacks and hazards in the words of others: OWASP, MITRE ATLAS, garak and MLCommons AILuminate.

An id stands here only where its published definition covers what the attack does; for many attacks there is no narrower
tag than "jailbreak". `direct` has none: it asks, and attacks nothing.

Sources: OWASP Top 10 for LLM Applications 2025; MITRE ATLAS 2026.09 (`AML.T0043`, optimised adversarial data, is not
used: ATLAS has it for predictive models); garak's `tags.misp.tsv` (its `demon` tags are those of Inie et al. 2023,
arXiv 2311.06237); the 12 hazards of AILuminate 1.0 (Ghosh et al. 2025, arXiv 2503.05731).
"""

from __future__ import annotations

from dataclasses import dataclass

from sirl.attacks.families import FAMILIES, family_of

OWASP = ("LLM01:2025",)
JAILBREAK = "AML.T0054"
OBFUSCATION = "AML.T0068"
GARAK_JAILBREAK = (
    "avid-effect:security:S0403",
    "owasp:llm01",
    "quality:Security:PromptStability",
    "payload:jailbreak",
)
"""What garak gives its jailbreak probes, whatever their technique."""

GARAK_FAMILIES: dict[str, str] = {
    "persona": "demon:Fictionalizing:Roleplaying:DAN_and_target_persona",
    "code": "demon:Language:Code_and_encode:Programming",
    "demonstrations": "demon:Language:Stylizing:Give_examples",
    "tense": "demon:Language:Stylizing:Synonymous_language",
    "slow_approach": "demon:Rhetoric:Persuasion_and_manipulation:Escalating",
    "distractors": "demon:Rhetoric:Persuasion_and_manipulation:Distraction",
    "verse": "demon:Fictionalizing:Switching_genres:Poetry",
    "reference_article": "demon:Fictionalizing:Switching_genres:Posting",
    "system_prompt": "demon:Language:Prompt_injection:Ignore_previous_instructions",
    "sampling": "demon:Stratagems:Scattershot:Regenerate_response",
}
"""garak's technique of a family, where it has one."""

ENCODED = "demon:Language:Code_and_encode:Data_encoding"
STRONG_ARM = "demon:Language:Prompt_injection:Strong_arm_attack"
GARAK_ATTACKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("base64", "rot13", "leetspeak", "morse", "caesar"), (ENCODED,)),
    **{f"combination_{i}": (STRONG_ARM, ENCODED) for i in (1, 2, 3)},
    "refusal_suppression": (STRONG_ARM,),
    "deep_inception": ("demon:Possible_worlds:World_building:Scenarios",),
}
"""The same of single attacks, whose families are wider than one technique."""

OBFUSCATED = frozenset(
    {name for name, family in FAMILIES.items() if family == "encoding"} - {"self_cipher"}
    | {"combination_1", "combination_2", "combination_3"}
)
"""Attacks that hide the words of the goal. The "cipher" of `self_cipher` is plain text."""

HAZARDS: dict[str, str] = {
    # the bundled goals
    "cybercrime": "non-violent crimes",
    "fraud_scams": "non-violent crimes",
    "illegal_drugs": "non-violent crimes",
    "theft_property_crime": "non-violent crimes",
    "hate_discrimination": "hate",
    "privacy_surveillance": "privacy",
    # HarmBench
    "chemical_biological": "indiscriminate weapons",
    "copyright": "intellectual property",
    "cybercrime_intrusion": "non-violent crimes",
    # JailbreakBench
    "expert advice": "specialized advice",
    "fraud/deception": "non-violent crimes",
    "malware/hacking": "non-violent crimes",
    "privacy": "privacy",
    "sexual/adult content": "sexual content",
}
"""Category of a goal -> hazard of AILuminate, where one hazard covers all of the category. Weapons and violence,
harassment, misinformation, self-harm with dangerous advice and the like are spread over several, or over none."""


@dataclass(frozen=True)
class Tags:
    """Ids of one attack: `owasp` risks, `atlas` techniques, `garak` tags. Empty where none is supported."""

    owasp: tuple[str, ...] = ()
    atlas: tuple[str, ...] = ()
    garak: tuple[str, ...] = ()


def tags_of(attack: str) -> Tags:
    """The ids of an attack; those of a jailbreak for one from outside the package, none for `direct`."""
    name = attack.partition("@")[0]
    if name == "direct":
        return Tags()
    own = GARAK_ATTACKS.get(name, ())
    family = GARAK_FAMILIES.get(family_of(name))
    technique = own or ((family,) if family else ())
    atlas = (JAILBREAK, OBFUSCATION) if name in OBFUSCATED else (JAILBREAK,)
    return Tags(OWASP, atlas, (*GARAK_JAILBREAK, *technique))


def hazard_of(category: str | None) -> str | None:
    """The AILuminate hazard of a goal's category; None where it has none, or is spread over several."""
    return HAZARDS.get((category or "").strip().casefold())
