"""Adjusted p-values and simultaneous intervals: R's numbers, one-dimensional integrals, coverage; letters; weights."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bayeslmm.backtransform import transformation_of
from bayeslmm.comparisons import coding
from bayeslmm.errors import MethodError
from bayeslmm.letters import letters
from bayeslmm.multiplicity import METHODS, Family, adjust

EQUAL = np.full((3, 3), 0.5) + 0.5 * np.eye(3)


def family(t, df, means=0, correlation=None):
    t = np.atleast_1d(np.asarray(t, float))
    df = np.broadcast_to(np.asarray(df, float), t.shape)
    return Family(t, df, means, np.eye(len(t)) if correlation is None else correlation)


@pytest.mark.parametrize("method", ["holm", "bonferroni", "bh"])
def test_adjustments_of_p_alone(method):
    # R 4.2.2: p.adjust(c(.01, .02, .03, .04, .5, .0001), ...)
    expected = {
        "holm": [0.05, 0.08, 0.09, 0.09, 0.5, 0.0006],
        "bonferroni": [0.06, 0.12, 0.18, 0.24, 1.0, 0.0006],
        "bh": [0.03, 0.04, 0.045, 0.048, 0.5, 0.0006],
    }[method]
    t = stats.t.isf(np.array([0.01, 0.02, 0.03, 0.04, 0.5, 0.0001]) / 2, 17.5)
    np.testing.assert_allclose(adjust(family(t, 17.5), method).p, expected, rtol=1e-9)


def test_sidak_and_its_interval():
    found = adjust(family([2.0, 0.3, -3.0], [5.5, 20, np.inf]), "sidak")
    raw = 2 * stats.t.sf([2.0, 0.3, 3.0], [5.5, 20, np.inf])
    np.testing.assert_allclose(found.p, 1 - (1 - raw) ** 3, rtol=1e-9)
    np.testing.assert_allclose(1 - 2 * stats.t.sf(found.critical, [5.5, 20, np.inf]), 0.95 ** (1 / 3), rtol=1e-10)


def test_tukey_with_fractional_degrees():
    # R 4.2.2: ptukey(c(3.2, 5, 3.5), 3, c(98.3, 40.2, 8.5)) for three means, here t = q/√2
    found = adjust(family(np.array([3.2, 5.0, 3.5]) / np.sqrt(2), [98.3, 40.2, 8.5], means=3), "tukey")
    np.testing.assert_allclose(found.p, stats.studentized_range.sf([3.2, 5.0, 3.5], 3, [98.3, 40.2, 8.5]), rtol=1e-9)
    assert found.p[2] == pytest.approx(8.46332471290068e-02, rel=1e-9)
    for c, df in zip(found.critical, (98.3, 40.2, 8.5), strict=True):  # the root is found to 1e-6
        assert stats.studentized_range.cdf(c * np.sqrt(2), 3, df) == pytest.approx(0.95, abs=1e-6)


def test_critical_values_between_nodes():
    """Six different df and more are interpolated, to 2e-5 as the constant's comment says."""
    df = np.array([3.0, 4.0, 6.5, 10, 20, 50, 400, np.inf])
    found = adjust(family(np.ones(8), df, means=4), "tukey").critical
    each = [adjust(family(np.ones(2), [one, one], means=4), "tukey").critical[0] for one in df]
    np.testing.assert_allclose(found, each, rtol=2e-5)


# mvtnorm 1.1-3: 1 - pmvt(-t, t) with correlations 1/2 for t = 1.2, 2.4, 3.9 (maxpts 5e6, abseps 1e-8), and qmvt(0.95)
MULTIVARIATE_T = {
    8: ([0.52162146, 0.10190261, 0.01151235], 2.87980692),
    40: ([0.49372668, 0.05495895, 0.00102848], 2.44143322),
    np.inf: ([0.48576182, 0.04382068, 0.00028359], 2.34891255),
}


@pytest.mark.parametrize("df", MULTIVARIATE_T)
def test_dunnett_is_the_multivariate_t(df):
    p, critical = MULTIVARIATE_T[df]
    found = adjust(family([1.2, 2.4, 3.9], df, correlation=EQUAL), "dunnett")
    assert found.error < 5e-5
    np.testing.assert_allclose(found.p, p, rtol=0, atol=2e-5)
    # R's own quantile is good to 5e-4 by its documentation; the level here is known to 2e-5, over a density of 0.1
    assert found.critical == pytest.approx([critical] * 3, abs=5e-4)


def test_a_tiny_p_is_bounded_not_noise():
    found = adjust(family([12.0, 1.0, 0.5], 30, correlation=EQUAL), "mvt")
    raw = 2 * stats.t.sf(12.0, 30)
    assert raw <= found.p[0] <= 3 * raw


def test_mvt_of_all_pairs_is_tukey():
    """Singular correlations: six differences of four equally precise means."""
    C = coding("pairwise", list("abcd")).weights
    correlation = C @ C.T / 2
    t = C @ np.array([0.0, 0.5, 1.4, 2.9]) / np.sqrt(2)
    exact = adjust(family(t, 11.3, means=4), "tukey")
    found = adjust(family(t, 11.3, correlation=correlation), "mvt")
    np.testing.assert_allclose(found.p, exact.p, atol=6 * found.error + 1e-6)
    np.testing.assert_allclose(found.critical, exact.critical, rtol=2e-4)


