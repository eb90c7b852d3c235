"""Correlation vectors and prior variables against quadrature, SciPy densities and finite differences."""

from itertools import combinations

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import scipy.integrate as integrate
import scipy.stats as st

from bayeslmm.distributions import Prior
from bayeslmm.errors import PriorError
from bayeslmm.graph.correlation import (
    CorrelationTransform,
    cholesky_of_correlation,
    correlation_vector,
    log_normaliser,
)
from bayeslmm.graph.variables import fixef_variable, prior_variable
from bayeslmm.priors import resolve

# Compiling to machine code is not what these tests are about; Python linking keeps them fast.
QUICK = "FAST_COMPILE"


def correlation_matrix(vector, k):
    R = np.eye(k)
    for value, (i, j) in zip(vector, combinations(range(k), 2), strict=True):
        R[i, j] = R[j, i] = value
    return R


def density(eta, k, mode=QUICK):
    """Compiled log density in the entries of R."""
    value = pt.dvector("value")
    with pm.Model():
        rv = correlation_vector("corr", eta, k)
    return pytensor.function([value], pm.logp(rv, value), mode=mode)


def test_density_integrates_to_one_for_two_effects():
    logp = density(2.5, 2)
    total, _ = integrate.quad(lambda r: np.exp(logp(np.array([r]))), -1, 1)
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("eta", [0.7, 1.0, 3.0])
def test_normaliser_is_the_integral_over_the_elliptope_of_three_effects(eta):
    # For fixed (r12, r13) the determinant is (1-r12²)(1-r13²) - (r23 - r12 r13)², so the integral over r23 is a beta
    # function of shape eta and the remaining two integrals are one-dimensional.
    inner = integrate.quad(lambda t: (1 - t * t) ** (eta - 1), -1, 1)[0]
    outer = integrate.quad(lambda r: (1 - r * r) ** (eta - 0.5), -1, 1)[0]
    assert log_normaliser(3, eta) == pytest.approx(-np.log(inner * outer**2), abs=1e-7)


def test_uniform_volume_of_three_effects_is_half_pi_squared():
    assert log_normaliser(3, 1.0) == pytest.approx(-np.log(np.pi**2 / 2), abs=1e-12)


