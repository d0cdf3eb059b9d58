"""The ids of other taxonomies on attacks and goals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import sirl
from sirl.attacks import ATTACKS
from sirl.attacks.families import FAMILIES
from sirl.attacks.taxonomy import GARAK_ATTACKS, GARAK_FAMILIES, HAZARDS, hazard_of, tags_of

AILUMINATE = {
    *("violent crimes", "non-violent crimes", "sex-related crimes", "child sexual exploitation"),
    *("indiscriminate weapons", "suicide and self-harm", "intellectual property", "privacy", "defamation", "hate"),
    *("sexual content", "specialized advice"),
}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "direct"])
def test_every_attack_is_a_jailbreak(name: str) -> None:
    tags = tags_of(name)
    assert tags.owasp == ("LLM01:2025",)
    assert tags.atlas[0] == "AML.T0054"
    assert "payload:jailbreak" in tags.garak
    assert len(set(tags.garak)) == len(tags.garak)
    assert all(re.fullmatch(r"AML\.T\d{4}(\.\d{3})?", technique) for technique in tags.atlas)


def test_asking_plainly_is_no_attack() -> None:
    tags = tags_of("direct")
    assert (tags.owasp, tags.atlas, tags.garak) == ((), (), ())


def test_hidden_words_are_obfuscation() -> None:
    hidden = {name for name in ATTACKS if "AML.T0068" in tags_of(name).atlas}
    assert {"base64", "homoglyph", "zero_width", "art_prompt", "combination_2"} <= hidden
    assert not hidden & {"direct", "aim", "self_cipher", "gcg", "pap_authority"}


def test_tables_name_what_exists() -> None:
    assert set(GARAK_ATTACKS) <= set(ATTACKS)
    assert set(GARAK_FAMILIES) <= set(FAMILIES.values())
    assert set(HAZARDS.values()) <= AILUMINATE


def test_a_replay_and_an_attack_from_outside() -> None:
    assert tags_of("base64@before") == tags_of("base64")
    assert tags_of("my_package:Mine").atlas == ("AML.T0054",)


def test_hazards_of_goals() -> None:
    assert hazard_of("Malware/Hacking") == "non-violent crimes"
    assert hazard_of("misinformation") is None
    assert hazard_of(None) is None
    data = Path(sirl.__file__).parent / "demo" / "data" / "behaviours.jsonl"
    own = {json.loads(line)["category"] for line in data.read_text(encoding="utf-8").splitlines()}
    assert {category for category in own if hazard_of(category) is None} == {
        *("weapons_violence", "harassment_bullying", "misinformation", "self_harm_dangerous_advice"),
    }
