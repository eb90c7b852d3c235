"""Derivatives: against the dense analytic slope (full relative precision, tiny and zero θ) and against differences."""

import numpy as np
import pytest
from dense import design_of, model_of, of_design, of_model, relative, slope_in_theta, term_of
from designs import designs
from hypothesis import assume, given, settings
from scipy import stats
from test_exact import DENSE, SPARSE, forced, leaves_a_residual

import bayeslmm as bl
from bayeslmm.covariance import Diagonal, Unstructured
from bayeslmm.direct import Direct
from bayeslmm.exact.density import natural
from bayeslmm.exact.gaussian import INTEGRATED, JOINT, Gaussian, level, level_at, marginal
from bayeslmm.exact.products import products
from bayeslmm.exact.pullback import products_pullback


def richardson(function, x, step=1e-4):
    """Derivative of a function of a vector, by central differences extrapolated to step 0."""
    x, found = np.asarray(x, float), []
    for i in range(len(x)):
        h = step * max(1.0, abs(x[i])) * np.eye(len(x))[i]
        coarse = (function(x + h) - function(x - h)) / (2 * h[i])
        fine = (function(x + h / 2) - function(x - h / 2)) / h[i]
        found.append((4 * fine - coarse) / 3)
    return np.array(found)


def close(got, want, rel=1e-6):
    np.testing.assert_allclose(got, want, rtol=rel, atol=rel * (1e-300 + np.abs(want).max(initial=0)))


