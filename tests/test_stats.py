"""Every figure is worked out by hand here, or taken from the paper that the docstring names."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sirl.stats import (
    auroc,
    auroc_interval,
    bootstrap_mean_difference,
    clustered_change,
    clustered_factor,
    cohens_d,
    group_difference,
    mann_whitney,
    mcnemar,
    mean_share,
    paired_difference,
    ratio_interval,
    spearman,
    wilson_interval,
)


def test_paired_difference() -> None:
    found = paired_difference(15, 0, 40)
    half = 1.959964 * math.sqrt(16 / 42 - (15 / 42) ** 2) / math.sqrt(42)  # (0.5 + 15.5) / 42, (0.5 - 15.5) / 42
    assert found.value == -15 / 40
    assert (found.low, found.high) == (
        pytest.approx(-15 / 42 - half, abs=1e-6),
        pytest.approx(-15 / 42 + half, abs=1e-6),
    )
    same = paired_difference(0, 0, 200)
    assert (same.value, same.low) == (0.0, pytest.approx(-same.high))
    assert 0.005 < same.high < 0.015
    assert paired_difference(0, 2, 2).high == 1.0
    with pytest.raises(ValueError, match="lost \\+ gained <= n"):
        paired_difference(3, 3, 5)


def test_wilson_by_hand() -> None:
    """8 of 10, z = 1.96: centre (0.8 + 3.8416/20) / 1.38416 = 0.71674, half 1.96/1.38416 * sqrt(0.016 + 0.009604)."""
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.71674 - 1.41602 * math.sqrt(0.025604), abs=2e-4)
    assert high == pytest.approx(0.71674 + 1.41602 * math.sqrt(0.025604), abs=2e-4)


def test_wilson_edges() -> None:
    """None of n: high = z^2 / (n + z^2)."""
    assert wilson_interval(0, 10) == (0.0, pytest.approx(3.8415 / 13.8415, abs=1e-4))
    assert wilson_interval(10, 10) == (pytest.approx(10 / 13.8415, abs=1e-4), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    narrow, wide = wilson_interval(5, 10, level=0.5), wilson_interval(5, 10, level=0.99)
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_wilson_refuses_nonsense(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(k, n)


def test_level_out_of_range() -> None:
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level"):
            wilson_interval(1, 2, level)
        with pytest.raises(ValueError, match="level"):
            bootstrap_mean_difference([1.0], [2.0], level)


def test_bootstrap_difference_has_the_width_of_the_normal_theory() -> None:
    """Two samples of 400 with variance 1: standard error sqrt(2/400) = 0.0707, so the interval is 0.277 wide."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(2.0, 1.0, 400), rng.normal(1.5, 1.0, 400)
    a, b = (a - a.mean()) / a.std() + 2.0, (b - b.mean()) / b.std() + 1.5
    difference, low, high = bootstrap_mean_difference(a, b, n_resamples=4000)
    assert difference == pytest.approx(0.5)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2 / 400), rel=0.05)


def test_bootstrap_is_seeded_and_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 50))
    first = bootstrap_mean_difference(a, b, seed=3)
    assert first == bootstrap_mean_difference(a, b, seed=3)
    assert first != bootstrap_mean_difference(a, b, seed=4)
    monkeypatch.setattr("sirl.stats._RESAMPLES_AT_ONCE", 350)
    assert bootstrap_mean_difference(a, b, seed=3) == first


