"""Which sentence stands in most refusals, however it is worded."""

from __future__ import annotations

import random
import re
import time

import pytest

from sirl.diversity import (
    SAME_SENTENCE,
    _clusters,
    commonest_sentence,
    distinct_rate,
    repetition_rate,
    sameness,
    sentences,
)


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


def plain_clusters(texts: list[list[str]]) -> list[tuple[str, set[int], int]]:
    """Every new sentence against all clusters: what the index must not change."""
    clusters: list[dict] = []
    known: dict[str, dict] = {}
    for i, parts in enumerate(texts):
        for part in parts:
            key = " ".join(part.split()).casefold()
            if key not in known:
                words = set(re.findall(r"\w+", key))
                alike = (
                    c for c in clusters if words and len(c["words"] & words) / len(c["words"] | words) >= SAME_SENTENCE
                )
                found = next(alike, None)
                if found is None:
                    found = {"text": part, "words": words, "texts": set(), "wordings": 0}
                    clusters.append(found)
                found["wordings"] += 1
                known[key] = found
            known[key]["texts"].add(i)
    return [(c["text"], c["texts"], c["wordings"]) for c in clusters]


@pytest.mark.parametrize("seed", range(12))
def test_the_index_finds_what_comparing_with_all_finds(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(rng.choice([3, 8, 30, 200]))] + ["", "..."]
    weights = [1 / (i + 1) for i in range(len(words))]
    longest = rng.choice([2, 5, 12])
    sentence = lambda: " ".join(rng.choices(words, weights, k=rng.randint(0, longest)))  # noqa: E731
    texts = [[sentence() for _ in range(rng.randint(0, 6))] for _ in range(60)]
    assert [(c.text, c.texts, c.wordings) for c in _clusters(texts)] == plain_clusters(texts)


@pytest.mark.parametrize("words", [40, 3000])
def test_long_responses_take_seconds_and_not_minutes(words: int) -> None:
    """3,200 sentences, all different; compared pair by pair they take far longer."""
    rng = random.Random(0)
    texts = [". ".join(" ".join(f"w{rng.randrange(words)}" for _ in range(12)) for _ in range(25)) for _ in range(128)]
    start = time.process_time()
    sameness(texts, [i // 4 for i in range(128)])
    assert time.process_time() - start < 4


def test_repetition_rate() -> None:
    assert repetition_rate([1, 2, 3, 4, 5, 6]) == 0.0
    # 1 2 1 2 1 2 1 2 has 5 four-grams, of which (1 2 1 2) and (2 1 2 1) are different: 1 - 2/5
    assert repetition_rate([1, 2] * 4) == pytest.approx(0.6)
    assert repetition_rate([7] * 100) == pytest.approx(1 - 1 / 97)
    assert repetition_rate([1, 1, 1]) == repetition_rate([]) == 0.0, "too short to hold a four-gram"


def test_distinct_rate() -> None:
    assert distinct_rate(["a", "b", "a", "c"]) == 0.75
    assert distinct_rate(["a"] * 4) == 0.25
    assert distinct_rate([]) == 1.0