@settings(max_examples=150)
@given(designs())
def test_gradients_equal_the_dense_slope(case):
    design, theta = case
    oracle, Lam = of_design(design), relative(design.random, theta)
    assume(leaves_a_residual(oracle, Lam))
    for reml in (False, True):
        want = slope_in_theta(design.random, oracle.slope(Lam, reml))
        for cost in (SPARSE, DENSE):
            _, got = Gaussian(forced(design, cost)).deviance_gradient(theta, reml)
            close(got, want)


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-4])
@pytest.mark.parametrize("covariance", [Unstructured, Diagonal])
def test_near_the_boundary_every_entry_is_right_to_its_own_size(size, covariance, rng):
    """At θ = 1e-8 the gradient is 1e-8 times the slope in the variance: no entry hides behind another."""
    n, k = 60, 3
    terms = [
        term_of(g, codes, rng.normal(size=(n, k)), covariance)
        for g, codes in (("a", np.arange(n) % 6), ("b", np.arange(n) // 15))
    ]
    design = design_of(rng.normal(size=n), np.ones((n, 1)), terms)
    theta = size * rng.uniform(0.5, 1.5, 2 * terms[0].covariance.n_theta)
    for reml in (False, True):
        want = slope_in_theta(design.random, of_design(design).slope(relative(design.random, theta), reml))
        _, got = Gaussian(products(design)).deviance_gradient(theta, reml)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9 * size)


@settings(max_examples=30)
@given(designs(sizes=(0.0, 0.3, 1.0, 3.0)))
def test_gradients_equal_differences(case):
    design, theta = case
    gaussian = Gaussian(products(design))
    for reml in (False, True):
        value, got = gaussian.deviance_gradient(theta, reml)
        assert value == gaussian.deviance(theta, reml)
        close(got, richardson(lambda t, reml=reml: gaussian.deviance(t, reml), theta), 1e-5)  # what differences reach


@settings(max_examples=25)
@given(designs(sizes=(0.0, 0.3, 1.0)))
def test_pullback_to_the_products(case):
    """ḡ·logdet + Σ Ḡ∘S moves with A, B and C as `products_pullback` says; symmetric pairs of A move together."""
    design, theta = case
    rng = np.random.default_rng(7)
    for cost in (SPARSE, DENSE):
        taken = forced(design, cost)
        s, lam = taken.system, taken.lam(theta)
        gbar, Gbar = 0.7, rng.normal(size=s.C.shape)
        Gbar = Gbar + Gbar.T
        at = marginal(s, lam)
        bar = products_pullback(s, lam, at.factor, gbar, Gbar)

        def value(system, lam=lam, gbar=gbar, Gbar=Gbar):
            found = marginal(system, lam)
            return gbar * found.logdet + np.sum(Gbar * found.S)

        for field in ("A11", "A21", "A22", "B", "C"):
            direction = rng.normal(size=getattr(s, field).shape)
            direction = symmetric(field, direction, s)
            moved = [s._replace(**{field: getattr(s, field) + h * direction}) for h in (1e-5, -1e-5)]
            want = (value(moved[0]) - value(moved[1])) / 2e-5
            got = np.sum(getattr(bar, field) * direction)
            assert got == pytest.approx(want, rel=1e-5, abs=1e-6 * (1 + np.abs(Gbar).max()))


def symmetric(field, direction, s):
    """A direction that keeps A and C symmetric."""
    if field == "C":
        return direction + direction.T
    if field == "A11":
        return direction + np.swapaxes(direction, 1, 2)
    if field == "A22":
        for b in range(len(s.rest_row)):
            if s.rest_row[b] == s.rest_col[b]:
                k = s.width[s.rest_row_factor[b]]
                block = direction[s.rest_at[b] : s.rest_at[b] + k * k].reshape(k, k)
                direction[s.rest_at[b] : s.rest_at[b] + k * k] = (block + block.T).ravel()
    return direction


@pytest.mark.parametrize("mode", [INTEGRATED, JOINT])
@pytest.mark.parametrize("p", [0, 1, 3])
def test_level_derivatives(mode, p, rng):
    M = rng.normal(size=(30, p + 1))
    S, T, t = M.T @ M, rng.normal(size=(p, p)), rng.normal(size=p)
    at = level(S, 3.0, 30, 1.3, T, t, mode)
    assert at.gbar == -0.5
    assert at.sigma_bar == pytest.approx(
        richardson(lambda v: level(S, 3.0, 30, v[0], T, t, mode).value, [1.3])[0], rel=1e-8
    )
    D = rng.normal(size=S.shape)
    D = D + D.T
    want = richardson(lambda h: level(S + h[0] * D, 3.0, 30, 1.3, T, t, mode).value, [0.0])[0]
    assert np.sum(at.Gbar * D) == pytest.approx(want, rel=1e-8)


def test_level_at_derivatives(rng):
    M = rng.normal(size=(30, 4))
    S, beta = M.T @ M, rng.normal(size=3)
    _, gbar, Gbar, sigma_bar, beta_bar = level_at(S, 3.0, 30, 1.3, beta)
    assert gbar == -0.5
    assert sigma_bar == pytest.approx(richardson(lambda v: level_at(S, 3.0, 30, v[0], beta)[0], [1.3])[0], rel=1e-8)
    np.testing.assert_allclose(beta_bar, richardson(lambda b: level_at(S, 3.0, 30, 1.3, b)[0], beta), rtol=1e-8)
    D = M.T @ rng.normal(size=M.shape)
    D = D + D.T
    want = richardson(lambda h: level_at(S + h[0] * D, 3.0, 30, 1.3, beta)[0], [0.0])[0]
    assert np.sum(Gbar * D) == pytest.approx(want, rel=1e-8)


SCALES = {
    "sd_g": bl.Prior("Gamma", alpha=2, beta=0.5),
    "sd_g[x]": bl.Prior("HalfStudentT", nu=3, sigma=2),
    "sd_h": bl.Prior("HalfNormal", sigma=1.5),
    "corr_g": bl.Prior("LKJ", eta=2.5),
    "sigma": bl.Prior("InverseGamma", alpha=3, beta=2),
}
NORMAL = {"Intercept": bl.Prior("Normal", mu=1, sigma=3), "x": bl.Prior("Normal", mu=-1, sigma=0.5)}
HEAVY = {"Intercept": bl.Prior("StudentT", nu=4, mu=1, sigma=3), "x": bl.Prior("Normal", mu=-1, sigma=0.5)}
LOG_SD = {
    "g": [
        stats.gamma(2, scale=2).logpdf,
        lambda v: np.log(2) + stats.t(3, scale=2).logpdf(v),
        stats.gamma(2, scale=2).logpdf,
    ],
    "h": [stats.halfnorm(scale=1.5).logpdf],
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    n = 120
    return {
        "y": rng.normal(size=n) + 3,
        "x": rng.normal(size=n) + 1,
        "z": rng.normal(size=n),
        "g": np.arange(n) % 15,
        "h": np.arange(n) // 20,
        "w": rng.uniform(0.5, 2, n),
    }


def model(data, priors):
    return bl.Model("y ~ x + (x + z | g) + (1 | h)", data, weights="w", priors=priors)


def natural_of(direct, x):
    """(sd, R of the k × k term, σ) at the sampler's coordinates."""
    at = natural(direct.layout, np.asarray(x, float))
    L = at.L[:9].reshape(3, 3)  # g has the most levels, so its term comes first
    return at.sd, L @ L.T, at.sigma


def independent(direct, x, beta_prior):
    """Log density of (sd, R, σ) at the natural parameters, written from the dense covariance and SciPy's densities."""
    sd, R, sigma = natural_of(direct, x)
    sd_g, sd_h = sd[:3], sd[3:]
    assert direct.model.groups == ("g", "h")
    Lam = np.zeros((51, 51))
    Lam[:45, :45] = np.kron(np.eye(15), np.diag(sd_g / sigma) @ np.linalg.cholesky(R))
    Lam[45:, 45:] = np.eye(6) * sd_h / sigma
    value = beta_prior(of_model(direct.model), Lam, sigma)
    value += sum(f(v) for f, v in zip(LOG_SD["g"], sd_g, strict=True)) + LOG_SD["h"][0](sd_h[0])
    value += stats.invgamma(3, scale=2).logpdf(sigma)
    constant = np.log(integral_of_determinant_power(k=3, eta=2.5))
    return value + 1.5 * np.linalg.slogdet(R)[1] - constant


def integral_of_determinant_power(k, eta):
    """∫ |R|^(η − 1) dR over k × k correlation matrices (Lewandowski, Kurowicka & Joe 2009, eq. 16)."""
    from scipy.special import betaln

    i = np.arange(1, k)
    a = eta + (k - i - 1) / 2
    return np.exp(np.sum((2 * eta - 2 + k - i) * (k - i) * np.log(2) + (k - i) * betaln(a, a)))


def test_log_density_equals_one_written_from_the_dense_covariance(data):
    direct = Direct(model(data, SCALES | NORMAL))
    mean, covariance = np.array([1.0, -1.0]), np.diag([9.0, 0.25])
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=direct.size) * 0.7
        want = independent(direct, x, lambda dense, Lam, sigma: dense.marginal(Lam, sigma, mean, covariance))
        assert direct.log_density(x, jacobian=False)[0] == pytest.approx(want, rel=1e-9)


def test_log_density_with_coefficients_explicit(data):
    direct = Direct(model(data, SCALES | HEAVY))
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=direct.size) * 0.5
        beta = direct.model.products.beta(x[-2:])
        prior = stats.t(4, loc=1, scale=3).logpdf(beta[0]) + stats.norm(-1, 0.5).logpdf(beta[1])
        want = independent(
            direct, x, lambda dense, Lam, sigma, beta=beta, prior=prior: dense.at(Lam, sigma, beta) + prior
        )
        assert direct.log_density(x, jacobian=False)[0] == pytest.approx(want, rel=1e-9)


