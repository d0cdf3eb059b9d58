"""Final answers of maths and code: found where models leave them, equal where they mean the same."""

from __future__ import annotations

import pytest

from sirl.evals.answers import final_answer, program, same_number, same_value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First 3, then 4.\nAnswer: 12", "12"),
        ("**Answer:** $\\frac{1}{2}$", "$\\frac{1}{2}$"),
        ("Answer: 3\nNo, that is wrong.\nAnswer: -5", "-5"),
        ("So the answer is 7 apples.", "7 apples."),
        ("So it is \\boxed{\\frac{1}{2}} in all.", "\\frac{1}{2}"),
        ("The final answer is $\\boxed{x^{2}}$.", "x^{2}"),
        ("2 + 2 is 4, and 4 + 1 is 5.", "5"),
        ("3 * 4 = 12\n#### 12", "12"),
        ("I do not know.", ""),
        ("\\boxed{never closed", ""),
        ("Answers vary.", ""),
    ],
)
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1,000", "1000"),
        ("$\\frac{1}{2}$", "0.5"),
        ("1/2", "\\dfrac12"),
        ("-\\frac{1}{2}", "-0.5"),
        ("12 \\text{ gm}", "12"),
        ("86^\\circ", "86"),
        ("50\\%", "50"),
        ("\\$15.48", "15.48"),
        ("\\text{odd}", "odd"),
        ("9, -7", "9,-7"),
        ("x = -1", "-1"),
        ("\\left( 3, \\infty \\right)", "(3,\\infty)"),
        ("(C)", "\\text{(C)}"),
        ("\\(12\\).", "12"),
        ("2\\sqrt3", "2 \\sqrt{3}"),
    ],
)
def test_same_value(given: str, expected: str) -> None:
    assert same_value(given, expected)
    assert same_value(expected, given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("3,11", "311"), ("5\\frac{1}{2}", "25.5"), ("12", "-12"), ("", ""), ("1/0", "1"), ("2\\pi", "2"), ("9,8", "8,9")],
)
def test_other_value(given: str, expected: str) -> None:
    assert not same_value(given, expected)


def test_same_number() -> None:
    assert same_number("Answer: $1,200 in all", " 1200")
    assert same_number("Answer: -3 degrees", "-3")
    assert same_number("They have 3 + 4 = 7.", "7")
    assert not same_number("Answer: 12", "13")
    assert not same_number("No idea.", "13")


def test_program() -> None:
    assert program("Here:\n```python\nx = 1\n```\nand\n```\ny = 2\n```") == "x = 1\n"
    assert program("```sh\nls\n```\n```\nx = 1\n```") == "x = 1\n"
    assert program("```py\nx = 1\n") == "x = 1\n"  # cut at the length limit
    assert program("x = 1") == "x = 1"
