"""Point fits: closed forms and their boundary, MAP, held parameters, extreme numbers, what a result answers."""

import numpy as np
import pandas as pd
import pytest
from dense import of_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

import bayeslmm as bl
from bayeslmm.errors import ExactFitError, MethodError


@pytest.fixture(scope="module")
def dyestuff(root):
    return pd.read_csv(root / "models/dyestuff/data.csv")


@pytest.fixture(scope="module")
def dyestuff2(root):
    return pd.read_csv(root / "models/dyestuff2/data.csv")


@pytest.fixture(scope="module")
def sleepstudy(root):
    return pd.read_csv(root / "models/sleepstudy/data.csv")


def slopes_data(seed=0, groups=12, size=8):
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(groups), size), np.tile(np.arange(float(size)), groups)
    u = rng.normal(size=(groups, 2)) @ np.array([[3.0, 0.5], [0.0, 0.8]])
    return {"y": 10 + 2 * x + u[g, 0] + u[g, 1] * x + 1.5 * rng.normal(size=groups * size), "x": x, "g": g}


# closed forms


def one_way(y, method):
    """Balanced one-way layout y (groups, size): sd, σ, log-likelihood in closed form, variance 0 where it would be negative."""
    q, m = y.shape
    n, within = y.size, np.sum((y - y.mean(axis=1, keepdims=True)) ** 2)
    between = m * np.sum((y.mean(axis=1) - y.mean()) ** 2)
    lost = 1 if method == "REML" else 0
    sigma2, lam = within / (q * (m - 1)), between / (q - lost)
    if lam <= sigma2:
        sigma2 = lam = (within + between) / (n - lost)
    value = (n - lost) * np.log(2 * np.pi) + q * (m - 1) * np.log(sigma2) + (q - lost) * np.log(lam)
    value += within / sigma2 + between / lam + lost * np.log(n)
    return np.sqrt((lam - sigma2) / m), np.sqrt(sigma2), -value / 2