@pytest.mark.parametrize("k", [3, 4])
def test_density_integrates_to_one_by_monte_carlo(k):
    rng = np.random.default_rng(k)
    vectors = rng.uniform(-1, 1, size=(200_000, k * (k - 1) // 2))
    matrices = np.broadcast_to(np.eye(k), (len(vectors), k, k)).copy()
    for column, (i, j) in enumerate(combinations(range(k), 2)):
        matrices[:, i, j] = matrices[:, j, i] = vectors[:, column]
    inside = np.linalg.eigvalsh(matrices)[:, 0] > 0
    weight = np.where(inside, np.exp(log_normaliser(k, 2.0)) * np.linalg.det(matrices), 0) * 2.0 ** vectors.shape[1]
    assert weight.mean() == pytest.approx(1, abs=4 * weight.std() / np.sqrt(len(vectors)))


@pytest.mark.parametrize(("k", "eta"), [(2, 1.0), (3, 2.0), (4, 0.8)])
def test_density_is_the_closed_form_inside_and_zero_outside(k, eta):
    logp, rng = density(eta, k), np.random.default_rng(1)
    seen = {True: 0, False: 0}
    for vector in rng.uniform(-1, 1, size=(40, k * (k - 1) // 2)):
        R = correlation_matrix(vector, k)
        inside = np.linalg.eigvalsh(R)[0] > 0
        expected = (eta - 1) * np.linalg.slogdet(R)[1] + log_normaliser(k, eta) if inside else -np.inf
        assert logp(vector) == pytest.approx(expected, abs=1e-9)
        seen[bool(inside)] += 1
    assert seen[True] >= 3
    assert k == 2 or seen[False] >= 3
    assert logp(np.full(k * (k - 1) // 2, 1.5)) == -np.inf


@pytest.mark.parametrize("sizes", [(2,), (3,), (4,), (3, 2)])
def test_transform_returns_and_its_jacobian_is_the_numerical_determinant(sizes):
    free = pt.dvector("free")
    transform = CorrelationTransform(sizes)
    corr = transform.backward(free)
    both = pytensor.function([free], [corr, transform.forward(corr), transform.log_jac_det(free)], mode=QUICK)
    size = sum(k * (k - 1) // 2 for k in sizes)
    for scale in (0.5, 1.5):
        point = np.random.default_rng(size).normal(0, scale, size)
        _, again, log_jacobian = both(point)
        np.testing.assert_allclose(again, point, rtol=1e-9, atol=1e-9)
        step = 1e-5
        jacobian = [(both(point + step * e)[0] - both(point - step * e)[0]) / (2 * step) for e in np.eye(size)]
        # central differences of step h lose h² and eps/h, each entering once for every column
        assert log_jacobian == pytest.approx(np.linalg.slogdet(np.array(jacobian))[1], abs=1e-6)


def test_two_blocks_have_the_product_density():
    first, second, both = density(2.0, 3), density(2.0, 2), density(2.0, (3, 2))
    vector = np.array([0.3, -0.2, 0.4, 0.7])
    assert both(vector) == pytest.approx(first(vector[:3]) + second(vector[3:]), abs=1e-12)


def test_cholesky_factor_and_its_gradient():
    vector = pt.dvector("vector")
    factor = cholesky_of_correlation(vector, 3)
    weights = np.arange(9.0).reshape(3, 3)
    value = pytensor.function([vector], [factor, pytensor.grad((factor * weights).sum(), vector)], mode=QUICK)
    point = np.array([0.5, -0.3, 0.4])
    found, gradient = value(point)
    np.testing.assert_allclose(found, np.linalg.cholesky(correlation_matrix(point, 3)), atol=1e-14)
    objective = lambda x: (np.linalg.cholesky(correlation_matrix(x, 3)) * weights).sum()  # noqa: E731 - used once below
    numerical = [(objective(point + 1e-6 * e) - objective(point - 1e-6 * e)) / 2e-6 for e in np.eye(3)]
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7)


def test_factor_of_a_singular_correlation_is_finite_with_finite_gradient():
    vector = pt.dvector("vector")
    factor = cholesky_of_correlation(vector, 3)
    value = pytensor.function([vector], [factor, pytensor.grad(factor.sum(), vector)], mode=QUICK)
    found, gradient = value(np.array([1.0, 0.5, 0.5]))
    np.testing.assert_allclose(found @ found.T, correlation_matrix([1, 0.5, 0.5], 3), atol=1e-15)
    assert np.isfinite(gradient).all()


def test_draws_have_the_marginal_beta_distribution_and_are_correlation_matrices():
    eta, k = 1.5, 4
    with pm.Model():
        corr = correlation_vector("corr", eta, k)
    draws = pm.draw(corr, 4000, random_seed=1)
    shape = eta - 1 + k / 2
    for entry in draws.T:
        assert st.kstest((entry + 1) / 2, st.beta(shape, shape).cdf).pvalue > 1e-3
    matrices = np.stack([correlation_matrix(vector, k) for vector in draws])
    assert np.linalg.eigvalsh(matrices)[:, 0].min() > 0
    # |R| is a product of independent beta variables, whose logs have known means (Lewandowski et al. 2009, eq. 11)
    shapes = [eta + (k - 2 - i) / 2 for i, _ in combinations(range(k), 2)]
    logs = [st.beta(a, a).expect(lambda z: np.log(4 * z * (1 - z))) for a in shapes]
    found = np.linalg.slogdet(matrices)[1]
    assert found.mean() == pytest.approx(sum(logs), abs=4 * found.std() / np.sqrt(len(found)))


@pytest.mark.parametrize("eta", [0, -1.0, np.nan, [1.0, 2.0]])
def test_eta_must_be_a_positive_number(eta):
    with pm.Model(), pytest.raises(PriorError, match="positive number eta"):
        correlation_vector("corr", eta, 2)


def test_start_is_zero_and_find_map_reaches_the_mode():
    with pm.Model() as model:
        corr = correlation_vector("corr", 3.0, 3)
        pm.Normal("y", corr[0], 0.1, observed=0.5)
    np.testing.assert_array_equal(model.initial_point()["corr_partial__"], np.zeros(3))
    point = pm.find_MAP(model=model, progressbar=False)
    # the mode of log(1 - r²)(eta - 1) - 50 (r - 0.5)² solves a cubic; the other partial correlations stay 0
    roots = np.roots([100, -50, -104, 50])
    mode = float(np.real(roots[(np.abs(roots) < 1)][0]))
    assert point["corr"][0] == pytest.approx(mode, abs=1e-4)


@pytest.mark.slow
def test_nuts_samples_the_prior():
    with pm.Model(coords={"pair": ["a, b", "a, c", "b, c"]}):
        correlation_vector("corr", 2.0, 3, dims="pair")
        data = pm.sample(1000, tune=500, chains=2, random_seed=1, progressbar=False, quiet=True)
        prior = pm.sample_prior_predictive(20, random_seed=1)
    draws = data.posterior["corr"]
    assert draws.dims == ("chain", "draw", "pair")
    assert prior.prior["corr"].shape == (1, 20, 3)
    # 2000 draws with at least 1000 effective ones: the variance is known to about 5 per cent
    np.testing.assert_allclose(draws.var(("chain", "draw")), 1 / (2 * 2.5 + 1), rtol=0.2)


REFERENCE = [
    (Prior("Normal", mu=1, sigma=2), st.norm(1, 2)),
    (Prior("HalfNormal", sigma=2), st.halfnorm(0, 2)),
    (Prior("StudentT", nu=4, mu=1, sigma=2), st.t(4, 1, 2)),
    (Prior("HalfCauchy", beta=2), st.halfcauchy(0, 2)),
    (Prior("Exponential", lam=2), st.expon(0, 0.5)),
    (Prior("Gamma", alpha=2, beta=3), st.gamma(2, 0, 1 / 3)),
    (Prior("InverseGamma", alpha=2, beta=3), st.invgamma(2, 0, 3)),
    (Prior("LogNormal", mu=0.2, sigma=0.5), st.lognorm(0.5, 0, np.exp(0.2))),
    (Prior("Uniform", lower=0, upper=3), st.uniform(0, 3)),
    (Prior("Laplace", mu=0.5, b=2), st.laplace(0.5, 2)),
    (Prior("Weibull", alpha=2, beta=3), st.weibull_min(2, 0, 3)),
]


@pytest.fixture(scope="module")
def mixed():
    """One vector with every prior of `REFERENCE`, and its compiled log densities."""
    with pm.Model(coords={"entry": [str(prior) for prior, _ in REFERENCE]}) as model:
        prior_variable("x", [prior for prior, _ in REFERENCE], dims="entry")
    return model


def test_mixed_vector_has_the_product_density(mixed):
    values = np.linspace(0.3, 2.5, len(REFERENCE))
    point = {"x_components__": forward(mixed, values)}
    expected = sum(law.logpdf(value) for value, (_, law) in zip(values, REFERENCE, strict=True))
    # PyMC 6.3 takes the log 2 of HalfCauchy and of HalfStudentT in single precision: 1.9e-9 too much each
    assert mixed.compile_logp(jacobian=False, mode=QUICK)(point) == pytest.approx(expected, abs=5e-9)


def test_mixed_vector_starts_inside_its_support_and_draws(mixed):
    assert np.isfinite(mixed.compile_logp(mode=QUICK)(mixed.initial_point()))
    draws = pm.draw(mixed["x"], 400, random_seed=1)
    for column, (_, law) in zip(draws.T, REFERENCE, strict=True):
        assert st.kstest(column, law.cdf).pvalue > 1e-4


def forward(model, values):
    """The unconstrained point of a model with one variable."""
    rv = model.free_RVs[0]
    transform = model.rvs_to_transforms[rv]
    return transform.forward(pt.as_tensor(values), *rv.owner.inputs).eval(mode=QUICK)


def test_jacobian_of_the_mixed_transform(mixed):
    point = np.linspace(-0.5, 0.7, len(REFERENCE))
    transform = mixed.rvs_to_transforms[mixed["x"]]
    free = pt.dvector("free")
    both = pytensor.function([free], [transform.backward(free), transform.log_jac_det(free)], mode=QUICK)
    step = 1e-5
    jacobian = [(both(point + step * e)[0] - both(point - step * e)[0]) / (2 * step) for e in np.eye(len(point))]
    assert both(point)[1] == pytest.approx(np.linalg.slogdet(np.array(jacobian))[1], abs=1e-7)


def test_one_family_stays_a_plain_pymc_variable():
    with pm.Model(coords={"entry": ["a", "b"]}) as model:
        sd = prior_variable(
            "sd", [Prior("HalfNormal", sigma=1), Prior("HalfNormal", sigma=3)], dims="entry", scale=True
        )
    assert sd.owner.op.name == "halfnormal"
    found = model.compile_logp(jacobian=False, mode=QUICK)({"sd_log__": np.log([0.5, 2.0])})
    assert found == pytest.approx(st.halfnorm(0, [1, 3]).logpdf([0.5, 2.0]).sum(), rel=1e-12)


@pytest.mark.parametrize(("prior", "law"), REFERENCE, ids=[str(prior) for prior, _ in REFERENCE])
def test_one_variable_has_the_named_density(prior, law):
    with pm.Model():
        rv = prior_variable("x", prior)
    single = prior.name == "HalfCauchy"  # see above
    assert pm.logp(rv, 1.3).eval(mode=QUICK) == pytest.approx(law.logpdf(1.3), abs=5e-9 if single else 1e-14)


def test_flat_scale_is_flat_on_the_half_line():
    with pm.Model() as model:
        prior_variable("sigma", Prior("Flat"), scale=True)
        prior_variable("beta", [Prior("Flat"), Prior("Normal", mu=0, sigma=2)])
    assert model.rvs_to_transforms[model["sigma"]] is not None
    found = model.compile_logp(jacobian=False, mode=QUICK)({"sigma_log__": 0.3, "beta": np.array([7.0, 1.0])})
    assert found == pytest.approx(st.norm(0, 2).logpdf(1.0), rel=1e-12)


@pytest.mark.parametrize(
    ("prior", "scale", "message"),
    [
        (Prior("Normal", mu=0, sigma=1), True, "use HalfNormal"),
        (Prior("StudentT", nu=4, mu=0, sigma=1), True, "use HalfStudentT"),
        (Prior("Laplace", mu=0, b=1), True, "HalfNormal, HalfStudentT, Exponential or Gamma"),
        (Prior("Uniform", lower=-1, upper=2), True, "allows negative values"),
        (Prior("Laplaze", mu=0, b=1), False, "Did you mean Laplace"),
        (Prior("Qqqqqq", b=1), False, "name of a PyMC distribution"),
        (Prior("Laplace", mu=0, width=1), False, "takes mu, b"),
        (Prior("Poisson", mu=1), False, "one real number"),
    ],
)
def test_bad_priors_are_named_with_what_to_do(prior, scale, message):
    with pm.Model(), pytest.raises(PriorError, match=message):
        prior_variable("x", prior, scale=scale)
    with pm.Model(), pytest.raises(PriorError, match=message):
        prior_variable("x", [Prior("Exponential", lam=1), prior], scale=scale)


def coefficients(given, mean=3.0):
    return resolve(
        given,
        coefficient_names=("Intercept", "x"),
        column_means=(1.0, mean),
        column_sds=(0.0, 2.0),
        has_intercept=True,
        response_mean=5.0,
        response_sd=4.0,
        groups={},
    )


@pytest.mark.parametrize("mean", [3.0, 1e6])
def test_default_intercept_prior_holds_at_the_predictor_means(mean):
    priors = coefficients(None, mean)
    with pm.Model(coords={"coefficient": priors.coefficients}) as model:
        fixef_variable(priors)
    slope = 1.5
    beta = np.array([4.0 - slope * mean, slope])
    expected = st.norm(5.0, priors.fixef[0].args["sigma"]).logpdf(4.0) + st.norm(0, 5.0).logpdf(slope)
    assert model.compile_logp(mode=QUICK)({"fixef": beta}) == pytest.approx(expected, rel=1e-10)


def test_default_coefficients_draw_from_their_joint_normal():
    priors = coefficients(None)
    with pm.Model(coords={"coefficient": priors.coefficients}):
        fixef = fixef_variable(priors)
    draws = pm.draw(fixef, 4000, random_seed=2)
    covariance = np.linalg.inv(priors.fixef_precision)
    np.testing.assert_allclose(draws.mean(axis=0), priors.fixef_mean, atol=4 * np.sqrt(covariance.max() / 4000))
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.15)


def test_mixed_coefficients_are_one_vector():
    priors = coefficients({"x": Prior("Laplace", mu=0, b=2)})
    with pm.Model(coords={"coefficient": priors.coefficients}) as model:
        fixef_variable(priors)
    expected = st.norm(5, priors.fixef[0].args["sigma"]).logpdf(1 + 3 * 0.5) + st.laplace(0, 2).logpdf(0.5)
    assert model.compile_logp(mode=QUICK)({"fixef": np.array([1.0, 0.5])}) == pytest.approx(expected, rel=1e-12)


def test_no_coefficients_no_variable():
    priors = resolve(
        None, coefficient_names=(), column_means=(), column_sds=(), has_intercept=False,
        response_mean=0.0, response_sd=1.0, groups={},
    )  # fmt: skip
    with pm.Model():
        assert fixef_variable(priors) is None