def test_seeds_repeat_and_differ_within_the_error():
    one, again, other = (adjust(family([1.0, 2.0, 2.5], 9.5, correlation=EQUAL), "mvt", seed=s).p for s in (1, 1, 99))
    assert np.array_equal(one, again)
    assert 0 < np.abs(one - other).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_one_test_needs_no_adjustment(method):
    found = adjust(family(2.2, 7.7, means=2), method)
    assert found.p[0] == pytest.approx(2 * stats.t.sf(2.2, 7.7), rel=1e-10)
    assert found.critical[0] == pytest.approx(stats.t.isf(0.025, 7.7), rel=1e-10)


@pytest.mark.parametrize("method", ["tukey", "mvt", "sidak", "bonferroni"])
def test_all_intervals_hold_together(rng, method):
    """Four means, 10 df: the share of samples in which every pairwise interval covers 0."""
    C = coding("pairwise", list("abcd")).weights
    critical = adjust(family(np.ones(6), 10, 4, C @ C.T / 2), method).critical[0]
    draws = 20_000
    t = rng.standard_normal((draws, 4)) @ C.T / np.sqrt(2 * rng.chisquare(10, draws) / 10)[:, None]
    covered = (np.abs(t) < critical).all(axis=1).mean()
    # three binomial standard errors of 20,000 samples at 0.95 are 0.0046
    if method in ("tukey", "mvt"):
        assert covered == pytest.approx(0.95, abs=0.0046)
    else:
        assert covered > 0.95 - 0.0046


def test_what_is_refused():
    with pytest.raises(MethodError, match="adjust='fdr' is not known"):
        adjust(family([1, 2], 5), "fdr")
    with pytest.raises(MethodError, match="all pairwise differences"):
        adjust(family([1, 2], 5), "tukey")


def shared(found):
    return {(i, j) for i, j in itertools.combinations(range(len(found)), 2) if set(found[i]) & set(found[j])}


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_letters_are_shared_exactly_where_nothing_differs(rng, k):
    pairs = list(itertools.combinations(range(k), 2))
    for _ in range(60):
        different = [pair for pair in pairs if rng.random() < rng.random()]
        found = letters(list(rng.permutation(k)), different)
        assert all(found)
        assert shared(found) == set(pairs) - set(different)


def test_letters_of_ordered_means():
    assert letters([0, 1, 2, 3], []) == ["a"] * 4
    assert letters([3, 2, 1, 0], [(0, 2), (0, 3), (1, 3)]) == ["c", "bc", "ab", "a"]
    everything = list(itertools.combinations(range(60), 2))
    with pytest.raises(MethodError, match="60 letters would be needed"):
        letters(list(range(60)), everything)


@pytest.mark.parametrize("k", [2, 3, 5, 6, 9])
def test_polynomials_are_orthogonal_integers(k):
    found = coding("polynomial", list(range(k)))
    W = found.weights
    assert len(W) == min(k - 1, 6)
    assert np.array_equal(W, np.round(W))
    np.testing.assert_allclose(W @ W.T, np.diag(np.sum(W**2, axis=1)), atol=1e-9)
    x = np.arange(k)
    for degree, row in enumerate(W, 1):
        assert [abs(row @ x**lower) < 1e-6 for lower in range(degree)] == [True] * degree
        assert row[-1] > 0


def test_polynomials_of_the_tables():
    # Fisher and Yates' table of orthogonal polynomials, k = 6
    expected = [[-5, -3, -1, 1, 3, 5], [5, -1, -4, -4, -1, 5], [-5, 7, 4, -4, -7, 5]]
    assert coding("polynomial", list("abcdef")).weights[:3].tolist() == expected
    assert coding("polynomial", list("abc")).names == ["linear", "quadratic"]


def test_names_and_weights():
    assert coding("pairwise", ["a", "b", "c"]).names == ["a - b", "a - c", "b - c"]
    assert coding("sequential", ["a", "b", "c"]).weights.tolist() == [[-1, 1, 0], [0, -1, 1]]
    assert coding("control", ["a", "b", "c"], "b").names == ["a - b", "c - b"]
    frame = pd.DataFrame([[1, 0, -1]], index=["ends"])
    assert coding(frame, [("a", 1), ("a", 2), ("b", 1)]).names == ["ends"]
    assert coding("pairwise", [("a", 1), ("b", 2)]).names == ["a 1 - b 2"]
    with pytest.raises(MethodError, match="needs 3 finite weights, not all 0, in the order a, b, c"):
        coding({"none": [0, 0, 0]}, ["a", "b", "c"])
    with pytest.raises(MethodError, match="no contrast is given"):
        coding({}, ["a", "b", "c"])
    with pytest.raises(MethodError, match="reference belongs to"):
        coding("pairwise", ["a", "b"], "a")


@pytest.mark.parametrize(
    ("response", "link"),
    [("log(y)", "identity"), ("np.log10(y)", "identity"), ("np.log2( y )", "identity"), ("np.sqrt(y)", "identity"),
     ("np.log1p(y)", "identity"), ("y", "logit"), ("y", "probit"), ("y", "cloglog"), ("y", "log")],
)  # fmt: skip
def test_transformations_and_their_derivatives(response, link):
    found = transformation_of(response, link)
    assert found.inside == "y"
    eta, h = np.array([0.2, 0.9]), 1e-6
    slope = (found.inverse(eta + h) - found.inverse(eta - h)) / (2 * h)
    np.testing.assert_allclose(found.derivative(eta), slope, rtol=1e-8)


def test_what_has_no_way_back():
    assert transformation_of("y") is None
    assert transformation_of("log(y) + 1") is None
    assert transformation_of("log(abs(y))") is None
    assert transformation_of("scale(y)") is None