@settings(max_examples=40)
@given(
    st.integers(3, 12), st.integers(2, 6), st.floats(0, 2), st.integers(0, 2**32 - 1), st.sampled_from(["REML", "ML"])
)
def test_balanced_one_way_layout(q, m, ratio, seed, method):
    rng = np.random.default_rng(seed)
    y = 5 + ratio * rng.normal(size=(q, 1)) + rng.normal(size=(q, m))
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": y.ravel(), "g": np.repeat(np.arange(q), m)}), method)
    sd, sigma, loglik = one_way(y, method)
    assert fit.converged
    assert fit.loglik == pytest.approx(loglik, rel=1e-9)
    assert fit.sigma == pytest.approx(sigma, rel=1e-5)
    assert fit.singular == (sd == 0)
    assert fit.sd["g"]["Intercept"] == (0.0 if sd == 0 else pytest.approx(sd, rel=1e-4, abs=1e-5))
    assert fit.fixef["Intercept"] == pytest.approx(y.mean(), rel=1e-9)
    shrunk = sd**2 / (sd**2 + sigma**2 / m)
    np.testing.assert_allclose(fit.ranef["g"]["Intercept"], shrunk * (y.mean(axis=1) - y.mean()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.ranef_cov["g"].ravel(), sd**2 * (1 - shrunk), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("start", [None, [0.0], [1e-9], [1e-4], [5.0], [1e3]])
def test_dyestuff2_is_zero_and_dyestuff_is_not(dyestuff, dyestuff2, method, start):
    """From θ = 0 too, where the gradient vanishes on both data sets and only one has its optimum."""
    zero = bl.fit(bl.Model("Yield ~ 1 + (1 | Batch)", dyestuff2), method, start=start)
    assert zero.sd["Batch"]["Intercept"] == 0.0
    assert zero.theta.tolist() == [0.0]
    assert zero.singular
    assert zero.converged
    assert (zero.ranef["Batch"] == 0).all().all()
    fit = bl.fit(bl.Model("Yield ~ 1 + (1 | Batch)", dyestuff), method, start=start)
    y = dyestuff.sort_values("Batch", kind="stable")["Yield"].to_numpy(float).reshape(6, 5)
    assert fit.sd["Batch"]["Intercept"] == pytest.approx(one_way(y, method)[0], rel=1e-6)
    assert fit.converged
    assert not fit.singular


def test_no_random_term_is_least_squares(rng):
    n = 40
    data = {"y": rng.normal(size=n) + 2, "x": rng.normal(size=n), "w": rng.uniform(0.5, 2, n)}
    X, W = np.column_stack([np.ones(n), data["x"]]), np.diag(data["w"])
    inverse = np.linalg.inv(X.T @ W @ X)
    beta = inverse @ X.T @ W @ data["y"]
    rss = (data["y"] - X @ beta) @ W @ (data["y"] - X @ beta)
    for method, degrees in (("REML", n - 2), ("ML", n)):
        fit = bl.fit(bl.Model("y ~ x", data, weights="w"), method)
        np.testing.assert_allclose(fit.fixef, beta, rtol=1e-10)
        assert fit.sigma == pytest.approx(np.sqrt(rss / degrees), rel=1e-10)
        np.testing.assert_allclose(fit.vcov, rss / degrees * inverse, rtol=1e-9)
        value = degrees * (1 + np.log(2 * np.pi * rss / degrees)) - np.log(data["w"]).sum()
        value -= np.linalg.slogdet(inverse)[1] if method == "REML" else 0
        assert fit.loglik == pytest.approx(-value / 2, rel=1e-10)
        assert (fit.converged, fit.singular, fit.sd, fit.ranef, len(fit.theta)) == (True, False, {}, {}, 0)
        np.testing.assert_allclose(fit.residuals, data["y"] - X @ beta, atol=1e-12)


def test_a_correlation_of_minus_one_is_exact():
    """Effects that are one number times (1, −½): the second pivot of λ is 0, not 1e-8."""
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(30), 6), np.tile(np.linspace(-1, 1, 6), 30)
    y = 1 + rng.normal(size=30)[g] * (1 - 0.5 * x) + 0.7 * rng.normal(size=180)
    fits = [
        bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": g}), start=s)
        for s in (None, [0, 0, 0], [0, 0, 1], [1, 1, 1])
    ]
    for fit in fits:
        assert fit.converged
        assert fit.singular
        assert fit.theta[2] == 0.0
        assert fit.corr["g"].iloc[0, 1] == pytest.approx(-1.0, abs=1e-12)
        assert fit.loglik == pytest.approx(fits[0].loglik, abs=1e-8)


def test_a_predictor_far_from_zero_leaves_no_false_zero():
    """Shifted by 2000 the intercepts' sd is 1680 and their correlation with the slopes −0.9999996: no zero there."""
    data = slopes_data()
    near, far = (bl.fit(bl.Model("y ~ x + (x | g)", data | {"x": data["x"] + s})) for s in (0.0, 2000.0))
    assert far.converged
    assert not far.singular
    assert far.loglik == pytest.approx(near.loglik, abs=1e-6)
    assert far.sd["g"]["x"] == pytest.approx(near.sd["g"]["x"], rel=1e-5)
    sd, corr = far.sd["g"], far.corr["g"].iloc[0, 1]
    at_2000 = np.sqrt(sd["Intercept"] ** 2 + 4000 * corr * sd["Intercept"] * sd["x"] + (2000 * sd["x"]) ** 2)
    assert at_2000 == pytest.approx(near.sd["g"]["Intercept"], rel=1e-4)


@pytest.mark.parametrize("power", [-200, 200])
def test_response_times_a_power_of_ten(power):
    data, unit = slopes_data(), 10.0**power
    fit, other = (bl.fit(bl.Model("y ~ x + (x | g)", data | {"y": data["y"] * s})) for s in (1.0, unit))
    np.testing.assert_allclose(other.fixef / unit, fit.fixef, rtol=1e-7)
    np.testing.assert_allclose(other.sd["g"] / unit, fit.sd["g"], rtol=1e-5)
    np.testing.assert_allclose(other.corr["g"], fit.corr["g"], rtol=1e-5)
    assert other.sigma / unit == pytest.approx(fit.sigma, rel=1e-6)
    assert other.loglik + (fit.nobs - 2) * np.log(10) * power == pytest.approx(fit.loglik, abs=1e-8 * abs(other.loglik))
    assert other.converged


@pytest.mark.parametrize("power", [-200, 200])
def test_predictor_times_a_power_of_ten(power):
    data, unit = slopes_data(), 10.0**power
    fit, other = (bl.fit(bl.Model("y ~ x + (x | g)", data | {"x": data["x"] * s})) for s in (1.0, unit))
    np.testing.assert_allclose(other.fixef * [1, unit], fit.fixef, rtol=1e-7)
    np.testing.assert_allclose(other.sd["g"] * [1, unit], fit.sd["g"], rtol=1e-5)
    assert other.corr["g"].iloc[0, 1] == pytest.approx(fit.corr["g"].iloc[0, 1], rel=1e-5)
    assert other.sigma == pytest.approx(fit.sigma, rel=1e-6)
    assert other.loglik + np.log(10) * power == pytest.approx(fit.loglik, rel=1e-9)


@pytest.mark.parametrize("shift", [1e6, -1e6])
def test_response_plus_a_million(shift):
    data = slopes_data()
    fit, other = (bl.fit(bl.Model("y ~ x + (x | g)", data | {"y": data["y"] + s})) for s in (0.0, shift))
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-7)
    np.testing.assert_allclose(other.theta, fit.theta, rtol=1e-5)
    assert other.fixef["Intercept"] - shift == pytest.approx(fit.fixef["Intercept"], rel=1e-8)


