"""Henderson's equations against dense GLS + BLUP, and the prior that tends to flat against the dense posterior."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy import sparse, stats

import bayeslmm as bl
from bayeslmm.equations import Solution
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.limiting import LimitingPrior

Array = NDArray[np.float64]


def table(seed: int = 1, n: int = 48) -> pd.DataFrame:
    """Six groups g crossed with four groups h; k is nested in g."""
    rng = np.random.default_rng(seed)
    g = np.concatenate([np.arange(6), rng.integers(0, 6, n - 6)])
    h = np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)])
    x = rng.normal(size=n)
    y = 3.0 + x + rng.normal(size=6)[g] + rng.normal(size=4)[h] * x + rng.normal(size=n)
    columns = {"g": g.astype(str), "h": h.astype(str), "k": (np.arange(n) % 2).astype(str)}
    return pd.DataFrame({"y": y, "x": x, "o": rng.normal(size=n), "w": rng.uniform(0.2, 5.0, n), **columns})


CASES = {
    "intercepts": ("y ~ x + (1 | g)", None, [0.7]),
    "slopes": ("y ~ x + (1 + x | g)", "w", [0.8, -0.3, 0.5]),
    "uncorrelated": ("y ~ x + (1 + x || g)", None, [0.8, 0.4]),
    "crossed": ("y ~ x + offset(o) + (1 + x | h) + (1 | g)", "w", [0.9, 0.8, 0.3, 0.5]),
    "nested": ("y ~ x + (1 | g/k)", None, [1.2, 0.4]),
    "boundary": ("y ~ x + (1 + x | g)", "w", [0.8, -0.3, 0.0]),
    "rank one, no intercept variance": ("y ~ x + (1 + x | g)", None, [0.0, 0.4, 0.6]),
    "all zero": ("y ~ x + (1 + x | g) + (1 | h)", None, [0.0, 0.0, 0.0, 0.0]),
    "tiny and large": ("y ~ x + (1 | g) + (1 | h)", None, [1e-6, 1e3]),
    "no fixed effects": ("y ~ 0 + (1 + x | g)", None, [0.8, 0.1, 0.5]),
    "no random effects": ("y ~ x + offset(o)", "w", []),
}


def model_of(case: str, data: pd.DataFrame | None = None) -> tuple[Any, Array]:
    """The model, with flat priors because default ones have no scale for a constant response, and its θ."""
    formula, weights, theta = CASES[case]
    return bl.Model(formula, table() if data is None else data, priors="flat", weights=weights), np.array(theta)


@pytest.fixture(params=CASES)
def problem(request: pytest.FixtureRequest) -> tuple[Any, Array]:
    return model_of(request.param)


def variances(model: Any, theta: Array, sigma: float) -> tuple[Array, Array]:
    """G and R, dense."""
    n, q = model.Z.shape
    factor = model.Lambda(theta).toarray() if q else np.zeros((0, 0))
    weights = np.ones(n) if model.design.weights is None else model.design.weights
    return sigma**2 * factor @ factor.T, np.diag(sigma**2 / weights)


def dense(model: Any, G: Array, R: Array) -> tuple[Array, Array, Array]:
    """GLS β̂ = By, BLUP û = Uy, and the covariance of (β̂ − β, û − u), which are linear in (u, e)."""
    X, Z = model.X, model.Z.toarray()
    y = model.design.y - (0.0 if model.design.offset is None else model.design.offset)
    V = Z @ G @ Z.T + R
    B = np.linalg.solve(X.T @ np.linalg.solve(V, X), np.linalg.solve(V, X).T)
    U = G @ np.linalg.solve(V, Z).T @ (np.eye(len(y)) - X @ B)
    on_u, on_e = np.vstack([B @ Z, U @ Z - np.eye(len(G))]), np.vstack([B, U])
    return B @ y, U @ y, on_u @ G @ on_u.T + on_e @ R @ on_e.T


def flat(model: Any, tables: dict[str, pd.DataFrame]) -> Array:
    """Tables per group in the order of the columns of Z."""
    parts = [tables[term.group][list(term.effects)].to_numpy().ravel() for term in model.terms]
    return np.concatenate([np.empty(0), *parts])


def agree(solution: Solution, expected: tuple[Array, Array, Array], tolerance: float = 1e-9) -> None:
    fixef, ranef, covariance = expected
    p, size = len(fixef), {"rtol": tolerance, "atol": tolerance * max(1.0, abs(expected[1]).max(initial=0.0))}
    assert_allclose(solution.fixef, fixef, **size)
    assert_allclose(solution.se, np.sqrt(np.diag(covariance)[:p]), rtol=tolerance)
    assert_allclose(flat(solution.model, solution.ranef), ranef, **size)
    scale = abs(covariance).max(initial=1.0)
    assert_allclose(solution.inverse, covariance, atol=tolerance * scale)
    assert_allclose(flat(solution.model, solution.pev), np.diag(covariance)[p:], atol=tolerance * scale)


def test_dense_gls_and_blup(problem: tuple[Any, Array]) -> None:
    model, theta = problem
    agree(bl.solve(model, theta, 1.3), dense(model, *variances(model, theta, 1.3)))


@pytest.mark.parametrize("shape", [np.asarray, sparse.csr_array, sparse.coo_matrix, pd.DataFrame])
def test_matrices_given_as_G_and_R(problem: tuple[Any, Array], shape: Callable[[Array], Any]) -> None:
    model, theta = problem
    G, R = variances(model, theta, 1.3)
    given = {"G": shape(G), "R": shape(R)} if len(G) else {"R": shape(R)}
    agree(bl.solve(model, **given), dense(model, G, R))


@pytest.mark.parametrize("seed", range(5))
def test_general_G_and_R(seed: int) -> None:
    """Every effect and every row correlated, G of full and of lower rank."""
    model, _ = model_of("crossed")
    rng = np.random.default_rng(seed)
    n, q = model.Z.shape
    root = rng.normal(size=(q, q if seed % 2 else 5)) * np.exp(rng.normal(size=(q, 1)))
    G, R = root @ root.T, np.exp(-abs(np.subtract.outer(np.arange(n), np.arange(n))) / 3.0) * (1.0 + rng.random())
    expected = dense(model, G, R)
    agree(bl.solve(model, G=G, R=R), expected)
    agree(bl.solve(model, G=sparse.csr_array(G), R=sparse.csc_array(R)), expected)
    agree(bl.solve(model, G=G, sigma=0.7), dense(model, G, variances(model, np.ones(4), 0.7)[1]))


def test_numbers_and_vectors_are_diagonals() -> None:
    model, _ = model_of("intercepts")
    n, q = model.Z.shape
    G, R = np.linspace(0.0, 2.0, q), np.linspace(0.5, 3.0, n)
    agree(bl.solve(model, G=G, R=R), dense(model, np.diag(G), np.diag(R)))
    agree(bl.solve(model, G=0.5, R=2.0), dense(model, 0.5 * np.eye(q), 2.0 * np.eye(n)))
    agree(bl.solve(model, G=0, R=2), dense(model, np.zeros((q, q)), 2.0 * np.eye(n)))


@pytest.mark.parametrize("case", ["intercepts", "slopes", "crossed", "nested", "no random effects"])
def test_coefficient_times_inverse_is_the_identity(case: str) -> None:
    model, theta = model_of(case)
    G, R = variances(model, theta, 1.3)
    solution = bl.solve(model, theta, 1.3)
    columns = np.hstack([model.X, model.Z.toarray()])
    expected = columns.T @ np.linalg.solve(R, columns)
    p = model.X.shape[1]
    expected[p:, p:] += np.linalg.inv(G)
    assert_allclose(solution.coefficient.toarray(), expected, rtol=1e-10, atol=1e-10)
    assert_allclose(solution.coefficient @ solution.inverse.to_numpy(), np.eye(len(expected)), atol=1e-10)


@pytest.mark.parametrize("case", ["boundary", "rank one, no intercept variance", "all zero"])
def test_a_singular_G_has_a_system_and_no_coefficient_matrix(case: str) -> None:
    model, theta = model_of(case)
    solution = bl.solve(model, theta, 1.3)
    p = model.X.shape[1]
    back = sparse.block_diag([np.eye(p), solution.factor]).toarray()
    assert_allclose(back @ np.linalg.inv(solution.system.toarray()) @ back.T, solution.inverse, atol=1e-11)
    with pytest.raises(MethodError, match="G is singular"):
        _ = solution.coefficient


def test_balanced_one_way_closed_form() -> None:
    """û shrinks the group means by nθ²/(1 + nθ²); PEV from the same fraction."""
    J, n, theta, sigma = 500, 4, 0.8, 1.5
    y = np.random.default_rng(3).normal(size=(J, n))
    data = pd.DataFrame({"y": y.ravel(), "g": np.repeat(np.arange(J), n).astype(str)})
    solution = bl.solve(bl.Model("y ~ 1 + (1 | g)", data), [theta], sigma)
    shrink = n * theta**2 / (1.0 + n * theta**2)
    means = pd.Series(y.mean(axis=1) - y.mean(), index=[str(j) for j in range(J)])
    assert_allclose(solution.fixef, [y.mean()], rtol=1e-12)
    assert_allclose(solution.se, [sigma * np.sqrt((theta**2 + 1.0 / n) / J)], rtol=1e-12)
    assert_allclose(solution.ranef["g"]["Intercept"], shrink * means[solution.ranef["g"].index], atol=1e-12)
    variance = (sigma * theta) ** 2 * (1.0 - shrink) + shrink**2 * solution.se["Intercept"] ** 2
    assert_allclose(solution.pev["g"]["Intercept"], variance, rtol=1e-12)


def test_many_levels_stay_sparse() -> None:
    """Prediction error variances of 100,000 effects, no dense matrix among them."""
    rng = np.random.default_rng(4)
    J = 50_000
    g = np.tile(np.arange(J), 3)
    data = pd.DataFrame({"y": rng.normal(size=3 * J), "x": rng.normal(size=3 * J), "g": g.astype(str)})
    solution = bl.solve(bl.Model("y ~ x + (1 + x | g)", data), [0.8, 0.2, 0.5], 1.0)
    prior = np.array([0.8**2, 0.2**2 + 0.5**2])
    assert solution.pev["g"].shape == (J, 2)
    assert np.all((solution.pev["g"] > 0.0) & (solution.pev["g"] < prior + 1e-3))


def test_tables_carry_names() -> None:
    model, theta = model_of("crossed")
    solution = bl.solve(model, theta, 1.0)
    assert list(solution.fixef.index) == list(solution.se.index) == ["Intercept", "x"]
    assert {group: list(frame.columns) for group, frame in solution.ranef.items()} == {
        "g": ["Intercept"],
        "h": ["Intercept", "x"],
    }
    assert list(solution.inverse.index[[0, 2, -1]]) == ["fixef[Intercept]", "ranef_g[0, Intercept]", "ranef_h[3, x]"]
    assert str(solution).startswith("Mixed model equations: 2 fixed effects; BLUP: g 6 × 1, h 4 × 2")
    with pytest.raises(AttributeError):
        solution.fixef = None


def test_two_terms_on_one_group_share_a_table() -> None:
    model = bl.Model("y ~ x + (0 + x | g) + (1 | g)", table())
    solution = bl.solve(model, [0.5, 0.8], 1.0)
    other = bl.solve(bl.Model("y ~ x + (1 + x || g)", table()), [0.8, 0.5], 1.0)
    assert_allclose(solution.ranef["g"][["Intercept", "x"]], other.ranef["g"][["Intercept", "x"]], atol=1e-12)
    assert_allclose(solution.pev["g"][["Intercept", "x"]], other.pev["g"][["Intercept", "x"]], atol=1e-12)


def test_zero_weight_of_theta_is_exactly_zero() -> None:
    model, theta = model_of("all zero")
    solution = bl.solve(model, theta, 1.0)
    assert_array_equal(flat(model, solution.ranef), 0.0)
    assert_array_equal(flat(model, solution.pev), 0.0)


@pytest.mark.parametrize("case", ["slopes", "crossed", "nested"])
def test_shifts_scales_and_row_order(case: str) -> None:
    data = table()
    model, theta = model_of(case, data)
    plain = bl.solve(model, theta, 1.3)
    u = flat(model, plain.ranef)

    far = bl.solve(model_of(case, data.assign(y=data.y + 1e6))[0], theta, 1.3)
    assert_allclose(far.fixef - [1e6, 0.0], plain.fixef, atol=1e-9)  # y + 1e6 keeps ten decimals of y
    assert_allclose(flat(model, far.ranef), u, atol=1e-8)

    big = bl.solve(model_of(case, data.assign(y=data.y * 2.0**660, o=data.o * 2.0**660))[0], theta, 1.3 * 2.0**660)
    assert_allclose(big.fixef / 2.0**660, plain.fixef, rtol=1e-14)
    assert_allclose(big.se / 2.0**660, plain.se, rtol=1e-14)
    assert_allclose(flat(model, big.ranef) / 2.0**660, u, rtol=1e-14)

    order = np.random.default_rng(0).permutation(len(data))
    mixed = bl.solve(model_of(case, data.iloc[order])[0], theta, 1.3)
    assert_allclose(mixed.fixef, plain.fixef, rtol=1e-12)
    for group, frame in mixed.ranef.items():
        assert_allclose(frame.loc[plain.ranef[group].index], plain.ranef[group], atol=1e-12)


def test_a_predictor_far_from_zero_or_tiny() -> None:
    data = table()
    model, theta = model_of("intercepts", data)
    plain = bl.solve(model, theta, 1.3)
    far = bl.solve(model_of("intercepts", data.assign(x=data.x + 2000.0))[0], theta, 1.3)
    assert_allclose(far.fixef["x"], plain.fixef["x"], rtol=1e-10)
    assert_allclose(far.se["x"], plain.se["x"], rtol=1e-10)
    assert_allclose(far.ranef["g"], plain.ranef["g"], atol=1e-10)
    tiny = bl.solve(model_of("intercepts", data.assign(x=data.x * 2.0**-660))[0], theta, 1.3)
    assert_allclose(tiny.fixef["x"] * 2.0**-660, plain.fixef["x"], rtol=1e-14)
    assert_allclose(tiny.se["x"] * 2.0**-660, plain.se["x"], rtol=1e-14)


def test_small_variances_in_G_keep_their_digits() -> None:
    """Blocks graded over 16 orders of magnitude: (1, x) per level, x scaled down."""
    model, _ = model_of("slopes")
    scale = np.tile([1.0, 1e-8], 6)
    G = np.kron(np.eye(6), [[1.0, 0.3], [0.3, 0.5]]) * np.outer(scale, scale)
    solution = bl.solve(model, G=G, sigma=1.0)
    agree(solution, dense(model, G, variances(model, np.ones(3), 1.0)[1]))
    assert_allclose((solution.factor @ solution.factor.T).toarray(), G, rtol=1e-14, atol=0.0)


MALFORMED = {
    "nothing": ({}, "Var e is missing"),
    "no sigma": ({"theta": [1.0]}, "Var e is missing"),
    "no theta": ({"sigma": 1.0}, "Var u is missing"),
    "theta and G": ({"theta": [1.0], "sigma": 1.0, "G": 1.0}, "theta or G, not both"),
    "sigma and R": ({"G": 1.0, "sigma": 1.0, "R": 1.0}, "sigma or R, not both"),
    "theta and R": ({"theta": [1.0], "R": 1.0}, "relative to sigma"),
    "negative sigma": ({"theta": [1.0], "sigma": -1.0}, "sigma must be one positive number, got -1.0"),
    "zero sigma": ({"theta": [1.0], "sigma": 0.0}, "one positive number"),
    "sigma a vector": ({"theta": [1.0], "sigma": [1.0, 2.0]}, "one positive number"),
    "sigma infinite": ({"theta": [1.0], "sigma": np.inf}, "sigma must be finite"),
    "theta too long": ({"theta": [1.0, 2.0], "sigma": 1.0}, r"theta must have shape \(1,\).*got \(2,\)"),
    "theta a word": ({"theta": "one", "sigma": 1.0}, "theta must hold numbers"),
    "theta missing a value": ({"theta": [np.nan], "sigma": 1.0}, "theta must be finite"),
    "theta beyond reach": ({"theta": [1e200], "sigma": 1.0}, "so large relative to Var e"),
    "G of the wrong shape": ({"G": np.eye(5), "R": 1.0}, r"G must have shape \(6, 6\), got \(5, 5\)"),
    "G of the wrong length": ({"G": np.ones(5), "R": 1.0}, r"\(6,\) variances"),
    "G a cube": ({"G": np.ones((6, 6, 6)), "R": 1.0}, r"\(6,\) variances"),
    "G negative": ({"G": -0.5, "R": 1.0}, "smallest variance is -0.5"),
    "G indefinite": ({"G": np.eye(6) - 0.5, "R": 1.0}, "smallest eigenvalue is -2"),
    "G with a negative variance": ({"G": np.diag([1.0, 1, 1, 1, 1, -3]), "R": 1.0}, "smallest eigenvalue is -3"),
    "G correlated with a zero variance": ({"G": np.eye(6)[::-1], "R": 1.0}, "smallest eigenvalue is -1"),
    "G not symmetric": ({"G": np.triu(np.ones((6, 6))), "R": 1.0}, "G is not symmetric"),
    "G with a NaN": ({"G": sparse.csr_array(np.diag([np.nan] * 6)), "R": 1.0}, "G must be finite"),
    "R of the wrong length": ({"G": 1.0, "R": np.ones(3)}, r"\(48,\) variances"),
    "R of the wrong shape": ({"G": 1.0, "R": np.eye(3)}, r"R must have shape \(48, 48\)"),
    "R zero": ({"G": 1.0, "R": 0.0}, "R is singular"),
    "R with a zero": ({"G": 1.0, "R": np.r_[0.0, np.ones(47)]}, "R is singular"),
    "R of rank one": ({"G": 1.0, "R": np.ones((48, 48))}, "R is singular or not positive definite"),
    "R sparse, of rank one": ({"G": 1.0, "R": sparse.csr_array(np.ones((48, 48)))}, "R is singular or not positive"),
    "R indefinite": ({"G": 1.0, "R": sparse.csr_array(np.eye(48) + np.eye(48)[::-1] * 2.0)}, "eigenvalue is -1"),
    "R dense, indefinite": ({"G": 1.0, "R": np.eye(48) + np.eye(48)[::-1] * 2.0}, "smallest eigenvalue is -1"),
    "R without a variance": ({"G": 1.0, "R": sparse.csr_array((48, 48))}, "R is singular"),
    "R not symmetric": ({"G": 1.0, "R": np.eye(48) + np.eye(48, k=1)}, "R is not symmetric"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_variances_are_named(name: str) -> None:
    given, message = MALFORMED[name]
    with pytest.raises(MethodError, match=message):
        bl.solve(model_of("intercepts")[0], **given)


def test_malformed_calls_are_named() -> None:
    weighted, _ = model_of("slopes")
    with pytest.raises(MethodError, match="prior weights and R is one number"):
        bl.solve(weighted, G=1.0, R=1.0)
    fixed, _ = model_of("no random effects")
    with pytest.raises(MethodError, match="no random effects"):
        bl.solve(fixed, G=1.0, sigma=1.0)
    with pytest.raises(MethodError, match=r"theta must have shape \(0,\)"):
        bl.solve(fixed, theta=[1.0], sigma=1.0)


# The limiting prior


def posterior_of(model: Any, theta: Array, sigma: float, kappa: float) -> tuple[Array, Array, float]:
    """Posterior mean of β and u and the log marginal density under β ~ N(0, D⁻¹), densely; D_jj = κ[XᵀV⁻¹X]_jj."""
    G, R = variances(model, theta, sigma)
    X, Z = model.X, model.Z.toarray()
    y = model.design.y - (0.0 if model.design.offset is None else model.design.offset)
    V = Z @ G @ Z.T + R
    H = X.T @ np.linalg.solve(V, X)
    D = kappa * np.diag(np.diag(H))
    fixef = np.linalg.solve(H + D, X.T @ np.linalg.solve(V, y))
    ranef = G @ Z.T @ np.linalg.solve(V, y - X @ fixef)
    return fixef, ranef, stats.multivariate_normal.logpdf(y, cov=V + X @ np.linalg.solve(D, X.T))


def reml_loglik(model: Any, theta: Array, sigma: float) -> tuple[float, Array]:
    """The REML log-likelihood from error contrasts, and XᵀV⁻¹X: −½ [(n − p) log 2π + log|V| + log|XᵀV⁻¹X| + yᵀPy]."""
    G, R = variances(model, theta, sigma)
    X, Z = model.X, model.Z.toarray()
    y = model.design.y - (0.0 if model.design.offset is None else model.design.offset)
    V = Z @ G @ Z.T + R
    H = X.T @ np.linalg.solve(V, X)
    rest = y - X @ np.linalg.solve(H, X.T @ np.linalg.solve(V, y))
    logdet = np.linalg.slogdet(V)[1] + np.linalg.slogdet(H)[1]
    return -0.5 * ((len(y) - X.shape[1]) * np.log(2 * np.pi) + logdet + rest @ np.linalg.solve(V, rest)), H


LIMITS = ["intercepts", "slopes", "crossed", "nested", "boundary", "rank one, no intercept variance"]


@pytest.mark.parametrize("case", LIMITS)
def test_distances_are_those_of_the_dense_posterior(case: str) -> None:
    model, theta = model_of(case)
    limit, solution = bl.limiting_prior(model, theta, 1.3, exponents=range(4)), bl.solve(model, theta, 1.3)
    reml, H = reml_loglik(model, theta, 1.3)
    G = variances(model, theta, 1.3)[0]
    free = np.diag(G) > 0.0
    for row in limit.table.itertuples():
        fixef, ranef, marginal = posterior_of(model, theta, 1.3, row.kappa)
        assert_allclose(row.fixef, np.max(abs(fixef - solution.fixef) / solution.se), rtol=1e-8)
        moved = abs(ranef - flat(model, solution.ranef))[free] / np.sqrt(np.diag(G)[free])
        assert_allclose(row.ranef, moved.max(), rtol=1e-8)
        normaliser = 0.5 * np.sum(np.log(row.kappa * np.diag(H) / (2 * np.pi)))
        assert_allclose(row.marginal, marginal - normaliser - reml, rtol=1e-6)  # the dense one cancels


@pytest.mark.parametrize("case", LIMITS)
def test_the_rate_is_linear_and_has_no_floor(case: str) -> None:
    model, theta = model_of(case)
    limit = bl.limiting_prior(model, theta, 1.3, exponents=range(0, 41))
    assert_allclose(limit.rate, 1.0, atol=1e-3)
    small = limit.table[limit.table["kappa"] < 1e-8]
    for name in ("fixef", "ranef", "marginal"):
        per_kappa = small[name] / small["kappa"]
        assert_allclose(per_kappa, per_kappa.iloc[0], rtol=1e-6)
    assert "in proportion to κ" in limit.verdict


def test_the_default_goes_to_ten_digits() -> None:
    model, theta = model_of("crossed")
    limit = bl.limiting_prior(model, theta, 1.3)
    assert isinstance(limit, LimitingPrior)
    assert_allclose(limit.table["kappa"], 10.0 ** -np.arange(11.0), rtol=1e-15)
    assert list(limit.table.columns) == ["kappa", "fixef", "ranef", "marginal", "slope"]
    assert_allclose(limit.rate, 1.0, atol=1e-3)
    assert 0.0 < limit.table["fixef"].iloc[-1] < 1e-8
    assert "rate: fixef 1.0000" in str(limit)


def test_distances_do_not_change_with_the_unit_of_a_predictor() -> None:
    data = table()
    plain, tiny = (
        bl.limiting_prior(model_of("intercepts", frame)[0], [0.7], 1.3).table
        for frame in (data, data.assign(x=data.x * 1e-200))
    )
    assert_allclose(tiny, plain, rtol=1e-10)


def test_a_collinear_design_says_that_the_limit_lies_further() -> None:
    data = table()
    model = bl.Model("y ~ x + (1 | g)", data.assign(x=data.x + 1e7))
    limit = bl.limiting_prior(model, [0.7], 1.3)
    assert limit.floor < 1e-12
    assert "smaller κ" in limit.verdict
    assert_allclose(bl.limiting_prior(model, [0.7], 1.3, exponents=range(0, 25)).rate, 1.0, atol=1e-3)


def test_nothing_to_move() -> None:
    limit = bl.limiting_prior(model_of("intercepts", table().assign(y=0.0))[0], [0.7], 1.3)
    assert_array_equal(limit.table[["fixef", "ranef"]], 0.0)
    assert_allclose(limit.rate["marginal"], 1.0, atol=1e-3)  # the determinant still moves


def test_without_random_effects() -> None:
    model, theta = model_of("no random effects")
    limit = bl.limiting_prior(model, theta, 1.3)
    assert_array_equal(limit.table["ranef"], 0.0)
    assert_allclose(limit.rate[["fixef", "marginal"]], 1.0, atol=1e-3)


def test_results_lend_their_variances() -> None:
    model, theta = model_of("crossed")
    given = bl.limiting_prior(model, theta, 1.3).table
    fit = SimpleNamespace(model=model, theta=theta, sigma=1.3)
    sd, corr = {}, {}
    start = 0
    for term in model.terms:
        part = theta[start : start + term.covariance.n_theta]
        natural = term.covariance.natural(part, 1.3)
        effects = list(term.effects)
        sd[term.group] = pd.Series(natural[0], index=effects)
        corr[term.group] = pd.DataFrame(natural[1], index=effects, columns=effects)
        start += term.covariance.n_theta
    posterior = SimpleNamespace(model=model, sd=sd, corr=corr, sigma=1.3)
    for result in (fit, posterior):
        assert_allclose(bl.limiting_prior(result).table, given, rtol=1e-10)
        assert_allclose(bl.solve(result).fixef, bl.solve(model, theta, 1.3).fixef, rtol=1e-12)


@pytest.mark.parametrize("exponents", [[], [1, 1], [2, 1], [0, np.nan], ["a"], [[1, 2]]])
def test_malformed_exponents_are_named(exponents: list[Any]) -> None:
    with pytest.raises(MethodError, match="exponents must"):
        bl.limiting_prior(model_of("intercepts")[0], [1.0], 1.0, exponents=exponents)


def test_malformed_limits_are_named() -> None:
    model, theta = model_of("no fixed effects")
    with pytest.raises(MethodError, match="no fixed effects"):
        bl.limiting_prior(model, theta, 1.0)
    with pytest.raises(MethodError, match="Var e is missing"):
        bl.limiting_prior(model_of("intercepts")[0])


def test_other_responses_are_refused() -> None:
    model = SimpleNamespace(family="poisson", link="log")
    with pytest.raises(NotSupportedError, match="Gaussian response"):
        bl.solve(model, [1.0], 1.0)


def test_the_figure_has_axes_a_reference_line_and_every_distance() -> None:
    from matplotlib import pyplot

    model, theta = model_of("crossed")
    limit = bl.limiting_prior(model, theta, 1.3)
    ax = limit.plot()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[-1] == "slope 1"
    assert len(labels) == len(ax.get_lines()) == 4
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "κ" in ax.get_xlabel()
    slope = np.log(ax.get_lines()[-1].get_ydata())
    assert_allclose(np.diff(slope), -np.log(10.0), rtol=1e-10)
    assert limit.plot(ax) is ax
    pyplot.close(ax.figure)


KAPPA = 1e-6  # moves β by about 1e-5 standard errors, the Monte Carlo error being 1e-2


def hierarchical_given_variances(model: Any, theta: Array, sigma: float, word: str) -> Any:
    """The hierarchical graph with (θ, σ) fixed and β ~ N(0, D⁻¹), D_jj = κ[XᵀV⁻¹X]_jj."""
    import pymc as pm

    from bayeslmm.graph.hierarchical import build

    D = KAPPA * np.diag(reml_loglik(model, theta, sigma)[1])
    names = model.design.fixed.names
    priors = {name: bl.Prior("Normal", mu=0.0, sigma=d**-0.5) for name, d in zip(names, D, strict=True)}
    (term,) = model.terms
    sd, corr = term.covariance.natural(theta, sigma)
    fixed = {f"sd_{term.group}": sd, f"corr_{term.group}": corr[np.triu_indices(len(sd), 1)], "sigma": sigma}
    return pm.do(build(model.update(priors=priors), parametrisation=word), fixed)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["centred", "noncentred"])
def test_nuts_gives_blue_blup_and_the_inverse_coefficient_matrix(word: str) -> None:
    import arviz as az
    import pymc as pm

    model, theta = model_of("slopes")
    solution = bl.solve(model, theta, 1.3)
    with hierarchical_given_variances(model, theta, 1.3, word):
        tree = pm.sample(2000, tune=1000, chains=4, cores=1, random_seed=7, progressbar=False, target_accept=0.9)
    ranef = tree.posterior["ranef_g"].to_numpy().reshape(4, 2000, -1)
    draws = np.concatenate([tree.posterior["fixef"].to_numpy(), ranef], axis=2)
    target = np.concatenate([solution.fixef, flat(model, solution.ranef)])

    # along the eigenvectors of the inverse coefficient matrix the draws are independent N(0, 1) if the claim is true
    values, vectors = np.linalg.eigh(solution.inverse.to_numpy())
    white = (draws - target) @ vectors / np.sqrt(values)
    z = standardised(white, az.ess)
    assert stats.chi2.sf(np.sum(z**2), len(z)) > 1e-4
    first, second = np.triu_indices(len(z))
    pairs = standardised(white[..., first] * white[..., second] - (first == second), az.ess)
    assert np.max(abs(pairs)) < 4.5  # 105 entries: chance 7e-4


def standardised(draws: Array, ess: Callable[..., Any]) -> Array:
    """Mean over its Monte Carlo standard error, for each of the last axis (chains × draws × quantities)."""
    effective = np.array([float(ess(np.ascontiguousarray(part), method="mean")) for part in np.moveaxis(draws, 2, 0)])
    return draws.mean(axis=(0, 1)) / (draws.std(axis=(0, 1)) / np.sqrt(effective))
