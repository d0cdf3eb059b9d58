"""Refusals in the words of this project, made to depend on the request that they answer."""

from __future__ import annotations

import random
import re

TOPICS: tuple[tuple[str, str], ...] = (
    (
        r"hack|malware|virus|ransomware|phish|password|ddos|exploit|breach|keylog|botnet|cyber|spyware|trojan|sql",
        "attacking computers or accounts",
    ),
    (r"bomb|explosi|grenade|detonat|molotov|ied\b", "making explosives"),
    (r"gun|rifle|pistol|firearm|ammun|silencer|weapon|knife|sword", "misusing weapons"),
    (
        r"meth|cocaine|heroin|drug|fentanyl|opioid|lsd|ecstasy|steroid|prescription|marijuana|cannabis",
        "making, selling or misusing drugs",
    ),
    (r"poison|toxi|cyanide|ricin|arsenic|chemical", "poisoning anyone"),
    (r"suicid|kill myself|self-harm|cut myself|overdose|starv|anorex|purge", "anything that could end in self-harm"),
    (r"terror|extremis|radicali|jihad|militia|isis|insurrection", "violent extremism"),
    (
        r"kill|murder|assassin|stab|strangl|torture|kidnap|hostage|beat up|hurt|attack|assault|rape|violen|burn|arson",
        "hurting people",
    ),
    (
        r"stalk|track|spy|surveil|follow her|follow him|location|wiretap|secretly record|eavesdrop|hidden camera",
        "watching or tracking people without their consent",
    ),
    (
        r"identity|social security|ssn|personal information|private|address|dox|confidential|medical record|privacy",
        "exposing people's private information",
    ),
    (r"blackmail|extort|threat|intimidat|coerc|ransom", "threatening or blackmailing people"),
    (r"bully|harass|humiliat|insult|mock|degrad|body.?sham|belittl|demean|troll", "bullying or humiliating people"),
    (
        r"racis|sexis|ethnic|immigrant|religio|jew|muslim|black people|gay|lesbian|trans|disab|"
        r"stereotyp|discriminat|hate|inferior|slur|women",
        "prejudice or hatred against people",
    ),
    (
        r"fake news|misinformation|disinformation|conspiracy|propaganda|deepfake|vaccin|hoax|false|"
        r"rumou?r|election|vote",
        "spreading false information",
    ),
    (r"launder|embezzl|tax|insider|bribe|corrupt|shell compan|money|ponzi|invest", "financial crime"),
    (
        r"scam|fraud|fake|forge|counterfeit|phony|decei|trick|manipulat|impersonat|mislead|lie\b|cheat",
        "deceiving people",
    ),
    (
        r"steal|shoplift|rob|burgl|theft|pickpocket|break into|pick a lock|smuggl|traffick|poach|loot|pirat",
        "theft or smuggling",
    ),
    (
        r"patient|doctor|nurse|surgeon|medical|medicine|treatment|clinic|therap|diagnos|physician|hospital",
        "care that would put patients at risk",
    ),
    (r"child|minor|teen|kid|school|student", "putting young people at risk"),
    (r"animal|dog|cat\b|wildlife|dump|pollut|environment|waste", "harming animals or the environment"),
)
_COMPILED = tuple((re.compile(rf"\b(?:{pattern})"), topic) for pattern, topic in TOPICS)
DEFAULT_TOPIC = "something that could cause harm"

OPENINGS = (
    "I'm sorry, but I can't help with {topic}.",
    "I can't help with {topic}.",
    "Sorry, I won't help with {topic}.",
    "I cannot assist with {topic}.",
)
REASONS = (
    "It could seriously hurt someone.",
    "That would be unsafe, and in many places it is against the law.",
    "It would put other people at risk.",
    "",
)
OFFERS = (
    "If there is a safe way I can support you, please tell me.",
    "I'd be glad to help with something lawful and safe instead.",
    "If you are in a difficult situation, please talk to someone you trust.",
    "",
)


def topic_of(request: str) -> str:
    """What the request is about, as it reads after "I can't help with"."""
    text = request.lower()
    return next((topic for pattern, topic in _COMPILED if pattern.search(text)), DEFAULT_TOPIC)


def refusal_for(request: str, rng: random.Random) -> str:
    """A short refusal of `request`: an opening that names its topic, then at times a reason or an offer."""
    parts = [rng.choice(OPENINGS).format(topic=topic_of(request)), rng.choice(REASONS), rng.choice(OFFERS)]
    return " ".join(p for p in parts if p)