@pytest.mark.parametrize("noise", [1e-2, 1e-3, 1e-4])
def test_a_residual_far_smaller_than_the_groups(noise):
    """sd / σ up to 2.8e4: more than the cross-products resolve in the value, not more than in the gradient."""
    rng = np.random.default_rng(0)
    y = 2.8 * rng.normal(size=(12, 1)) + noise * rng.normal(size=(12, 8))
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": y.ravel(), "g": np.repeat(np.arange(12), 8)}))
    sd, sigma, _ = one_way(y, "REML")
    assert fit.converged
    assert fit.sigma == pytest.approx(sigma, rel=1e-5)
    assert fit.sd["g"]["Intercept"] == pytest.approx(sd, rel=1e-5)


EXACT = {
    "linear": lambda x, u, g: 0.1 + 0.3 * x,
    "constant": lambda x, u, g: 0 * x + 0.3,
    "by group": lambda x, u, g: u[g, 0],
    "group and x": lambda x, u, g: u[g, 0] + 0.7 * x,
    "slopes": lambda x, u, g: u[g, 0] + u[g, 1] * x,
}


@pytest.mark.parametrize("method", ["REML", "ML", "MAP"])
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("linear", "y ~ x + (1 | g)"),
        ("linear", "y ~ x"),
        ("constant", "y ~ 1 + (1 | g)"),
        ("by group", "y ~ 1 + (1 | g)"),
        ("group and x", "y ~ x + (1 | g)"),
        ("slopes", "y ~ x + (x | g)"),
    ],
)
def test_data_without_a_residual_are_named(name, formula, method):
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(10), 6), rng.normal(size=60)
    y = EXACT[name](x, rng.normal(size=(10, 2)), g)
    with pytest.raises(ExactFitError, match="reproduce"):
        bl.fit(bl.Model(formula, {"y": y, "x": x, "g": g}, priors="flat"), method)


# MAP

FLAT_CASES = [
    "Reaction ~ Days + (Days | Subject)",
    "Reaction ~ Days + (Days || Subject)",
    "Reaction ~ Days + (1 | Subject)",
    "Reaction ~ Days",
]


@pytest.mark.parametrize(("fixef", "method"), [("integrated", "REML"), ("joint", "ML")])
@pytest.mark.parametrize("formula", FLAT_CASES)
def test_flat_map_is_reml_or_ml(sleepstudy, formula, fixef, method):
    model = bl.Model(formula, sleepstudy, priors="flat")
    mode, fit = bl.fit(model, "MAP", fixef=fixef), bl.fit(model, method)
    np.testing.assert_allclose(mode.theta, fit.theta, rtol=1e-6, atol=1e-6)
    assert mode.sigma == pytest.approx(fit.sigma, rel=1e-6)
    np.testing.assert_allclose(mode.fixef, fit.fixef, rtol=1e-6)
    lkj = np.log(0.5) if "(Days | Subject)" in formula else 0.0  # LKJ(1) is uniform over (−1, 1), not of density 1
    sigma_free = fit.loglik + lkj
    if fixef == "integrated":
        assert mode.logposterior == pytest.approx(sigma_free, abs=2e-2)  # REML profiles σ at n − p, as the mode does
    assert mode.loglik == pytest.approx(bl.fit(model, "ML").loglik, abs=0.5)
    assert np.isnan(mode.aic)
    assert np.isnan(mode.bic)


