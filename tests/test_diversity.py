"""Which sentence stands in most refusals, however it is worded."""

from __future__ import annotations

import pytest

from sirl.diversity import commonest_sentence, sameness, sentences


def test_sentences() -> None:
    assert sentences("I can't. Really!\nBye") == ["I can't.", "Really!", "Bye"]
    assert sentences(" \n ") == [""]


def test_wordings_of_one_sentence_count_together() -> None:
    texts = [
        "No. I can tell you how to stay safe instead.",
        "Sorry. I can tell you how to keep safe instead.",
        "Never! I can tell you how to stay   SAFE instead.",
        "No. Baking bread is more my thing.",
    ]
    top = commonest_sentence([sentences(t) for t in texts])
    assert (top.text, top.count, top.share) == ("I can tell you how to stay safe instead.", 3, 0.75)
    assert top.wordings == 2, "case and spacing aside"


def test_a_text_counts_once() -> None:
    top = commonest_sentence([["No."] * 5, ["Yes, of course."], ["Yes, of course, friend."]])
    assert (top.text, top.count) == ("Yes, of course.", 2)


def test_sentences_without_words_are_no_wordings_of_each_other() -> None:
    top = commonest_sentence([["..."], ["…"], ["..."]])
    assert (top.text, top.count, top.wordings) == ("...", 2, 1)


def test_no_texts() -> None:
    with pytest.raises(ValueError, match="no texts"):
        commonest_sentence([])


def test_sameness_is_the_share_of_the_other_groups() -> None:
    no = "Sorry, I cannot help you with that."
    texts = [no, f"{no} Ask me about bread.", "Flour, water, salt.", "Sorry, I can not help you with that!", no, "Rye."]
    assert sameness(texts, [0, 0, 1, 1, 2, 2]) == [2 / 4, 2 / 4, 0, 3 / 4, 3 / 4, 0]
    assert sameness([no, no], [0, 0]) == [0, 0], "nothing to be like"
    assert sameness([], []) == []
