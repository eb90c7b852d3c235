"""Student's t responses: fits against integrals by brute force and the Gaussian limit, gradients, tails."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, stats

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Quadrature


@cache
def heavy() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(20), 6), rng.normal(size=120)
    y = 1.0 + 2.0 * x + 1.5 * rng.normal(size=20)[g] + rng.standard_t(3, 120)
    light = 1.0 + 2.0 * x + 1.5 * rng.normal(size=20)[g] + rng.uniform(-1.7, 1.7, 120)
    return pd.DataFrame(
        {"y": y, "x": x, "light": light, "g": g.astype(str), "late": (np.arange(120) % 2).astype(float)}
    )


@cache
def fit_of(formula: str = "y ~ x + (1 | g)", method: str = "Laplace", nodes: int | None = None, dispersion=None):
    return bl.fit(bl.Model(formula, heavy(), family="t", dispersion=dispersion), method, nodes=nodes)


def integral(e: np.ndarray, sd: float, sigma: float, nu: float) -> float:
    """log ∫ Π t_ν(e − u; σ) N(u; 0, sd²) du."""

    def density(u: float) -> float:
        return float(
            np.exp(stats.t.logpdf(e - u, nu, 0.0, sigma).sum() - 0.5 * (u / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
        )

    middle = sorted([*e, 0.0])
    value, _ = integrate.quad(
        density, -8 * sd, 8 * sd, points=[m for m in middle if abs(m) < 8 * sd], limit=400, epsrel=1e-10
    )
    return float(np.log(value))


@pytest.mark.slow
def test_quadrature_is_the_integral() -> None:
    """40 nodes around one mode; the integrand of six t densities is smooth enough for 1e-4 of the log-likelihood."""
    fit = fit_of(method="AGHQ", nodes=40)
    e = heavy()["y"].to_numpy() - fit.model.X @ fit.fixef.to_numpy()
    codes = fit.model.design.random[0].codes
    want = sum(integral(e[codes == j], fit.sd["g"].iloc[0], fit.dispersion, fit.nu) for j in range(20))
    assert fit.loglik == pytest.approx(want, abs=1e-4)
    assert 0.2 < abs(fit_of().loglik - fit.loglik) < 1.0  # Laplace's error, six rows a level


@pytest.mark.parametrize("kind", ["Laplace", "joint", "expected", "AGHQ"])
@pytest.mark.parametrize("dispersion", [None, "~ late"])
def test_gradient_is_that_of_the_objective(kind: str, dispersion: str | None) -> None:
    """Central differences of step 1e-5: error h² times a third derivative, and rounding of −2 log-likelihood over h."""
    model = bl.Model("y ~ x + (1 + x | g)", heavy(), family="t", dispersion=dispersion)
    by_kind = {
        "Laplace": lambda: Laplace(model), "joint": lambda: Laplace(model, joint=True),
        "expected": lambda: Laplace(model, "expected"), "AGHQ": lambda: Quadrature(model, "observed", 3),
    }  # fmt: skip
    approximation = by_kind[kind]()
    beta, scale = [] if kind == "joint" else [1.1, 1.8], [0.1] if dispersion is None else [0.1, -0.2]
    x = np.array([1.2, 0.2, 0.5, *beta, *scale, 1.2])
    _, gradient = approximation.minus_twice(approximation.point(x))
    assert len(gradient) == len(x)
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        ends = [approximation.minus_twice(approximation.point(end))[0] for end in (up, down)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-6, abs=2e-6)


def test_without_random_effects_it_is_the_maximum_of_the_likelihood() -> None:
    """SciPy's search of the same likelihood, to what two searches leave."""
    fit, X, y = fit_of("y ~ x"), fit_of("y ~ x").model.X, heavy()["y"].to_numpy()

    def minus(p: np.ndarray) -> float:
        return -float(stats.t.logpdf(y, np.exp(p[3]), X @ p[:2], np.exp(p[2])).sum())

    found = optimize.minimize(minus, [1.0, 2.0, 0.0, 1.0], method="BFGS", options={"gtol": 1e-7})
    assert fit.loglik == pytest.approx(-found.fun, abs=1e-8)
    np.testing.assert_allclose([*fit.fixef, fit.dispersion, fit.nu], [*found.x[:2], *np.exp(found.x[2:])], rtol=1e-4)


def test_where_tails_are_light_nu_runs_off_and_the_fit_is_the_gaussian_one() -> None:
    """The estimates differ by what 1/ν < 1e-4 of the likelihood leaves; REML is not asked for."""
    t, gaussian = fit_of("light ~ x + (1 | g)"), bl.fit(bl.Model("light ~ x + (1 | g)", heavy()), "ML")
    assert t.converged
    assert t.nu > 1e4
    assert "nu runs off to infinity, where the family is the Gaussian" in t.message
    assert t.loglik == pytest.approx(gaussian.loglik, abs=2e-2)
    np.testing.assert_allclose(t.fixef, gaussian.fixef, atol=1e-2 * gaussian.se.min())
    np.testing.assert_allclose(t.dispersion, gaussian.sigma, rtol=1e-3)
    np.testing.assert_allclose(t.sd["g"], gaussian.sd["g"], rtol=1e-3)
    np.testing.assert_allclose(t.se, gaussian.se, rtol=2e-2)  # ML holds θ, the t fit does not


@pytest.mark.parametrize("unit", [1e-5, 1e6])
def test_the_unit_of_the_response_makes_no_difference(unit: float) -> None:
    """Powers of ten are no powers of two: to rounding of the search."""
    fit, n = bl.fit(bl.Model("y ~ x + (1 | g)", heavy().assign(y=unit * heavy()["y"]), family="t")), 120
    assert fit.converged
    assert fit.loglik + n * np.log(unit) == pytest.approx(fit_of().loglik, abs=1e-7)
    np.testing.assert_allclose(fit.fixef / unit, fit_of().fixef, rtol=1e-4)
    assert fit.nu == pytest.approx(fit_of().nu, rel=1e-4)


def test_an_outlier_moves_it_less_than_a_gaussian_fit() -> None:
    table = heavy().copy()
    table.loc[0, "y"] += 1e3
    t, gaussian = (bl.fit(bl.Model("y ~ x + (1 | g)", table, **o)) for o in ({"family": "t"}, {}))
    assert t.converged
    assert abs(t.fixef["x"] - fit_of().fixef["x"]) < t.se["x"]
    assert gaussian.se["x"] > 10 * t.se["x"]


def test_scales_that_differ_by_row() -> None:
    """A formula for log σ: nested, so a higher likelihood with one parameter more."""
    one, two = fit_of(), fit_of(dispersion="~ late")
    assert 0 <= two.loglik - one.loglik < 20
    assert two.df == one.df + 1
    assert list(two.further_fixef) == ["dispersion", "nu"]
    phi = two.dispersions_at()
    np.testing.assert_allclose(np.log(phi[1] / phi[0]), two.further_fixef["dispersion"]["estimate"].iloc[1])


def test_summary_and_moments() -> None:
    fit = fit_of()
    text = str(fit)
    assert "T(μ[i], sigma, nu), identity(μ[i])" in str(fit.model)
    assert f"Dispersion: sigma = {fit.dispersion:.5g}, nu = {fit.nu:.5g}" in text
    assert "Log of nu:" in text
    assert fit.df == 5
    variance = fit.dispersion**2 * fit.nu / (fit.nu - 2)
    np.testing.assert_allclose(fit.pearson_residuals, fit.residuals / np.sqrt(variance))
    np.testing.assert_allclose(fit.fitted, fit.linear_predictor)