def test_bootstrap_of_constants_is_a_point() -> None:
    assert bootstrap_mean_difference([2.0, 2.0], [1.0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("bad", [[], [float("nan")], [float("inf"), 1.0]])
def test_samples_must_be_finite_and_not_empty(bad: list[float]) -> None:
    for function in (mann_whitney, auroc, cohens_d, bootstrap_mean_difference):
        with pytest.raises(ValueError, match="sample"):
            function(bad, [1.0])
        with pytest.raises(ValueError, match="sample"):
            function([1.0], bad)


def test_mann_whitney_by_hand() -> None:
    """{1, 2, 3} against {4, 5, 6}: no pair is above, and 2 of the C(6, 3) = 20 orders are as extreme: p = 0.1."""
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == (0.0, pytest.approx(0.1))
    assert mann_whitney([4, 5, 6], [1, 2, 3]) == (9.0, pytest.approx(0.1))
    assert mann_whitney([1, 3], [2, 4])[0] == 1.0  # only 3 is above 2
    assert mann_whitney([1, 1, 1], [1, 1]) == (3.0, 1.0)  # ties count half, and nothing differs


def test_auroc_by_hand() -> None:
    """Pairs with a above b: 3>2, 5>2, 5>4 of six; ties half."""
    assert auroc([1, 3, 5], [2, 4]) == pytest.approx(3 / 6)
    assert auroc([2, 3], [1]) == 1.0
    assert auroc([1, 2], [2]) == pytest.approx(0.25)


def test_auroc_is_u_over_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40).astype(float), rng.integers(0, 9, 30).astype(float)
    assert auroc(a, b) == pytest.approx(mann_whitney(a, b)[0] / (40 * 30))


def test_cohens_d_by_hand() -> None:
    """{2, 4} and {1, 3}: squared deviations 2 + 2 over 2 degrees of freedom = 2, so d = 1 / sqrt(2)."""
    assert cohens_d([2, 4], [1, 3]) == pytest.approx(1 / math.sqrt(2))
    assert cohens_d([1, 3], [2, 4]) == pytest.approx(-1 / math.sqrt(2))
    assert math.isnan(cohens_d([1, 1], [2, 2]))
    assert math.isnan(cohens_d([1], [2]))


def test_spearman_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * 2 / (4 * 15) = 0.8."""
    assert spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 2], [5, 5]))
    assert math.isnan(spearman([1], [5]))


def test_mcnemar_by_hand() -> None:
    """1 against 9: 2 * (C(10, 0) + C(10, 1)) / 2^10 = 22 / 1024."""
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(9, 1) == pytest.approx(22 / 1024)
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(ValueError, match="counts"):
        mcnemar(-1, 2)


def test_ratio_interval_of_koopmans_example() -> None:
    """36 of 40 against 16 of 80: Koopman (1984) gives 2.94 to 7.15."""
    low, high = ratio_interval(36, 40, 16, 80)
    assert (low, high) == (pytest.approx(2.94, abs=0.005), pytest.approx(7.15, abs=0.005))


def test_ratio_interval_turned_round_is_the_inverse() -> None:
    low, high = ratio_interval(30, 90, 7, 85)
    assert ratio_interval(7, 85, 30, 90) == (pytest.approx(1 / high), pytest.approx(1 / low))


def test_ratio_interval_with_zeros() -> None:
    low, high = ratio_interval(20, 40, 0, 40)
    assert low > 5
    assert high == math.inf
    assert ratio_interval(0, 40, 20, 40) == (0.0, pytest.approx(1 / low))
    assert ratio_interval(0, 5, 0, 5) == (0.0, math.inf)
    # more attacks without a single success say more
    assert ratio_interval(200, 400, 0, 400)[0] > 5 * low


def test_ratio_interval_at_its_edges() -> None:
    for low, high in (ratio_interval(9, 9, 9, 9), ratio_interval(1, 1, 1, 1), ratio_interval(500, 800, 500, 800)):
        assert low < 1 < high
        assert low * high == pytest.approx(1)
    low, high = ratio_interval(400, 800, 20, 800)
    assert 12 < low < 20 < high < 32  # factor 20; the log method gives 12.9 to 30.9
    for k, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="successes"):
            ratio_interval(1, 2, k, n)


def test_ratio_interval_covers() -> None:
    """Rates 0.4 and 0.1 of 60 each: the 90% interval holds the true factor 4 in about 90% of 600 experiments."""
    rng = np.random.default_rng(0)
    pairs = zip(rng.binomial(60, 0.4, 600), rng.binomial(60, 0.1, 600), strict=True)
    held = [low <= 4 <= high for low, high in (ratio_interval(int(a), 60, int(b), 60, level=0.9) for a, b in pairs)]
    assert 0.86 < np.mean(held) < 0.94


def test_group_difference_equals_the_difference_of_means() -> None:
    estimate = group_difference([3.0, 5.0, 1.0, 2.0], [True, True, False, False], ["p", "q", "p", "q"])
    assert estimate.value == pytest.approx(4.0 - 1.5)
    assert estimate.low <= estimate.value <= estimate.high


def test_group_difference_with_single_clusters_is_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    values = np.concatenate([a, b])
    estimate = group_difference(values, [True] * 300 + [False] * 300, [str(i) for i in range(600)], n_resamples=4000)
    plain = bootstrap_mean_difference(a, b, n_resamples=4000)
    assert estimate.value == pytest.approx(plain[0])
    assert estimate.high - estimate.low == pytest.approx(plain[2] - plain[1], rel=0.08)


def test_group_difference_widens_for_repeated_draws() -> None:
    """Every value 16 times in its cluster adds no knowledge, but makes the plain bootstrap 4 times narrower."""
    rng = np.random.default_rng(6)
    base = rng.normal(0, 1, 80)
    values, in_a = np.repeat(base, 16), np.repeat(np.arange(80) < 40, 16)
    clusters = [str(i) for i in np.repeat(np.arange(80), 16)]
    estimate = group_difference(values, in_a.tolist(), clusters)
    _, low, high = bootstrap_mean_difference(values[in_a], values[~in_a])
    assert (estimate.high - estimate.low) / (high - low) == pytest.approx(4.0, rel=0.15)


def test_group_difference_takes_out_a_covariate() -> None:
    """value = 0.5 * group + 0.1 * length, and group a is longer by 10: raw difference 1.5, at equal length 0.5."""
    length = np.array([float(i % 5) + (10.0 if i < 50 else 0.0) for i in range(100)])
    in_a = [i < 50 for i in range(100)]
    values = 0.5 * np.array(in_a) + 0.1 * length
    clusters = [str(i) for i in range(100)]
    assert group_difference(values, in_a, clusters).value == pytest.approx(1.5)
    adjusted = group_difference(values, in_a, clusters, covariate=length)
    assert (adjusted.value, adjusted.low, adjusted.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)
    constant = group_difference(values, in_a, clusters, covariate=[7.0] * 100)
    assert constant.value == pytest.approx(1.5)


def test_group_difference_refuses_one_group() -> None:
    with pytest.raises(ValueError, match="both groups"):
        group_difference([1.0, 2.0], [True, True], ["p", "q"])
    with pytest.raises(ValueError, match="one length"):
        group_difference([1.0, 2.0], [True, False], ["p"])


def test_group_difference_leaves_out_resamples_without_a_group() -> None:
    """Two clusters, one of each group: half the resamples hold one cluster twice and say nothing."""
    estimate = group_difference([2.0, 1.0], [True, False], ["p", "q"])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.0, 1.0, 1.0))


def test_bootstrap_is_vectorised() -> None:
    rng = np.random.default_rng(0)
    values, in_a = rng.normal(size=4000), rng.random(4000) < 0.5
    start = time.process_time()
    group_difference(values, in_a.tolist(), [str(i // 8) for i in range(4000)], covariate=rng.random(4000))
    bootstrap_mean_difference(values[in_a], values[~in_a])
    assert time.process_time() - start < 3


class TestClusters:
    """Answers to one goal stand or fall together."""

    @staticmethod
    def uneven(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Hits and totals `(S, C)` of some strata and clusters, many of them without totals, shares at any level."""
        S, C = rng.integers(1, 6), rng.integers(1, 12)
        totals = rng.integers(0, 4, (S, C)) * (rng.random((S, C)) < rng.random())
        totals[0, 0] += 1
        shares = rng.beta(0.3, 0.3, (S, C)) ** rng.choice([0.05, 1, 20])
        return rng.binomial(totals, shares).astype(float), totals.astype(float)

    def test_a_mean_of_shares_lies_in_its_interval(self) -> None:
        rng = np.random.default_rng(1)
        for _ in range(300):
            hits, totals = self.uneven(rng)
            found = mean_share(hits, totals)
            known = totals.sum(1) > 0
            assert found.value == pytest.approx((hits.sum(1)[known] / totals.sum(1)[known]).mean())
            assert 0 <= found.low <= found.value <= found.high <= 1 + 1e-12
            assert found.high - found.low > 1e-3, "some width, whatever is seen"

    def test_a_mean_over_methods_of_uneven_size(self) -> None:
        """The review's case: 9 of 10 methods with few answers, one with many, pooled 95%, mean 50%."""
        hits = np.array([[1.0] * 20, [0.0] * 20])
        totals = np.array([[1.0] * 20, [0.0] * 19 + [1.0]])
        found = mean_share(hits, totals)
        assert found.value == 0.5
        assert found.low <= 0.5 <= found.high

    def test_strata_weigh_as_told(self) -> None:
        hits, totals = [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]] * 3
        assert mean_share(hits, totals, [0.5, 0.25, 0.25]).value == pytest.approx(0.5 + 0.125)

    def test_bootstrap_of_a_share_over_clusters(self) -> None:
        """Ten clusters that stand or fall whole, half of them: as ten answers and not as a hundred."""
        found = mean_share([[10.0 * (i % 2) for i in range(10)]], [[10.0] * 10])
        assert (found.low, found.high) == (pytest.approx(0.2, abs=0.05), pytest.approx(0.8, abs=0.05))

    def test_change_over_clusters_is_student_t_of_their_changes(self) -> None:
        """Of clusters of one size, that is scipy's one-sample t."""
        sums = [3.0, 1.0, 0.0, 2.0, -1.0]
        exact = scipy_stats.ttest_1samp([x / 4 for x in sums], 0.0)
        low, high = exact.confidence_interval()
        found = clustered_change(sums, [4.0] * 5)
        assert (found.value, found.p) == (0.25, pytest.approx(exact.pvalue))
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))

    def test_a_change_and_a_factor_lie_in_their_intervals(self) -> None:
        rng = np.random.default_rng(2)
        for _ in range(500):
            C = rng.integers(2, 12)
            sizes = rng.integers(1, 9, C).astype(float)
            before, after = (rng.binomial(sizes.astype(int), rng.beta(0.4, 0.4, C)).astype(float) for _ in range(2))
            for cautious in (False, True):
                found = clustered_change(after - before, sizes, cautious=cautious)
                assert found.value == pytest.approx((after - before).sum() / sizes.sum())
                assert -1 <= found.low <= found.value <= found.high <= 1
                assert 0 <= found.p <= 1
            if before.sum() and after.sum():
                low, high = clustered_factor(before, after, sizes)
                assert low <= before.sum() / after.sum() <= high

    def test_clusters_that_all_changed_alike_are_no_certainty(self) -> None:
        found = clustered_change([5.0] * 10, [5.0] * 10)
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low < 0.7
        assert found.p == pytest.approx(2 / 2**10)
        none = clustered_change([0.0] * 10, [5.0] * 10)
        assert none.high == pytest.approx(paired_difference(0, 0, 10).high)
        assert none.p == 1.0

    def test_a_cautious_change_of_single_pairs_is_that_of_agresti_and_min(self) -> None:
        cautious = clustered_change([1.0] * 3 + [-1.0] + [0.0] * 196, [1.0] * 200, cautious=True)
        assert cautious.high == pytest.approx(paired_difference(1, 3, 200).high, abs=5e-4), (
            "Student's t on 201 degrees is nearly normal"
        )
        assert clustered_change([0.0] * 5, [49.0] * 5, cautious=True).high > 0.3, "five requests are five"

    def test_a_factor_with_nothing_left_goes_by_clusters(self) -> None:
        low, high = clustered_factor([4.0] * 10, [0.0] * 10, [8.0] * 10)
        assert high == float("inf")
        assert low == pytest.approx(ratio_interval(5, 10, 0, 10)[0])

    @pytest.mark.parametrize(("sums", "sizes"), [([], []), ([1.0], [0.0]), ([1.0, 1.0], [1.0])])
    def test_nothing_to_go_by(self, sums: list[float], sizes: list[float]) -> None:
        with pytest.raises(ValueError, match=r"need|sample"):
            clustered_change(sums, sizes)
        with pytest.raises(ValueError, match="need"):
            mean_share([[0.0]], [[0.0]])


def test_auroc_counts_pairs_and_ties_half() -> None:
    found = auroc_interval([3.0, 1.0], [1.0, 0.0])
    assert found.value == 3.5 / 4
    assert found.low < found.value <= found.high
    whole = auroc_interval(np.arange(10.0) + 20, np.arange(10.0))
    assert (whole.value, whole.high) == (1.0, 1.0)
    assert whole.low < 0.8, "ten of ten is no certainty"
