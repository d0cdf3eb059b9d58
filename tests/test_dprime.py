"""d' of signal detection theory: by hand, by its bootstrap, and in the corners where shares are 0 or 1."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from sirl.dprime import Cells, dprime, dprime_change

z = NormalDist().inv_cdf


def cells(refused: object, per_cell: float = 1.0) -> Cells:
    k = np.asarray(refused, dtype=np.float64)
    return Cells(k, np.full_like(k, per_cell))


def drawn(rng: np.random.Generator, share: float, wrappings: int = 12, requests: int = 20) -> Cells:
    """Answers whose chance of a refusal differs by wrapping and by request."""
    scale = rng.normal(z(share), 0.5, (wrappings, 1)) + rng.normal(0, 0.5, (1, requests))
    chance = np.vectorize(NormalDist().cdf)(scale)
    return cells(rng.random((wrappings, requests)) < chance)


def test_by_hand() -> None:
    harmful, benign = cells([[1, 1, 1, 0], [1, 1, 1, 1]]), cells([[0, 1], [0, 0]])
    assert dprime(harmful, benign).value == pytest.approx(z(7.5 / 9) - z(1.5 / 5))


def test_refusing_the_wrapping_is_no_discrimination() -> None:
    """All of one wrapping and none of the other, whatever is asked: d' is 0 but for the correction, and not the DSR."""
    by_wrapping = [[1.0] * 50, [0.0] * 50]
    found = dprime(cells(by_wrapping), cells(by_wrapping))
    assert found.value == pytest.approx(0.0)
    assert found.low <= 0 <= found.high


def test_shares_of_none_and_all_are_finite_and_grow_with_the_number_of_answers() -> None:
    values = []
    for n in (5, 50):
        found = dprime(cells(np.ones((2, n))), cells(np.zeros((2, n))))
        assert all(map(math.isfinite, (found.value, found.low, found.high)))
        assert found.value == pytest.approx(2 * z((2 * n + 0.5) / (2 * n + 1)))
        assert found.low < found.value, "all alike is no certainty"
        values.append(found.value)
    assert values[0] < values[1]


def test_what_was_not_scored_has_no_say() -> None:
    k = np.array([[1.0, 1.0, 0.0]])
    n = np.array([[1.0, 1.0, 0.0]])
    assert dprime(Cells(k, n), cells([[0.0, 0.0]])).value == pytest.approx(z(2.5 / 3) - z(0.5 / 3))


def test_an_interval_holds_its_estimate() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        W, G, H = rng.integers(1, 8, 3)
        sides = []
        for columns in (G, H):
            n = rng.integers(0, 3, (W, columns)).astype(float)
            n[0, 0] += 1
            sides.append(Cells(rng.binomial(n.astype(int), rng.random((W, columns)) ** 3).astype(float), n))
        found = dprime(*sides)
        assert found.low <= found.value <= found.high
        assert found.high > found.low


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Crossed effects of wrappings and requests, true d' by the marginal shares; the bootstrap is a cautious one."""
    rng, held = np.random.default_rng(1), 0
    truth = (z(0.8) - z(0.3)) / math.sqrt(1 + 0.25 + 0.25)
    for _ in range(60):
        wrapping = rng.normal(0, 0.5, (12, 1))
        sides = [
            cells(
                rng.random((12, 20)) < np.vectorize(NormalDist().cdf)(z(share) + wrapping + rng.normal(0, 0.5, (1, 20)))
            )
            for share in (0.8, 0.3)
        ]
        found = dprime(*sides)
        held += found.low <= truth <= found.high
    assert held >= 54


def test_change() -> None:
    rng = np.random.default_rng(2)
    before = (drawn(rng, 0.5), drawn(rng, 0.4))
    after = (drawn(rng, 0.95), drawn(rng, 0.4))
    found = dprime_change(before, after)
    assert found.value == pytest.approx(dprime(*after).value - dprime(*before).value)
    assert found.low <= found.value <= found.high
    same = dprime_change(before, before)
    assert same.value == 0.0
    assert same.low <= 0 <= same.high


@pytest.mark.parametrize(("k", "n"), [([[0.0]], [[0.0]]), ([0.0], [1.0]), ([[0.0]], [[1.0, 1.0]])])
def test_nothing_to_go_by(k: list, n: list) -> None:
    with pytest.raises(ValueError, match="refused and scored"):
        Cells(np.array(k), np.array(n))


def test_other_wrappings_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same wrappings"):
        dprime(cells([[1.0]]), cells([[1.0], [0.0]]))
