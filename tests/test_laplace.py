"""Laplace's approximation and adaptive quadrature: exact where they should be, gradients everywhere."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point, Quadrature
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import log_densities
from bayeslmm.family import LINKS, family_of
from bayeslmm.fit import loglik_at

ONE, SLOPES, CROSSED = "y ~ x + (1 | g)", "y ~ x + (x | g)", "y ~ x + (x | g) + (1 | h) + (x || k)"
NESTED = "y ~ x + (1 | g) + (1 | g:h)"
CASES = [
    ("bernoulli", "logit"), ("binomial", "cloglog"), ("binomial", "probit"), ("poisson", "sqrt"), ("negativebinomial", "log"),
    ("gamma", "inverse"), ("wald", "log"), ("beta", "logit"), ("betabinomial", "logit"), ("negativebinomial1", "log"),
]  # fmt: skip


def table(n: int = 240, seed: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=n)})
    for name, levels in (("g", 15), ("h", 8), ("k", 6)):
        frame[name] = rng.integers(0, levels, n).astype(str)
    return frame.assign(trials=rng.integers(1, 9, n))


def model_of(formula: str, family: str, link: str) -> bl.Model:
    frame = table()
    rng = np.random.default_rng(8)
    mu = np.full(len(frame), 0.4 if link in ("logit", "probit", "cloglog", "cauchit") else 1.5)
    y = family_of(family).draws(rng, mu, 2.0, frame["trials"].to_numpy())
    frame["y"] = np.clip(y, 1e-6, 1 - 1e-6) if family == "beta" else y
    text = formula.replace("y ~", "p(y, trials) ~") if family_of(family).of_trials else formula
    return bl.Model(text, frame, family=family, link=link)


def around(model: bl.Model, link: str, dispersion: bool) -> np.ndarray:
    """Parameters at which every η is inside the link's range."""
    centre = {"sqrt": 1.2, "inverse": 0.8}.get(link, 0.1)
    small = 0.12 if link in ("sqrt", "inverse") else 0.6
    theta = model.theta_start * small + 0.05
    return np.concatenate([theta, [centre, 0.05], [0.3] * dispersion])


def differences(objective, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    return np.array([(objective(x + h * e) - objective(x - h * e)) / (2 * h) for e in np.eye(len(x))])


@pytest.mark.parametrize("formula", [ONE, SLOPES, CROSSED, NESTED])
def test_laplace_is_exact_for_a_gaussian_response(formula: str) -> None:
    frame = table().assign(y=np.random.default_rng(1).normal(size=240), w=np.linspace(0.5, 2.0, 240))
    model = bl.Model(formula, frame)
    approximation = Laplace(model)
    rng = np.random.default_rng(2)
    for _ in range(3):
        theta, beta, sigma = model.theta_start * 0.6 + rng.normal(size=model.n_theta) * 0.1, rng.normal(size=2), 0.8
        value, gradient = approximation.minus_twice(Point(theta, beta, math.log(sigma)))
        # 1e-10: both are sums of some hundred terms of size 1
        assert -0.5 * value == pytest.approx(loglik_at(model, theta / sigma, sigma, beta), rel=1e-10)

        def exact(x: np.ndarray) -> float:
            return -2.0 * loglik_at(model, x[: model.n_theta] / math.exp(x[-1]), math.exp(x[-1]), x[model.n_theta : -1])

        want = differences(exact, np.concatenate([theta, beta, [math.log(sigma)]]))
        np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-6)  # central differences


@pytest.mark.parametrize("information", ["observed", "expected"])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("family", "link"), CASES)
@pytest.mark.parametrize("formula", [SLOPES, CROSSED])
def test_gradient_of_laplace(formula: str, family: str, link: str, joint: bool, information: str) -> None:
    if information == "expected" and not family_of(family).has_information:
        with pytest.raises(MethodError, match="no closed form"):
            bl.fit(model_of(ONE, family, link), information="expected")
        return
    model = model_of(formula, family, link)
    approximation = Laplace(model, information, joint)
    if joint:
        approximation.beta = np.array([{"sqrt": 1.2, "inverse": 0.8}.get(link, 0.1), 0.05])
    x = around(model, link, approximation.has_dispersion)
    if joint:
        x = np.delete(x, [model.n_theta, model.n_theta + 1])
    value, gradient = approximation.minus_twice(approximation.point(x))
    assert np.isfinite(value)
    want = differences(lambda z: approximation.minus_twice(approximation.point(z))[0], x)
    np.testing.assert_allclose(gradient, want, rtol=2e-6, atol=2e-5)  # differences of a value of about 1000


