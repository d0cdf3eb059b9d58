"""Model text made safe to show, and tokens put back together."""

from __future__ import annotations

import pytest

from report_runs import attack_rows, attempt, benign_rows
from sirl.report.samples import (
    ENTROPY_BOUNDS,
    MAX_CHARS,
    MAX_TOKENS,
    Sample,
    entropy_level,
    pick_samples,
    shown,
    token_spans,
    visible,
)
from sirl.results.load import attach_verdicts


def texts(response: str, tokens: list[str]) -> list[str]:
    return [span.text for span in token_spans(response, tokens, [0.5] * len(tokens))]


def test_tokens_stay_as_they_are() -> None:
    assert texts("Sure, I can", ["Sure", ",", " I", " can"]) == ["Sure", ",", " I", " can"]


def test_pieces_of_a_character_are_joined_and_read_from_the_response() -> None:
    spans = token_spans("a 🙂é.", ["a", " ", "\ufffd", "\ufffd\ufffd", "."], [1.0, 1.0, 1.0, 3.0, 0.0])
    assert [s.text for s in spans] == ["a", " ", "🙂é", "."]
    assert spans[2].entropy == 2.0


def test_pieces_of_a_character_before_the_end_of_turn() -> None:
    spans = token_spans("hi 🙂", ["hi", " ", "\ufffd", "\ufffd", "<|im_end|>"], [0.1] * 5)
    assert [s.text for s in spans] == ["hi", " ", "🙂", "<|im_end|>"]
    assert [s.special for s in spans] == [False, False, False, True]


def test_a_character_cut_by_the_length_limit() -> None:
    assert texts("hi \ufffd", ["hi", " ", "\ufffd"]) == ["hi", " ", "\ufffd"]


def test_byte_level_and_sentencepiece_spelling() -> None:
    assert texts("Hi you\né", ["Hi", "Ġyou", "Ċ", "Ã©"]) == ["Hi", " you", "\n", "é"]
    assert texts("Hi 🙂", ["Hi", "Ġ", "ðŁ", "ĻĤ"]) == ["Hi", " ", "🙂"]
    assert texts("Hi you", ["Hi", "▁you"]) == ["Hi", " you"]


def test_tokens_that_do_not_fit_the_response_are_still_shown() -> None:
    assert "".join(texts("something else", ["a", "\ufffd", "b"])) == "a\ufffdb"


@pytest.mark.parametrize("entropies", [(), (0.1,), (0.1, 0.2, 0.3)])
def test_without_an_entropy_for_each_token_the_response_is_whole(entropies: tuple[float, ...]) -> None:
    (span,) = token_spans("Sure, yes", ["Sure", ", yes"], entropies)
    assert (span.text, span.entropy) == ("Sure, yes", None)


def test_levels_of_shading() -> None:
    assert entropy_level(0.0) == 0
    assert entropy_level(ENTROPY_BOUNDS[0]) == 0
    assert entropy_level(99.0) == len(ENTROPY_BOUNDS)


def test_control_and_bidirectional_characters_are_shown() -> None:
    assert visible("a\x00b\x1b[31m\u202egnp.exe\u2066\x9b") == "a␀b␛[31m⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+009B⟩"
    assert visible("tab\tnew\nline é 🙂 👨\u200d👩\u200d👧 שלום") == "tab\tnew\nline é 🙂 👨\u200d👩\u200d👧 שלום"
    visible("\ud800 \udfff").encode("utf-8")  # lone surrogates could not be written


def test_a_long_response_is_cut_with_its_rest_counted() -> None:
    made, verdict = attempt("a", "g", "before", response="x" * 100_000, tokens=(), entropies=())
    got = shown(attach_verdicts([made], [verdict])[0])
    assert sum(len(s.text) for s in got.spans) == MAX_CHARS
    assert got.left_out == 100_000 - MAX_CHARS


def test_many_tokens_are_cut() -> None:
    made, verdict = attempt("a", "g", "before", response="x" * 1000, tokens=("x",) * 1000, entropies=(0.1,) * 1000)
    got = shown(attach_verdicts([made], [verdict])[0])
    assert len(got.spans) == MAX_TOKENS
    assert got.left_out == 1000 - MAX_TOKENS


def picked(rows: list[tuple], *, benign: bool = False) -> list[Sample]:
    return pick_samples(attach_verdicts([a for a, _ in rows], [v for _, v in rows]), benign=benign)


def test_samples_mix_outcomes_and_attacks_and_do_not_depend_on_order() -> None:
    rows = attack_rows(goals=30)
    got = picked(rows)
    assert {s.status for s in got} == {"fixed", "still broken", "held"}
    fixed = [s for s in got if s.status == "fixed"]
    assert len({s.attack for s in fixed}) == len(fixed) == 4
    assert got == picked(rows[::-1])
    for sample in fixed:
        assert sample.before is not None
        assert sample.after is not None
        assert (sample.before.outcome, sample.after.outcome) == ("full_compliance", "full_refusal")


def test_benign_samples_show_the_price() -> None:
    got = picked(benign_rows(), benign=True)
    assert [s.status for s in got] == ["newly refused"] * 3 + ["still answered"] * 2 + ["still refused"]


def test_samples_of_one_phase() -> None:
    got = picked([r for r in attack_rows(goals=5) if r[0].phase == "before"])
    assert {s.status for s in got} == {"still broken", "held"}
    assert all(s.after is None for s in got)
