"""theta ↔ natural ↔ factor, one suite over every structure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslmm.covariance import STRUCTURES, Diagonal, Unstructured, correlation, psd_factor

KINDS = list(STRUCTURES.values())


def random_theta(covariance, rng):
    theta = rng.normal(size=covariance.n_theta)
    return np.where(covariance.is_diagonal, np.abs(theta), theta)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_factor_and_theta_are_inverse(kind, k, rng):
    covariance = kind(k)
    theta = random_theta(covariance, rng)
    lam = covariance.factor(theta)
    np.testing.assert_array_equal(np.triu(lam, 1), 0)
    np.testing.assert_array_equal(covariance.theta(lam), theta)
    assert covariance.n_theta == len(covariance.is_diagonal) == len(theta)
    assert covariance.is_diagonal.sum() == k


def test_theta_is_in_lme4s_order():
    lam = Unstructured(3).factor(np.array([1.0, 2, 3, 4, 5, 6]))
    assert lam.tolist() == [[1, 0, 0], [2, 4, 0], [3, 5, 6]]
    assert Diagonal(2).factor(np.array([3.0, 4.0])).tolist() == [[3, 0], [0, 4]]


def test_sign_of_a_column_is_fixed():
    lam = np.array([[-1.0, 0], [2, -3]])
    theta = Unstructured(2).theta(lam)
    np.testing.assert_array_equal(theta, [1, -2, 3])
    found = Unstructured(2).factor(theta)
    np.testing.assert_allclose(found @ found.T, lam @ lam.T)


@pytest.mark.parametrize("kind", KINDS)
@given(k=st.integers(1, 5), seed=st.integers(0, 2**32 - 1), sigma=st.floats(1e-3, 1e3))
def test_natural_goes_and_comes_back(kind, k, seed, sigma):
    covariance = kind(k)
    theta = random_theta(covariance, np.random.default_rng(seed)) + covariance.is_diagonal
    sd, corr = covariance.natural(theta, sigma)
    lam = covariance.factor(theta)
    np.testing.assert_allclose(sd**2, sigma**2 * np.diag(lam @ lam.T), rtol=1e-12)
    np.testing.assert_allclose(np.outer(sd, sd) * corr, sigma**2 * lam @ lam.T, rtol=1e-9, atol=1e-12 * sd.max() ** 2)
    np.testing.assert_array_equal(np.diag(corr), 1.0)
    np.testing.assert_allclose(covariance.from_natural(sd, corr, sigma), theta, rtol=1e-6, atol=1e-8)


def test_pairs_and_labels():
    assert Unstructured(3).pairs == [(0, 1), (0, 2), (1, 2)]
    assert Diagonal(3).pairs == []
    assert [Unstructured(1).label, Unstructured(2).label, Diagonal(1).label, Diagonal(2).label] == [
        "scalar",
        "unstructured",
        "scalar",
        "diagonal",
    ]


def test_a_zero_variance_is_exactly_zero_and_its_correlation_0():
    sd, corr = Unstructured(2).natural(np.array([0.0, 0.0, 2.0]), 3.0)
    assert sd.tolist() == [0.0, 6.0]
    assert corr.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert Unstructured(2).from_natural(sd, corr, 3.0).tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_correlation_of_one_is_exactly_one(sign):
    theta = np.array([0.3, sign * 0.7, 0.0])
    sd, corr = Unstructured(2).natural(theta, 0.1)
    assert corr[0, 1] == pytest.approx(sign, rel=1e-15)
    assert abs(corr[0, 1]) <= 1.0
    np.testing.assert_allclose(Unstructured(2).from_natural(sd, corr, 0.1), theta, atol=1e-15)


def test_effects_of_very_different_units():
    """A slope of 1e200 beside an intercept of 1: neither overflows and neither vanishes."""
    theta = np.array([2.0, 0.5e200, 1e200])
    sd, corr = Unstructured(2).natural(theta, 1.5)
    np.testing.assert_allclose(sd, [3.0, 1.5e200 * np.sqrt(1.25)], rtol=1e-14)
    assert corr[0, 1] == pytest.approx(0.5 / np.sqrt(1.25), rel=1e-14)
    sd, _ = Unstructured(2).natural(theta * [1, 1e-200, 1e-200], 1e-200)
    np.testing.assert_allclose(sd, [2e-200, 1e-200 * np.sqrt(1.25)], rtol=1e-14)


@given(k=st.integers(1, 5), rank=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_semidefinite_factor(k, rank, seed):
    half = np.random.default_rng(seed).normal(size=(k, min(rank, k)))
    L = psd_factor(half @ half.T)
    np.testing.assert_allclose(L @ L.T, half @ half.T, atol=1e-12)
    assert (np.diag(L) >= 0).all()
    assert (np.diag(L) == 0).sum() == k - min(rank, k)
    np.testing.assert_array_equal(L[:, np.diag(L) == 0], 0.0)


def test_correlation_of_a_covariance():
    sd, corr = correlation(np.array([[4.0, 3.0], [3.0, 9.0]]))
    assert sd.tolist() == [2.0, 3.0]
    assert corr.tolist() == [[1.0, 0.5], [0.5, 1.0]]