def test_flat_map_on_the_boundary(dyestuff2):
    model = bl.Model("Yield ~ 1 + (1 | Batch)", dyestuff2, priors="flat")
    for fixef, method in (("integrated", "REML"), ("joint", "ML")):
        mode, fit = bl.fit(model, "MAP", fixef=fixef), bl.fit(model, method)
        assert mode.sd["Batch"]["Intercept"] == 0.0
        assert mode.sigma == pytest.approx(fit.sigma, rel=1e-6)
        assert mode.converged


@pytest.mark.parametrize("start", [None, [0.0], [3.0]])
def test_a_gamma_prior_avoids_the_boundary(dyestuff2, start):
    """Chung et al. (2013): a Gamma(2, small rate) prior on sd moves the mode off 0, by less than a standard error."""
    prior = {"sd_Batch": bl.Prior("Gamma", alpha=2, beta=1e-3)}
    flat = bl.Model("Yield ~ 1 + (1 | Batch)", dyestuff2, priors="flat")
    mode = bl.fit(bl.Model("Yield ~ 1 + (1 | Batch)", dyestuff2, priors=prior), "MAP", start=start)
    assert mode.converged
    assert not mode.singular
    assert mode.sd["Batch"]["Intercept"] > 0.5
    assert mode.loglik > bl.fit(flat, "ML").loglik - 1


def independent_density(model, priors, fixef):
    """(sd_h, sd_g…, z, log σ, β) → log density of the natural parameters, from the dense covariance and SciPy."""
    dense = of_model(model)
    X, n = dense.X, len(dense.y)

    def density(x):
        sd, rho, sigma, beta = x[:2], np.tanh(x[2]), np.exp(x[3]), x[4:]
        lam = np.diag(sd / sigma) @ np.linalg.cholesky([[1, rho], [rho, 1]])
        root = dense.Z @ np.kron(np.eye(len(model.levels("g"))), lam)
        V = sigma**2 * (root @ root.T + np.diag(dense.noise))
        if fixef == "integrated":
            V += X @ np.diag([9.0, 4.0]) @ X.T
            value = stats.multivariate_normal(X @ [8.0, 1.0], V).logpdf(dense.y)
        else:
            value = stats.multivariate_normal(X @ beta, V).logpdf(dense.y) + priors["beta"](beta)
        return value + priors["sd"](sd) + np.log(0.75 * (1 - rho**2)) + stats.halfcauchy(scale=2).logpdf(sigma)

    assert n < 200
    return density


PRIORS = {
    "sd_g": bl.Prior("Gamma", alpha=2, beta=0.5),
    "sd_g[x]": bl.Prior("HalfNormal", sigma=0.5),
    "corr_g": bl.Prior("LKJ", eta=2),
    "sigma": bl.Prior("HalfCauchy", beta=2),
}
SD = lambda sd: stats.gamma(2, scale=2).logpdf(sd[0]) + stats.halfnorm(scale=0.5).logpdf(sd[1])  # noqa: E731
BETA = {
    "normal": (
        {"Intercept": bl.Prior("Normal", mu=8, sigma=3), "x": bl.Prior("Normal", mu=1, sigma=2)},
        lambda b: stats.norm([8, 1], [3, 2]).logpdf(b).sum(),
    ),
    "student": (
        {"Intercept": bl.Prior("StudentT", nu=3, mu=8, sigma=3), "x": bl.Prior("StudentT", nu=3, mu=1, sigma=0.2)},
        lambda b: stats.t(3, [8, 1], [3, 0.2]).logpdf(b).sum(),
    ),
}


