"""The optimiser: functions with known minima, and boundaries where a vanishing gradient says nothing."""

import numpy as np
import pytest
from dense import design_of, term_of
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as bl
from bayeslmm.covariance import Diagonal, Unstructured
from bayeslmm.exact.gaussian import Gaussian
from bayeslmm.exact.products import products
from bayeslmm.optimise import minimise
from bayeslmm.terms import orthogonal_basis


def of_covariance(function, slope, covariance):
    """An objective of Σ = λλ' as one of theta, its gradient by the chain rule."""

    def objective(theta):
        lam = covariance.factor(theta)
        return function(lam @ lam.T), (2 * slope(lam @ lam.T) @ lam)[covariance.pattern]

    return objective


def toward(target, covariance=None):
    """50‖Σ − target‖²: convex in Σ, its minimum over covariances is the projection of the target."""
    covariance = covariance or Unstructured(len(target))
    return of_covariance(lambda S: 50 * np.sum((S - target) ** 2), lambda S: 100 * (S - target), covariance), covariance


def projection(target):
    values, vectors = np.linalg.eigh(target)
    return vectors * np.maximum(values, 0) @ vectors.T


def test_a_quadratic_is_solved_exactly():
    H = np.array([[3.0, 1.0], [1.0, 2.0]])
    found = minimise(lambda x: (0.5 * x @ H @ x - x.sum() + 7, H @ x - 1), np.array([5.0, -3.0]))
    np.testing.assert_allclose(found.theta, np.linalg.solve(H, [1, 1]), rtol=1e-6)
    np.testing.assert_allclose(found.hessian, H, rtol=1e-5)
    assert found.converged
    assert found.message == "converged"
    assert found.free.all()


def test_scale_and_basis_do_not_move_the_answer():
    H = np.array([[3.0, 1.0], [1.0, 2.0]])
    D = np.diag([1e-6, 1e4])

    def stretched(x):
        z = D @ x
        return 0.5 * z @ H @ z - z.sum(), D @ (H @ z - 1)

    want = np.linalg.solve(D, np.linalg.solve(H, [1, 1]))
    for scale in (np.array([1e6, 1e-4]), np.array([[1e6, 0.0], [1e-4, 1e-4]])):
        found = minimise(stretched, np.zeros(2), scale=scale)
        np.testing.assert_allclose(found.theta, want, rtol=1e-6)
        np.testing.assert_allclose(found.hessian, D @ H @ D, rtol=1e-4)
        assert found.converged


@pytest.mark.parametrize("start", [0.0, 1e-9, 1e-4, 1.0, 50.0])
@pytest.mark.parametrize(("target", "want"), [(4.0, 2.0), (-1.0, 0.0), (1e-3, np.sqrt(1e-3))])
def test_one_variance_from_anywhere(start, target, want):
    objective, covariance = toward(np.array([[target]]))
    found = minimise(objective, np.array([start]), [covariance])
    assert found.theta[0] == pytest.approx(want, rel=1e-5, abs=0)
    assert found.converged
    assert found.free[0] == (want > 0)