def test_gradient_at_the_boundary_and_at_tiny_theta() -> None:
    model = model_of(SLOPES, "bernoulli", "logit")
    approximation = Laplace(model)
    for theta in ([0.0, 0.0, 0.0], [0.5, 0.2, 0.0], [1e-6, 1e-7, 1e-6]):
        x = np.concatenate([theta, [0.1, 0.05]])
        _, gradient = approximation.minus_twice(approximation.point(x))
        want = differences(lambda z: approximation.minus_twice(approximation.point(z))[0], x)
        np.testing.assert_allclose(gradient, want, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("information", ["observed", "expected"])
@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize(
    ("formula", "family", "link"),
    [(ONE, "bernoulli", "logit"), (SLOPES, "negativebinomial", "log"), (SLOPES, "binomial", "cloglog")],
)
def test_gradient_of_quadrature(formula: str, family: str, link: str, nodes: int, information: str) -> None:
    model = model_of(formula, family, link)
    quadrature = Quadrature(model, information, nodes)
    x = around(model, link, quadrature.has_dispersion)
    value, gradient = quadrature.minus_twice(quadrature.point(x))
    want = differences(lambda z: quadrature.minus_twice(quadrature.point(z))[0], x)
    np.testing.assert_allclose(gradient, want, rtol=2e-6, atol=2e-5)
    if nodes == 1:
        laplace, slope = Laplace(model, information).minus_twice(quadrature.point(x))
        assert value == pytest.approx(laplace, rel=1e-12)
        np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "link"), [case for case in CASES if case[1] != "inverse"])
def test_quadrature_is_the_integral(family: str, link: str) -> None:
    """Against SciPy's adaptive integration of each level's density; both reach 1e-8 of the log-likelihood."""
    model = model_of(ONE, family, link)
    quadrature = Quadrature(model, "observed", 61)
    point = quadrature.point(around(model, link, quadrature.has_dispersion))
    design, term = model.design, model.design.random[0]
    trials = np.ones(design.nobs) if design.trials is None else design.trials
    eta, total = model.X @ point.beta, 0.0
    for level in range(len(term.levels)):
        rows = np.flatnonzero(term.codes == level)

        def log_joint(b: float, rows=rows) -> float:
            terms = log_densities(
                family_of(family).code,
                LINKS[link],
                design.y[rows],
                trials[rows],
                eta[rows] + point.theta[0] * b,
                point.aux,
            )
            return float(terms.sum()) - 0.5 * b * b - 0.5 * math.log(2 * math.pi)

        grid = np.linspace(-4, 4, 81)
        top = grid[np.argmax([log_joint(b) for b in grid])]
        peak = log_joint(top)
        found = integrate.quad(
            lambda b, peak=peak: math.exp(log_joint(b) - peak), top - 5, top + 5, points=[top], epsabs=1e-12, limit=200
        )
        total += math.log(found[0]) + peak
    assert -0.5 * quadrature.minus_twice(point)[0] == pytest.approx(total, rel=1e-8)


def test_levels_rows_and_units_do_not_matter() -> None:
    model = model_of(CROSSED, "poisson", "log")
    frame = table().assign(y=model.design.y)
    shuffled = frame.sample(frac=1.0, random_state=3).assign(x=lambda t: 1000.0 * t["x"])
    one = bl.fit(bl.Model(ONE, frame, family="poisson"))
    other = bl.fit(bl.Model(ONE, shuffled, family="poisson"))
    assert one.loglik == pytest.approx(other.loglik, rel=1e-10)
    np.testing.assert_allclose(other.fixef * [1.0, 1000.0], one.fixef, rtol=1e-6, atol=1e-8)


def test_weights_are_repetitions() -> None:
    frame = table().assign(y=np.random.default_rng(2).poisson(2.0, 240), w=np.tile([1.0, 2.0, 3.0], 80))
    repeated = frame.loc[np.repeat(frame.index, frame["w"].astype(int))]
    weighted = bl.fit(bl.Model(ONE, frame, family="poisson", weights="w"))
    written = bl.fit(bl.Model(ONE, repeated, family="poisson"))
    assert weighted.loglik == pytest.approx(written.loglik, rel=1e-10)
    np.testing.assert_allclose(weighted.se, written.se, rtol=1e-5)


def test_every_order_of_the_terms_gives_the_same_value() -> None:
    frame = table().assign(y=np.random.default_rng(5).integers(0, 2, 240))
    parts = ["(1 | g)", "(1 | h)", "(x | k)"]
    found = [
        bl.fit(bl.Model("y ~ x + " + " + ".join(order), frame, family="bernoulli")).loglik
        for order in itertools.permutations(parts)
    ]
    np.testing.assert_allclose(found, found[0], rtol=1e-10)


def test_the_negative_binomial_tends_to_the_poisson() -> None:
    """The difference of the log densities is O(1/α): at 1e12 nothing but rounding."""
    y, eta = np.array([0.0, 3.0, 40.0]), np.array([-1.0, 1.0, 3.5])
    one = np.ones(3)
    poisson = log_densities(family_of("poisson").code, LINKS["log"], y, one, eta, 0.0)
    for log_alpha in (np.log(1e12), np.log(1e15)):
        negative = log_densities(family_of("negativebinomial").code, LINKS["log"], y, one, eta, log_alpha)
        np.testing.assert_allclose(negative, poisson, atol=1e-8)