@pytest.mark.parametrize(("kind", "fixef"), [("normal", "integrated"), ("normal", "joint"), ("student", "joint")])
def test_map_is_a_mode_of_a_density_written_independently(kind, fixef):
    """Natural parameters, no Jacobian: SciPy, from there, finds nothing higher and no slope."""
    given_priors, beta_density = BETA[kind]
    model = bl.Model("y ~ x + (x | g)", slopes_data(), priors=PRIORS | given_priors)
    mode = bl.fit(model, "MAP", fixef=fixef)
    assert mode.converged
    density = independent_density(model, {"sd": SD, "beta": beta_density}, fixef)
    at = np.concatenate([mode.sd["g"], [np.arctanh(mode.corr["g"].iloc[0, 1]), np.log(mode.sigma)], mode.fixef])
    at = at[:4] if fixef == "integrated" else at
    assert mode.logposterior == pytest.approx(density(at), rel=1e-9)
    found = optimize.minimize(
        lambda x: -density(x), at, method="Nelder-Mead", options={"maxfev": 400, "initial_simplex": simplex(at)}
    )
    assert -found.fun <= density(at) + 1e-7
    slope = optimize.approx_fprime(at, density, 1e-6)
    assert np.abs(slope).max() < 1e-3
    assert mode.loglik == pytest.approx(
        of_model(model).at(model.Lambda(mode.theta).toarray(), mode.sigma, mode.fixef), rel=1e-9
    )


def simplex(at):
    return np.vstack([at, at + 1e-3 * np.diag(np.maximum(1, np.abs(at)))])


def test_map_covariance_of_coefficients_given_the_rest():
    """(X'V⁻¹X + V₀⁻¹)⁻¹ for a normal prior; the curvature at the mode for another one."""
    data = slopes_data()
    model = bl.Model("y ~ x + (x | g)", data, priors=PRIORS | BETA["normal"][0])
    mode = bl.fit(model, "MAP")
    dense, Lam = of_model(model), model.Lambda(mode.theta).toarray()
    V = mode.sigma**2 * (dense.Z @ Lam @ Lam.T @ dense.Z.T + np.eye(mode.nobs))
    want = np.linalg.inv(dense.X.T @ np.linalg.solve(V, dense.X) + np.diag([1 / 9, 1 / 4]))
    np.testing.assert_allclose(mode.vcov, want, rtol=1e-6)
    heavy = bl.Model("y ~ x + (x | g)", data, priors=PRIORS | BETA["student"][0])
    mode = bl.fit(heavy, "MAP", fixef="joint")
    Lam = heavy.Lambda(mode.theta).toarray()
    V = mode.sigma**2 * (dense.Z @ Lam @ Lam.T @ dense.Z.T + np.eye(mode.nobs))
    b, scale = mode.fixef.to_numpy() - [8, 1], np.array([3, 0.2])
    curvature = 4 * (3 * scale**2 - b**2) / (3 * scale**2 + b**2) ** 2
    want = np.linalg.inv(dense.X.T @ np.linalg.solve(V, dense.X) + np.diag(curvature))
    np.testing.assert_allclose(mode.vcov, want, rtol=1e-3)


def test_map_where_a_prior_ends():
    """A uniform prior's edge inside the likelihood: reported as it is, and no density below the start's."""
    rng = np.random.default_rng(0)
    data = {
        "y": rng.normal(size=10)[np.repeat(np.arange(10), 5)] * 3 + rng.normal(size=50),
        "g": np.repeat(np.arange(10), 5),
    }
    wide = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, priors={"sd_g": bl.Prior("Uniform", lower=0, upper=1e3)}), "MAP")
    assert wide.converged
    edge = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, priors={"sd_g": bl.Prior("Uniform", lower=0, upper=1.5)}), "MAP")
    assert edge.sd["g"]["Intercept"] == pytest.approx(1.5, rel=1e-3)
    assert not edge.converged
    assert edge.logposterior > -np.inf
    narrow = bl.Model("y ~ 1 + (1 | g)", data, priors={"sd_g": bl.Prior("Uniform", lower=0, upper=0.2)})
    assert bl.fit(narrow, "MAP").sd["g"]["Intercept"] == pytest.approx(0.2, rel=1e-2)  # the start lies outside


# held parameters