def test_the_default_intercept_prior_is_at_the_predictor_means(data):
    """β₀ = a − x̄ b, a and b independent: the joint normal prior that Bambi's centring implies."""
    direct = Direct(model(data, SCALES))
    y, x = data["y"], data["x"]
    slope, wide = 2.5 * y.std() / x.std(), 2.5 * y.std() * np.hypot(1, x.mean() / x.std())
    T = np.array([[1, -x.mean()], [0, 1]])
    mean, covariance = T @ [y.mean(), 0.0], T @ np.diag([wide**2, slope**2]) @ T.T
    at = np.random.default_rng(1).normal(size=direct.size) * 0.5
    want = independent(direct, at, lambda dense, Lam, sigma: dense.marginal(Lam, sigma, mean, covariance))
    assert direct.log_density(at, jacobian=False)[0] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("beta", [NORMAL, HEAVY, {}], ids=["normal", "student", "default"])
def test_log_density_gradient(data, beta, jacobian):
    direct = Direct(model(data, SCALES | beta))
    for scale in (0.1, 1.0, 2.0):
        x = np.random.default_rng(3).normal(size=direct.size) * scale
        _, got = direct.log_density(x, jacobian)
        close(got, richardson(lambda v: direct.log_density(v, jacobian)[0], x, 1e-3))


