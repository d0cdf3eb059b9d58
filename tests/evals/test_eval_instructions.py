"""Every rule on an answer that follows it and on one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from sirl.evals.instructions import RULES, follows

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["sea", "C++"]}, "By the SEA, in c++.", "By the sea."),
    "keywords:frequency": ({"keyword": "sea", "frequency": 2, "relation": "at least"}, "sea, Sea", "the sea"),
    "keywords:forbidden_words": ({"forbidden_words": ["sea"]}, "A seat.", "The Sea."),
    "keywords:letter_frequency": (
        {"letter": "o", "let_frequency": 2, "let_relation": "less than"},
        "One",
        "oo",
    ),
    "language:response_language": ({"language": "ru"}, "Это хлеб.", "This is bread."),
    "length_constraints:number_sentences": ({"num_sentences": 3, "relation": "less than"}, "A. B.", "A. B! C?"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb"),
    "length_constraints:nth_paragraph_first_word": (
        {"first_word": "Sea", "num_paragraphs": 2, "nth_paragraph": 2},
        "a\n\n'sea, it was",
        "a\n\nthe sea",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] [place]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, "Bye.\nP.P.S. Eat.", "Bye.\nP.S. Eat."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b\n**c**", "* a\n* b\n* c"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and **b**", "*a* and **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "PART", "num_sections": 2},
        "PART 1\na\nPART 2\nb",
        "Part 1\na\nPART 2",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<the sea>>\nText", "<< >>\nText"),
    "combination:two_responses": ({}, "one******two", "one******one"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So. "The end."', "The end. Really."),
    "startend:quotation": ({}, '"quoted"', 'a "quote"'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "THE SEA is blue",
        "THE sea",
    ),
    "change_case:english_capital": ({}, "ALL OF IT, 3.", "Not all"),
    "change_case:english_lowercase": ({}, "all of it, 3.", "Not all"),
    "punctuation:no_comma": ({}, "none here", "one, here"),
}


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    arguments, right, wrong = CASES[name]
    assert follows(name, arguments, "", right) is True
    assert follows(name, arguments, "", wrong) is False
    assert follows(name, arguments, "", " ") is False  # nothing said, nothing followed


def test_what_cannot_be_told() -> None:
    assert follows("new:kind", {}, "", "text") is None
    assert follows("language:response_language", {"language": "pt"}, "", "O pão.") is None
    assert follows("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "about"}, "", "a") is None
    assert follows("length_constraints:number_words", {"num_words": None}, "", "a") is None


def test_arguments_of_other_instructions_do_not_matter() -> None:
    assert follows("punctuation:no_comma", {"keywords": None, "num_words": 3}, "", "a") is True
    assert follows("combination:repeat_prompt", {}, "Say hi.", "Say hi. Hi!") is True