def profile(model, sd, corr, sigma, reml):
    """Dense (restricted) log-likelihood, maximised over what is None among sd (2,), corr and σ."""
    dense = of_model(model)
    J = len(model.levels("g"))

    def value(x):
        x = list(x)
        s = [x.pop(0) if v is None else v for v in sd]
        r = np.tanh(x.pop(0)) if corr is None else corr
        e = np.exp(x.pop(0)) if sigma is None else sigma
        lam = np.array([[s[0], 0], [s[1] * r, s[1] * np.sqrt(1 - r**2)]]) / e
        Lam = np.kron(np.eye(J), lam)
        if reml:
            return -dense.restricted(Lam, e)
        return -dense.at(Lam, e, dense.beta(Lam)[0])

    start = [1.0 for v in sd if v is None] + ([0.1] if corr is None else []) + ([0.3] if sigma is None else [])
    if not start:
        return -value([])
    return -optimize.minimize(value, start, method="BFGS", options={"gtol": 1e-5}).fun


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize(
    ("fixed", "sd", "corr", "sigma"),
    [
        ({"sd_g[x]": 0.5}, (None, 0.5), None, None),
        ({"sd_g": 0.7}, (0.7, 0.7), None, None),
        ({"sigma": 1.0}, (None, None), None, 1.0),
        ({"corr_g[Intercept, x]": -0.5}, (None, None), -0.5, None),
        ({"sd_g": 0.7, "corr_g": 0.25, "sigma": 2.0}, (0.7, 0.7), 0.25, 2.0),
    ],
    ids=str,
)
def test_held_parameters_against_a_dense_profile(fixed, sd, corr, sigma, method):
    model = bl.Model("y ~ x + (x | g)", slopes_data(groups=8, size=5))
    fit = bl.fit(model, method, fixed=fixed)
    assert fit.converged
    assert fit.loglik == pytest.approx(profile(model, sd, corr, sigma, method == "REML"), abs=1e-5)
    if sigma is not None:
        assert fit.sigma == pytest.approx(sigma, rel=1e-12)
    for value, held in zip(fit.sd["g"], sd, strict=True):
        assert held is None or value == pytest.approx(held, rel=1e-12)
    assert corr is None or fit.corr["g"].iloc[0, 1] == pytest.approx(corr, rel=1e-12)
    assert fit.df == bl.fit(model, method).df - len(fit.fixed)


def test_holding_parameters_at_their_estimate_changes_nothing(sleepstudy):
    model = bl.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    free = bl.fit(model)
    held = bl.fit(model, fixed={"sd_Subject[Days]": free.sd["Subject"]["Days"], "sigma": free.sigma})
    assert held.loglik == pytest.approx(free.loglik, abs=1e-8)
    np.testing.assert_allclose(held.theta, free.theta, rtol=1e-4, atol=1e-5)
    assert set(held.fixed) == {"sd_Subject[Days]", "sigma"}


def test_a_variance_held_at_zero(sleepstudy):
    both = bl.Model("Reaction ~ Days + (Days || Subject)", sleepstudy)
    one = bl.Model("Reaction ~ Days + (1 | Subject)", sleepstudy)
    assert bl.fit(both, fixed={"sd_Subject[Days]": 0}).loglik == pytest.approx(bl.fit(one).loglik, abs=1e-8)


@pytest.mark.parametrize(
    "fixed", [{"sd_Nobody": 1.0}, {"sigma": 0.0}, {"sigma": -1}, {"corr_g": 1.0}, {"sd_g": -0.1}, {"x": 2.0}]
)
def test_what_cannot_be_held(fixed):
    with pytest.raises(MethodError):
        bl.fit(bl.Model("y ~ x + (x | g)", slopes_data()), fixed=fixed)


# results


def test_start_reaches_the_same_optimum(sleepstudy):
    model = bl.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    fit = bl.fit(model)
    for start in ([1, 0, 1], [0, 0, 0], [0, 0, 1], [10, -3, 5], fit.theta):
        other = bl.fit(model, start=start)
        assert other.converged
        np.testing.assert_allclose(other.theta, fit.theta, atol=1e-5)


