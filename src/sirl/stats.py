"""Statistics of the measurements: intervals, tests and effect sizes, as pure functions of numbers.

Where two samples are compared, the first is `a`, and every sign and direction reads "a against b". Inputs that have no
answer (an empty sample, a level outside (0, 1)) raise ValueError; an answer that is not a number is `nan`. `mean_of`
alone takes empty samples, for tables with gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy import stats as scipy_stats

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | Floats

RESAMPLES = 2000
"""Resamples of `mean_share` and `auroc_interval`."""
_RESAMPLES_AT_ONCE = 1_000_000
"""Numbers drawn at once by the bootstrap: bounds its memory, not its result."""


def mean_of(values: Iterable[float]) -> float | None:
    """The mean; None where there are no values."""
    kept = list(values)
    return sum(kept) / len(kept) if kept else None


@dataclass(frozen=True)
class Estimate:
    """A value with its interval at the level asked for."""

    value: float
    low: float
    high: float


def wilson_interval(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927): sensible near 0 and 1 and for small `n`. (0, 1) for `n` = 0.

    `successes` need not be whole: a mean of shares over `n` units may stand for them.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n, got {successes} of {n}")
    z = _z(level)
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)))
    # at 0 and n the bound is exactly 0 or 1: rounding must not move it
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def mean_interval(values: Values, level: float = 0.95) -> Estimate:
    """Mean of independent values with Student's t interval; two values at least."""
    x = _sample(values)
    if len(x) < 2:
        raise ValueError("need two values or more")
    _z(level)
    half = float(scipy_stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def bootstrap_mean_difference(
    a: Values, b: Values, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high) of mean(a) - mean(b), percentile bootstrap (Efron, 1979).

    The observations of each sample must be independent; for repeated draws from one prompt use `group_difference`.
    """
    x, y = _sample(a), _sample(b)
    _z(level)
    rng = np.random.default_rng(seed)
    means = []
    for sample in (x, y):
        rows = max(1, _RESAMPLES_AT_ONCE // len(sample))
        parts = [min(rows, n_resamples - start) for start in range(0, n_resamples, rows)]
        means.append(np.concatenate([rng.choice(sample, (part, len(sample))).mean(axis=1) for part in parts]))  # (R,)
    low, high = _percentiles(means[0] - means[1], level)
    return float(x.mean() - y.mean()), low, high


def bootstrap_ratio(
    numerators: Values, denominators: Values, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """sum(numerators) / sum(denominators) over independent units, percentile bootstrap (Efron, 1979) over the units.

    For a mean over tokens whose texts are independent, and tokens of one text are not.
    """
    x, y = _sample(numerators), _sample(denominators)
    if len(x) != len(y) or not (y > 0).all():
        raise ValueError("need as many denominators as numerators, all above 0")
    _z(level)
    rng = np.random.default_rng(seed)
    rows = max(1, _RESAMPLES_AT_ONCE // len(x))
    parts = []
    for start in range(0, n_resamples, rows):
        drawn = rng.integers(0, len(x), (min(rows, n_resamples - start), len(x)))
        parts.append(x[drawn].sum(axis=1) / y[drawn].sum(axis=1))
    low, high = _percentiles(np.concatenate(parts), level)
    return Estimate(float(x.sum() / y.sum()), low, high)


def group_difference(
    values: Values,
    in_a: Sequence[bool],
    clusters: Sequence[str],
    covariate: Values | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of the values in group a minus that of the others, with a bootstrap over clusters.

    Whole clusters are drawn with replacement (Davison and Hinkley, 1997, section 3.8), because values of one cluster,
    such as the samples of one prompt, are not independent. With a `covariate` the difference is the coefficient of the
    group in a linear regression of the values on group and covariate: what is left at equal covariate. Resamples
    without either group are left out.
    """
    y = _sample(values)
    a = np.asarray(in_a, dtype=np.float64)
    columns = [np.ones_like(y), a]
    if covariate is not None:
        length = _sample(covariate)
        columns.append(length - length.mean())
    X = np.stack(columns, axis=1)  # (N, K)
    _, index = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    if not len(y) == len(a) == len(index) == len(X) or a.sum() in (0, len(a)):
        raise ValueError("need values, groups and clusters of one length, and members in both groups")
    C, K = int(index.max()) + 1, X.shape[1]
    gram, moment = np.zeros((C, K, K)), np.zeros((C, K))
    np.add.at(gram, index, X[:, :, None] * X[:, None, :])
    np.add.at(moment, index, X * y[:, None])
    _z(level)
    weights = np.random.default_rng(seed).multinomial(C, np.full(C, 1 / C), size=n_resamples)  # (R, C)
    grams = np.tensordot(weights, gram, axes=1)  # (R, K, K)
    whole = (grams[:, 0, 1] > 0) & (grams[:, 0, 1] < grams[:, 0, 0])  # both groups are there
    drawn = _group_coefficient(grams[whole], np.tensordot(weights, moment, axes=1)[whole])
    low, high = _percentiles(drawn, level) if len(drawn) else (np.nan, np.nan)
    return Estimate(float(_group_coefficient(gram.sum(0)[None], moment.sum(0)[None])[0]), low, high)


def _group_coefficient(grams: Floats, moments: Floats) -> Floats:
    """Least squares from normal equations (R, K, K), (R, K): the coefficient of column 1, as (R,)."""
    # the pseudo-inverse serves resamples in which the covariate is constant or separates the groups
    return np.asarray(np.einsum("rk,rk->r", np.linalg.pinv(grams, hermitian=True)[:, 1], moments))


def mean_share(hits: Any, totals: Any, weights: Values | None = None, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean over strata of hits / totals, both `(S, C)` over strata and clusters, with a bootstrap over clusters.

    A stratum is an attack, say, and a cluster a goal that every attack was tried on: clusters are drawn whole, with all
    strata (Davison and Hinkley, 1997, section 3.8). Strata weigh by `weights` `(S,)`, by default alike; those without
    totals are left out, in a resample too. Where resampling shows no spread, since all clusters are alike, the interval
    is Wilson's for as many units as there are clusters. It always holds the value.

    Raises:
        ValueError: the shapes differ, or there are no totals.
    """
    h, t = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (hits, totals))
    if h.shape != t.shape or not (t.sum() > 0):
        raise ValueError("need hits and totals of one shape, and totals above 0")
    _z(level)
    strata, clusters = t.sum(1) > 0, t.sum(0) > 0
    w = np.ones(len(h)) if weights is None else np.asarray(weights, dtype=np.float64)
    h, t, w = h[strata][:, clusters], t[strata][:, clusters], w[strata]
    C = t.shape[1]
    drawn = _resamples(C, seed)  # (R, C)
    value = float(_weighted_shares(h.sum(1)[None], t.sum(1)[None], w)[0])
    shares = _weighted_shares(drawn @ h.T, drawn @ t.T, w)
    low, high = _percentiles(shares, level)
    if high - low < 1e-12:
        low, high = wilson_interval(min(max(value, 0.0), 1.0) * C, C, level)
    return Estimate(value, min(low, value), max(high, value))


@lru_cache(maxsize=8)
def _resamples(clusters: int, seed: int) -> Floats:
    """How often each cluster is drawn, `(R, C)`: the same for every figure over as many clusters, so made once."""
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES)
    return np.asarray(drawn, dtype=np.float64)


def _weighted_shares(hits: Floats, totals: Floats, weights: Floats) -> Floats:
    """Weighted mean over strata of (R, S) / (R, S), as (R,); every row has a total, and strata without one no say."""
    known = np.where(totals > 0, weights, 0.0)
    shares = hits / np.where(totals > 0, totals, 1.0)
    return np.asarray((shares * known).sum(1) / known.sum(1))


@dataclass(frozen=True)
class Change(Estimate):
    """A mean change with its interval and the two-sided p of no change."""

    p: float


def clustered_change(sums: Values, sizes: Values, level: float = 0.95, cautious: bool = False) -> Change:
    """Mean change over units that come in clusters: sum(sums) / sum(sizes), each unit's change within [-1, 1].

    The interval is that of a ratio of means over independent clusters (Cochran, 1977, section 6.5) with Student's t on
    one degree of freedom less than there are clusters. With few clusters this keeps its level where a percentile
    bootstrap over clusters rejects too often (Cameron, Gelbach and Miller, 2008), and a test that takes the units as
    independent far too often. Where all clusters changed alike, it is that of Agresti and Min over clusters.

    `cautious` adds two clusters of mean size that changed by the root of 1/2, up and down, which is what the pairs that
    Agresti and Min (2005) add come to: for a cost, of which a few clusters without any prove nothing.

    Raises:
        ValueError: no clusters, or an empty one.
    """
    d, n = _sample(sums), _sample(sizes)
    if len(d) != len(n) or not (n > 0).all():
        raise ValueError("need as many sums as sizes, all sizes above 0")
    value, G = float(d.sum() / n.sum()), len(d)
    up, down = int((d > 0).sum()), int((d < 0).sum())
    if np.ptp(d / n) < 1e-12 and not cautious:
        found = paired_difference(max(-value, 0.0) * G, max(value, 0.0) * G, G, level)
        return Change(value, min(found.low, value), max(found.high, value), mcnemar(up, down))
    if cautious:
        step = n.mean() * np.sqrt(0.5)
        d, n = np.append(d, [step, -step]), np.append(n, [n.mean(), n.mean()])
    centre = float(d.sum() / n.sum())
    error = float(np.sqrt(len(d) / (len(d) - 1) * ((d - centre * n) ** 2).sum()) / n.sum())
    half = float(scipy_stats.t.ppf((1 + level) / 2, len(d) - 1)) * error
    p = float(2 * scipy_stats.t.sf(abs(centre) / error, len(d) - 1))
    _z(level)
    return Change(value, min(max(-1.0, centre - half), value), max(min(1.0, centre + half), value), p)


def clustered_factor(before: Values, after: Values, sizes: Values, level: float = 0.95) -> tuple[float, float]:
    """Interval of sum(before) / sum(after), counts over the same units in clusters, `sizes` of them in each.

    The log of the ratio, linearised over independent clusters, with Student's t (as `clustered_change`). Where nothing
    is left on one side, or all clusters are alike, Koopman's interval with the clusters as units.
    """
    b, a, n = _sample(before), _sample(after), _sample(sizes)
    B, A, G = float(b.sum()), float(a.sum()), len(b)
    if A > 0 and B > 0 and G > 1:
        influence = b / B - a / A
        error = float(np.sqrt(G / (G - 1) * (influence**2).sum()))
        if error > 1e-12:
            half = float(scipy_stats.t.ppf((1 + level) / 2, G - 1)) * error
            return float(np.exp(np.log(B / A) - half)), float(np.exp(np.log(B / A) + half))
    units = G / float(n.sum())
    return ratio_interval(min(B * units, G), G, min(A * units, G), G, level)


def mann_whitney(a: Values, b: Values) -> tuple[float, float]:
    """(U of a, two-sided p) of the Mann-Whitney test: U counts the pairs with a above b.

    Ties count half. Exact for small samples without ties, else the normal approximation with corrections for ties and
    continuity.
    """
    x, y = _sample(a), _sample(b)
    result = scipy_stats.mannwhitneyu(x, y, alternative="two-sided", method="auto")
    p = float(result.pvalue)
    return float(result.statistic), 1.0 if np.isnan(p) else p  # all values equal: nothing speaks against equality


def auroc(a: Values, b: Values) -> float:
    """Probability that a random value of a is above a random one of b, ties half: U / (|a| |b|)."""
    x, y = _sample(a), _sample(b)
    ranks = scipy_stats.rankdata(np.concatenate([x, y]))
    return float((ranks[: len(x)].sum() - len(x) * (len(x) + 1) / 2) / (len(x) * len(y)))


def auroc_interval(a: Values, b: Values, level: float = 0.95, seed: int = 0) -> Estimate:
    """`auroc` with its interval: a bootstrap over the values of both samples.

    Where resampling shows no spread, since the samples do not overlap, Wilson's for as many values as the smaller has.
    """
    x, y = _sample(a), _sample(b)
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])  # (A, B)
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in wins.shape]
    value = float(wins.mean())
    low, high = _percentiles(np.einsum("ra,ab,rb->r", drawn[0], wins, drawn[1], optimize=True), level)
    if high - low < 1e-9:
        low, high = wilson_interval(value * min(wins.shape), min(wins.shape), level)
    return Estimate(value, min(low, value), max(high, value))


def cohens_d(a: Values, b: Values) -> float:
    """Standardised difference of means with the pooled standard deviation; nan without spread."""
    x, y = _sample(a), _sample(b)
    degrees = len(x) + len(y) - 2
    if degrees < 1:
        return float("nan")
    pooled = (((x - x.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum()) / degrees
    return float((x.mean() - y.mean()) / np.sqrt(pooled)) if pooled > 0 else float("nan")


def spearman(x: Values, y: Values) -> float:
    """Rank correlation; nan where one side is constant."""
    u, v = _sample(x), _sample(y)
    if len(u) < 2 or np.ptp(u) == 0 or np.ptp(v) == 0:
        return float("nan")
    return float(np.corrcoef(scipy_stats.rankdata(u), scipy_stats.rankdata(v))[0, 1])


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p of McNemar's test from the discordant pairs: `b` changed one way, `c` the other.

    The binomial test of b in b + c at 1/2; 1 where nothing changed.
    """
    if b < 0 or c < 0:
        raise ValueError(f"need counts of pairs, got {b} and {c}")
    return float(scipy_stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def paired_difference(lost: float, gained: float, n: int, level: float = 0.95) -> Estimate:
    """(gained - lost) / n, the change of a rate over n pairs, with the interval of Agresti and Min (2005).

    That of Wald with half a pair added to each of the four cells: it keeps a width where no pair changed, which a
    bootstrap over the pairs would not.
    """
    if min(lost, gained) < 0 or lost + gained > n or n == 0:
        raise ValueError(f"need lost + gained <= n and n > 0, got {lost}, {gained} and {n}")
    centre = (gained - lost) / (n + 2)
    half = _z(level) * float(np.sqrt((lost + gained + 1) / (n + 2) - centre**2) / np.sqrt(n + 2))
    return Estimate((gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half))


def ratio_interval(k1: float, n1: int, k2: float, n2: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of the ratio of two rates, (k1 / n1) / (k2 / n2) (Koopman, 1984).

    With attack successes before (`k1` of `n1`) and after (`k2` of `n2`) this is the interval of the vulnerability
    reduction factor. Zeros need no correction: no success after gives (low, inf), none before (0, high), none at all
    (0, inf). It treats the two rates as independent, which is wider than needed for the same prompts before and after.
    """
    for k, n in ((k1, n1), (k2, n2)):
        if not 0 <= k <= n or n == 0:
            raise ValueError(f"need 0 <= successes <= n and n > 0, got {k} of {n}")
    limit = _z(level) ** 2
    if k1 == 0 and k2 == 0:
        return 0.0, float("inf")
    # The statistic falls to 0 at the estimate and rises without end on both sides of it: one root on each
    estimate = np.log((k1 or 0.5) / n1) - np.log((k2 or 0.5) / n2)

    def excess(log_ratio: float) -> float:
        return _koopman(float(np.exp(log_ratio)), k1, n1, k2, n2) - limit

    bounds = []
    for side, open_end in ((-1.0, k1 == 0), (1.0, k2 == 0)):
        if open_end:
            bounds.append(side * float("inf"))
            continue
        inner = estimate + (0.0 if excess(estimate) < 0 else -side * 30.0)
        bounds.append(optimize.brentq(excess, inner, estimate + side * 30.0, xtol=1e-10))
    return float(np.exp(bounds[0])), float(np.exp(bounds[1]))


def _koopman(ratio: float, k1: float, n1: int, k2: float, n2: int) -> float:
    """Chi-squared of the hypothesis p1 = ratio * p2 (Koopman, 1984, equations 2.1 to 2.3)."""
    # p1 under the hypothesis is the smaller root of a quadratic, written so that it does not cancel
    first = ratio * (n1 + k2) + k1 + n2
    root = np.sqrt(max(0.0, first**2 - 4 * ratio * (n1 + n2) * (k1 + k2)))
    p1 = 2 * ratio * (k1 + k2) / (first + root)
    p2 = p1 / ratio
    total = 0.0
    for k, n, p in ((k1, n1, p1), (k2, n2, p2)):
        variance = n * p * (1 - p)
        residual = (k - n * p) ** 2
        total += residual / variance if variance > 1e-300 else (0.0 if residual < 1e-12 else float("inf"))
    return float(total)


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return float(scipy_stats.norm.ppf((1 + level) / 2))


def _sample(values: Values) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError("need a flat, non-empty sample of finite numbers")
    return x


def _percentiles(drawn: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