@settings(max_examples=80)
@given(st.integers(2, 4), st.integers(0, 2**32 - 1), st.sampled_from(["identity", "zero", "corner", "random"]))
def test_the_nearest_covariance_is_found_whatever_its_rank(k, seed, begin):
    """The projection of an indefinite matrix: some directions at zero, found from zero and from the wrong corner."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(k, k)))
    target = Q * rng.choice([-2.0, -0.5, 0.5, 1.0, 3.0], k) @ Q.T
    objective, covariance = toward(target)
    m = covariance.n_theta
    corner = np.zeros(m)
    corner[-1] = 1.0
    starts = {
        "identity": covariance.theta(np.eye(k)),
        "zero": np.zeros(m),
        "corner": corner,
        "random": rng.normal(size=m),
    }
    start = np.where(covariance.is_diagonal, np.abs(starts[begin]), starts[begin])
    found = minimise(objective, start, [covariance])
    lam = covariance.factor(found.theta)
    np.testing.assert_allclose(lam @ lam.T, projection(target), atol=1e-5)
    assert (np.diag(lam) >= 0).all()


def test_an_effect_without_variance_can_still_covary():
    """At Σ = diag(0, c) the slope along σ₁² is up, yet with a covariance it is down: a corner that is no optimum."""
    target = np.array([[-0.1, 0.9], [0.9, 2.0]])
    objective, covariance = toward(target)
    at_corner = np.array([0.0, 0.0, np.sqrt(2.0)])
    assert np.abs(objective(at_corner)[1]).max() < 1e-12
    found = minimise(objective, at_corner, [covariance])
    lam = covariance.factor(found.theta)
    np.testing.assert_allclose(lam @ lam.T, projection(target), atol=1e-6)
    assert found.converged


def test_a_descent_that_no_pair_of_effects_shows():
    """Slopes along every basis vector and every sum or difference of two are up, one mixture's is down."""
    target = -np.array([[0.01, 0.9], [0.9, 10.0]])
    objective, covariance = toward(target)
    found = minimise(objective, np.zeros(3), [covariance])
    lam = covariance.factor(found.theta)
    np.testing.assert_allclose(lam @ lam.T, projection(target), atol=1e-6)


def test_what_is_not_finite_is_stepped_around():
    """+inf beyond x = 1, as where a prior ends."""
    found = minimise(
        lambda x: (float((x[0] - 0.9) ** 2), 2 * (x - 0.9)) if x[0] < 1 else (np.inf, x * 0), np.array([-20.0])
    )
    assert found.theta[0] == pytest.approx(0.9)
    assert found.converged


def test_a_start_outside_the_domain_at_zero_is_left():
    """A density that vanishes at sd 0 (Gamma(2, ·)): zero is no place to stay."""

    def objective(x):
        if x[0] <= 0:
            return np.inf, np.zeros(1)
        return float(x[0] - np.log(x[0])), 1 - 1 / x

    found = minimise(objective, np.zeros(1), [Diagonal(1)])
    assert found.theta[0] == pytest.approx(1.0, rel=1e-6)
    assert found.converged


def test_what_falls_for_ever_does_not_converge():
    found = minimise(lambda x: (float(-x[0]), np.array([-1.0])), np.array([1.0]))
    assert not found.converged
    saddle = minimise(lambda x: (float(x[0] ** 2 - x[1] ** 2), np.array([2 * x[0], -2 * x[1]])), np.zeros(2))
    assert not saddle.converged
    assert "curvature" in saddle.message


def test_nothing_to_optimise():
    found = minimise(lambda x: (3.0, x), np.zeros(0))
    assert (found.value, found.converged, found.evaluations) == (3.0, True, 1)