def test_information_criteria_count_every_parameter(sleepstudy):
    model = bl.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    for method in ("REML", "ML"):
        fit = bl.fit(model, method)
        assert fit.df == 2 + 3 + 1
        assert fit.deviance == -2 * fit.loglik
        assert fit.aic == pytest.approx(fit.deviance + 12)
        assert fit.bic == pytest.approx(fit.deviance + 6 * np.log(180))
    assert bl.fit(bl.Model("Reaction ~ Days", sleepstudy)).df == 3


def test_reported_quantities_fit_together(sleepstudy):
    model = bl.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    fit = bl.fit(model)
    dense, Lam = of_model(model), model.Lambda(fit.theta).toarray()
    beta, covariance, sigma = dense.beta(Lam)
    modes, variances = dense.blup(Lam, beta)
    np.testing.assert_allclose(fit.fixef, beta, rtol=1e-9)
    np.testing.assert_allclose(fit.vcov, covariance, rtol=1e-8)
    np.testing.assert_allclose(fit.se, np.sqrt(np.diag(covariance)), rtol=1e-8)
    assert fit.sigma == pytest.approx(sigma, rel=1e-9)
    np.testing.assert_allclose(fit.ranef["Subject"].to_numpy().ravel(), modes, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(fit.ranef_cov["Subject"][3], sigma**2 * variances[6:8, 6:8], rtol=1e-7)
    np.testing.assert_allclose(fit.fitted, dense.X @ beta + dense.Z @ modes, rtol=1e-9)
    np.testing.assert_allclose(fit.fitted + fit.residuals, model.design.y, rtol=1e-12)
    assert fit.ngroups == {"Subject": 18}
    table = fit.varcorr
    assert table["group"].tolist() == ["Subject", "Subject", "Residual"]
    np.testing.assert_allclose(table["variance"], table["sd"] ** 2)
    assert table["corr"][1] == (fit.corr["Subject"].iloc[0, 1],)


def test_terms_on_one_group_are_merged(sleepstudy):
    fit = bl.fit(bl.Model("Reaction ~ Days + (0 + Days | Subject) + (1 | Subject)", sleepstudy))
    apart = bl.fit(bl.Model("Reaction ~ Days + (Days || Subject)", sleepstudy))
    assert list(fit.sd["Subject"].index) == ["Days", "Intercept"]
    assert fit.corr["Subject"].iloc[0, 1] == 0.0
    assert fit.loglik == pytest.approx(apart.loglik, abs=1e-9)
    np.testing.assert_allclose(fit.sd["Subject"][["Intercept", "Days"]], apart.sd["Subject"], rtol=1e-5)
    np.testing.assert_allclose(
        fit.ranef["Subject"][["Intercept", "Days"]], apart.ranef["Subject"], rtol=1e-4, atol=1e-4
    )


def test_update_changes_one_argument(sleepstudy):
    model = bl.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    assert model.update(". ~ . - (Days | Subject) + (1 | Subject)").terms[0].effects == ("Intercept",)
    assert model.update("log(.) ~ .").design.y[0] == pytest.approx(np.log(sleepstudy["Reaction"][0]))
    assert model.update(data=sleepstudy.iloc[:90]).design.nobs == 90
    assert model.update(priors="flat").priors.flat
    assert model.formula.text == "Reaction ~ Days + (Days | Subject)"
    with pytest.raises(MethodError, match="no argument 'formulae'"):
        model.update(formulae="y ~ x")


def test_a_fit_changes_no_data(sleepstudy):
    before = sleepstudy.copy()
    model = bl.Model("Reaction ~ Days + (Days | Subject)", sleepstudy)
    X, y = model.X.copy(), model.design.y.copy()
    bl.fit(model)
    pd.testing.assert_frame_equal(before, sleepstudy)
    np.testing.assert_array_equal(model.X, X)
    np.testing.assert_array_equal(model.design.y, y)


def test_an_effect_without_variance_is_exactly_zero_however_it_was_searched():
    """The search's coordinates turn the effects; a slope without variance is then a trace of 1e-13, not a zero."""
    y = [1, 2, 3, 2, 3, 4, 1.5, 2.5, 3.5, 2.2, 3.1, 4.2]
    fit = bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": [0, 1, 2] * 4, "g": np.repeat(list("abcd"), 3)}))
    assert fit.sd["g"]["x"] == 0.0
    assert fit.singular
    assert fit.converged