def test_the_jacobian_is_that_of_the_map_to_sd_correlations_and_sigma(data):
    direct = Direct(model(data, SCALES | NORMAL))

    def place(x):
        sd, R, sigma = natural_of(direct, x)
        return np.concatenate([sd, R[np.triu_indices(3, 1)], [sigma]])

    for seed in range(4):
        x = np.random.default_rng(seed).normal(size=direct.size)
        J = np.column_stack([richardson(lambda v, i=i: place(v)[i], x, 1e-3) for i in range(direct.size)])
        difference = direct.log_density(x, True)[0] - direct.log_density(x, False)[0]
        assert difference == pytest.approx(np.linalg.slogdet(J)[1], rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("likelihood_only", [False, True])
@pytest.mark.parametrize("mode", [INTEGRATED, JOINT])
def test_point_estimation_objectives(data, likelihood_only, mode):
    direct = Direct(model(data, SCALES | NORMAL), likelihood_only=likelihood_only)
    rng = np.random.default_rng(2)
    theta, log_sigma = rng.uniform(0.2, 1.0, direct.model.n_theta), 0.3
    x = np.append(theta, log_sigma)
    _, got = direct.minus_twice_at(x[:-1], x[-1], mode)
    close(got, richardson(lambda v: direct.minus_twice_at(v[:-1], float(v[-1]), mode)[0], x))
    x = np.concatenate([rng.uniform(0.2, 1.0, direct.n_sd), 0.5 * rng.normal(size=direct.n_corr), [0.2]])
    _, got = direct.minus_twice_natural(x, mode)
    close(got, richardson(lambda v: direct.minus_twice_natural(v, mode)[0], x))


@pytest.mark.parametrize("mode", [INTEGRATED, JOINT])
def test_one_density_whatever_its_coordinates(data, mode):
    """(theta, log σ), (sd, z, log σ) and the sampler's x give one value of the density of the natural parameters."""
    direct = Direct(model(data, SCALES | NORMAL))
    x = np.concatenate([[0.4, 0.8, 0.3, 0.6], 0.5 * np.random.default_rng(4).normal(size=3), [0.2]])
    theta, sigma = direct.theta_sigma(x)
    by_theta = direct.minus_twice_at(theta, np.log(sigma / direct.layout.y_scale), mode)[0]
    assert by_theta == pytest.approx(direct.minus_twice_natural(x, mode)[0], rel=1e-12)
    if mode == INTEGRATED:
        sampler = np.concatenate([np.log(x[:4]), x[4:]])
        assert -0.5 * by_theta == pytest.approx(direct.log_density(sampler, jacobian=False)[0], rel=1e-12)


def test_slopes_of_a_group_less_design_are_empty(rng):
    design = design_of(rng.normal(size=10), np.ones((10, 1)), [])
    value, slope = Gaussian(products(design)).deviance_gradient(np.zeros(0))
    assert np.isfinite(value)
    assert slope.shape == (0,)
    assert model_of(design).groups == ()