def test_zero_among_several_variances(rng):
    """Three uncorrelated effects, the middle one without variance: exactly 0, the others not."""
    G, m = 40, 10
    g, n = np.repeat(np.arange(G), m), G * m
    Z = np.column_stack([np.ones(n), rng.normal(size=n), rng.normal(size=n)])
    residual = rng.normal(size=n)
    balanced = Z[:, 1] * np.tile([1, -1], n // 2)
    residual -= 0.2 * balanced * (residual @ balanced) / (balanced @ balanced)
    u = rng.normal(size=(G, 3)) * [1.0, 0.0, 0.8]
    design = design_of((Z * u[g]).sum(axis=1) + residual, np.ones((n, 1)), [term_of("g", g, Z, Diagonal)])
    gaussian = Gaussian(products(design))
    fits = [
        minimise(gaussian.deviance_gradient, start, [Diagonal(3)])
        for start in (np.ones(3), np.zeros(3), np.array([0, 2.0, 0]))
    ]
    assert all(f.converged for f in fits)
    values = [f.value for f in fits]
    np.testing.assert_allclose(values, min(values), rtol=0, atol=1e-9)
    for fit in fits:
        assert fit.theta[0] > 0.5
        assert fit.theta[2] > 0.5
        assert fit.theta[1] == 0.0 or fit.theta[1] > 1e-3  # never 1e-7


def rank_one(loadings, seed, groups=40, size=10):
    """y whose three effects per group are one number times `loadings`."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    Z = np.column_stack([np.ones(len(g)), rng.normal(size=(len(g), 2))])
    y = 1 + (Z * (rng.normal(size=(groups, 1)) * loadings)[g]).sum(axis=1) + rng.normal(size=len(g))
    return {"y": y, "a": Z[:, 1], "b": Z[:, 2], "g": g}


STARTS = [
    None,
    [0] * 6,
    [0, 0, 0, 0, 0, 1],
    [0, 0, 0, 1, 0, 0],
    [1, 0, 0, 0, 0, 0],
    [0, 1, 1, 0, 0, 1],
    [3, -2, 1, 2, 1, 3],
]


@pytest.mark.parametrize(
    "loadings", [[0, 0, 1.0], [1, 0.5, -0.7], [0, 1, 1], [0.5, 0, 1], [0, 1, 0], [1, 0, 0]], ids=str
)
def test_three_effects_of_rank_one_from_every_corner(loadings):
    """Singular at the optimum and at the start: one value, one covariance, wherever the search began."""
    model = bl.Model("y ~ a + b + (a + b | g)", rank_one(np.array(loadings), 3))
    fits = [bl.fit(model, start=start) for start in STARTS]
    assert all(fit.converged for fit in fits)
    logliks = [fit.loglik for fit in fits]
    np.testing.assert_allclose(logliks, max(logliks), rtol=0, atol=1e-7)
    for fit in fits:
        np.testing.assert_allclose(fit.theta, fits[0].theta, atol=2e-4)
        assert fit.singular == fits[0].singular


def test_five_correlated_effects(rng):
    """Fifteen entries of theta; the gradient vanishes and the truth is near."""
    G, m, k = 200, 12, 5
    g, n = np.repeat(np.arange(G), m), G * m
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, k - 1)) + 2])
    lam = np.tril(rng.uniform(-0.5, 0.5, (k, k))) + 0.7 * np.eye(k)
    y = (Z * (rng.normal(size=(G, k)) @ lam.T)[g]).sum(axis=1) + rng.normal(size=n)
    data = {"y": y, "g": g} | {f"x{j}": Z[:, j] for j in range(1, k)}
    fit = bl.fit(bl.Model("y ~ x1 + x2 + x3 + x4 + (x1 + x2 + x3 + x4 | g)", data))
    assert fit.converged
    assert len(fit.theta) == 15
    assert np.abs(fit.optimum.gradient).max() < 1e-5
    np.testing.assert_allclose(fit.sd["g"], np.sqrt(np.diag(lam @ lam.T)), atol=0.25)


def test_orthogonal_basis(rng):
    """Theta of orthogonal effects → theta: λ = T⁻¹λ̃ with T lower triangular and ZT⁻¹ of orthonormal columns."""
    n = 50
    columns = np.column_stack([np.ones(n), 2000 + rng.normal(size=n), 1e-3 * rng.normal(size=n)])
    full = term_of("a", np.arange(n) % 5, columns, Unstructured)
    apart = term_of("b", np.arange(n) % 4, columns, Diagonal)
    basis = orthogonal_basis([full, apart])
    assert (np.diag(basis) > 0).all()
    inverse = np.zeros((3, 3))
    inverse[full.covariance.pattern] = basis[:6, :6] @ full.covariance.theta(np.eye(3))
    Q = columns @ inverse
    np.testing.assert_allclose(Q.T @ Q / n, np.eye(3), atol=1e-7)
    np.testing.assert_allclose(basis[6:, 6:], np.diag(1 / np.sqrt(np.mean(columns**2, axis=0))), rtol=1e-12)
    tilde = full.covariance.factor(rng.normal(size=6))
    np.testing.assert_allclose(
        full.covariance.factor(basis[:6, :6] @ tilde[full.covariance.pattern]), inverse @ tilde, rtol=1e-9
    )
    assert orthogonal_basis([]).shape == (0, 0)


def test_collinear_effects_are_searched_as_they_are(rng):
    x = rng.normal(size=40)
    term = term_of("a", np.arange(40) % 5, np.column_stack([x, x]), Unstructured)
    basis = orthogonal_basis([term])
    np.testing.assert_allclose(basis, np.eye(3) / np.sqrt(np.mean(x**2)), rtol=1e-12)
