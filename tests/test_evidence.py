"""The evidence against closed forms, dense integrals and its two methods against each other."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import kv
from scipy.stats import halfnorm, multivariate_normal, uniform
from scipy.stats import t as student

import bayeslmm as bl
from bayeslmm.errors import MethodError

N = 12
RNG = np.random.default_rng(5)
DATA = {"x": RNG.normal(3, 2, N), "g": np.repeat(["a", "b", "c", "d"], 3), "w": RNG.uniform(0.5, 2, N)}
DATA["y"] = 10 + DATA["x"] + np.repeat([1.0, -1.0, 2.0, 0.5], 3) + RNG.normal(size=N)
SIGMA = bl.Prior("HalfNormal", sigma=2)
SD = bl.Prior("HalfNormal", sigma=3)


def gauss_legendre(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(60)
    return lower + 0.5 * (upper - lower) * (nodes + 1), 0.5 * (upper - lower) * weights


@pytest.fixture(autouse=True)
def at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_no_coefficients_and_a_half_normal_sigma_is_a_bessel_function() -> None:
    y, s = DATA["y"], 2.0
    model = bl.Model("y ~ 0", DATA, priors={"sigma": SIGMA})
    # ∫ (2πv)^(−n/2) e^(−S/2v) 2/√(2πs²) e^(−v/2s²) dv/(2√v), σ² = v
    order, S = 0.5 * (1 - N), np.sum(y**2)
    exact = -0.5 * N * np.log(2 * np.pi) - 0.5 * np.log(2 * np.pi * s**2)
    exact += np.log(2 * kv(order, np.sqrt(S) / s)) + 0.5 * order * np.log(S * s**2)
    assert bl.evidence(model).log == pytest.approx(exact, abs=1e-6)  # points left out: 1e-8


def test_conjugate_linear_model_with_sigma_known() -> None:
    width = 1e-6
    priors = {
        "fixef": bl.Prior("Normal", mu=1, sigma=4),
        "sigma": bl.Prior("Uniform", lower=1.5, upper=1.5 + width),
    }
    model = bl.Model("y ~ x", DATA, priors=priors, weights="w")
    X = model.X
    V = 1.5**2 * np.diag(1 / DATA["w"]) + 16 * X @ X.T
    exact = multivariate_normal(X @ [1, 1], V).logpdf(DATA["y"])
    # 1e-4: σ is known to 1e-6, which moves log p(y) by about n times that; the grid is on a bounded variable
    assert bl.evidence(model).log == pytest.approx(exact, abs=1e-4)


def test_one_way_model_with_default_priors_is_the_dense_integral() -> None:
    model = bl.Model("y ~ x + (1 | g)", DATA, priors={"sigma": SIGMA, "sd_g": SD})
    y, X, Z, priors = model.design.y, model.X, model.Z.toarray(), model.priors
    mean, covariance = priors.fixef_mean, np.linalg.inv(priors.fixef_precision)
    fixed = X @ covariance @ X.T

    (sd, a), (sigma, b) = gauss_legendre(0, 18), gauss_legendre(0.2, 8)
    V = sigma[:, None, None] ** 2 * np.eye(N) + sd[:, None, None, None] ** 2 * Z @ Z.T + fixed
    e = y - X @ mean
    density = -0.5 * (N * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + np.linalg.solve(V, e[:, None])[..., 0] @ e)
    density += halfnorm(scale=3).logpdf(sd)[:, None] + halfnorm(scale=2).logpdf(sigma)
    exact = np.log(a @ np.exp(density) @ b)
    assert bl.evidence(model).log == pytest.approx(exact, abs=1e-4)  # the tails cut off


@pytest.mark.parametrize("family", ["StudentT", "Uniform"])
def test_a_coefficient_whose_prior_is_not_normal_is_integrated_in_its_own_units(family: str) -> None:
    given, frozen = {
        "StudentT": (bl.Prior("StudentT", nu=3, mu=12, sigma=2), student(3, 12, 2)),
        "Uniform": (bl.Prior("Uniform", lower=5, upper=25), uniform(5, 20)),
    }[family]
    model = bl.Model("y ~ 1", DATA, priors={"Intercept": given, "sigma": SIGMA})

    beta, sigma = np.linspace(5, 25, 4001), np.linspace(0.5, 15, 2001)
    loglik = -0.5 * np.sum((DATA["y"][:, None] - beta) ** 2, axis=0) / sigma[:, None] ** 2
    loglik -= N * np.log(sigma[:, None]) + 0.5 * N * np.log(2 * np.pi)
    joint = np.exp(loglik) * frozen.pdf(beta) * halfnorm(scale=2).pdf(sigma)[:, None]
    exact = np.log(joint.sum() * (beta[1] - beta[0]) * (sigma[1] - sigma[0]))
    assert bl.evidence(model).log == pytest.approx(exact, abs=1e-4)


def test_correlations_have_their_normaliser() -> None:
    """With a narrow LKJ prior the correlated model is the independent one: every constant of the prior is needed."""
    data = {"x": DATA["x"] - 3, "y": DATA["y"], "g": DATA["g"]}
    priors = {"fixef": bl.Prior("Normal", mu=5, sigma=10), "sd_g": SD, "sigma": SIGMA}
    free = bl.Model("y ~ x + (x || g)", data, priors=priors)
    tied = bl.Model("y ~ x + (x | g)", data, priors=priors | {"corr_g": bl.Prior("LKJ", eta=2000)})
    draws = bl.sample(tied, draws=1000, tune=500, chains=2, seed=1, progress=False)
    found = bl.evidence(draws)
    assert found.method == "bridge"
    assert abs(found.log - bl.evidence(free).log) < 4 * found.error + 1e-3  # ρ² is about 1/4000 under that prior


@pytest.mark.parametrize(
    ("name", "formula", "priors"),
    [
        ("dyestuff", "Yield ~ 1 + (1 | Batch)", None),
        ("sleepstudy", "Reaction ~ Days + (1 | Subject)", None),
        ("dyestuff", "Yield ~ 1 + (1 | Batch)", {"sigma": bl.Prior("Uniform", lower=0, upper=200)}),
    ],
)
def test_quadrature_and_bridge_agree_to_within_their_errors(name: str, formula: str, priors: dict | None) -> None:
    model = bl.load(f"models/{name}").update(formula, priors=priors)
    exact = bl.evidence(model, "quadrature")
    drawn = bl.sample(model, draws=500, tune=500, seed=10, progress=False)
    found = [bl.evidence(drawn, "bridge", seed=seed) for seed in range(3)]
    for one in found:
        assert 0 < one.error < 0.05
        assert abs(one.log - exact.log) < 4 * np.hypot(one.error, exact.error)


def test_a_bayes_factor_says_which_priors_it_weighs() -> None:
    batches = bl.load("models/dyestuff")
    factor = bl.bayes_factor(batches, batches.update("Yield ~ 1"))
    assert factor.log == pytest.approx(factor.first.log - factor.second.log)
    assert factor.value == pytest.approx(np.exp(factor.log))
    assert any("sd_Batch" in note for note in factor.notes)
    assert any("Default priors" in note for note in factor.notes)
    assert bl.bayes_factor(factor.second, factor.first).log == pytest.approx(-factor.log)


def test_what_has_no_evidence_is_refused() -> None:
    batches, people = bl.load("models/dyestuff"), bl.load("models/sleepstudy")
    with pytest.raises(MethodError, match=r"sd_Batch\[Intercept\].*sigma is flat"):
        bl.evidence(batches.update(priors="flat"))
    with pytest.raises(MethodError, match="different responses"):
        bl.bayes_factor(batches, people)
    with pytest.raises(MethodError, match="different rows"):
        bl.bayes_factor(bl.Model("y ~ 1", DATA), bl.Model("y ~ 1", {"y": DATA["y"][1:]}))
    with pytest.raises(MethodError, match="from draws"):
        bl.evidence(people)
    with pytest.raises(MethodError, match="up to 3 dimensions"):
        bl.evidence(people, "quadrature")
    with pytest.raises(MethodError, match="not of a PointFit"):
        bl.evidence(bl.fit(batches))
