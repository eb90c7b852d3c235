"""Hat values and conditional AIC against lme4, brute force over refits, simulation, and dense algebra."""

from pathlib import Path

import numpy as np
import pytest

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.information import _penalty, conditional
from bayeslmm.refits import Refits

# From R: lme4 1.1-31, REML: sum(hatvalues(fit)) and its first values.
LME4 = {
    "slopes": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", 29.0220678264674),
    "intercepts": ("sleepstudy", "Reaction ~ Days + (1 | Subject)", 17.892450536652),
    "blends": ("penicillin_blocks", "yield ~ treat + (1 | blend)", 6.85858585860945),
    "tablets": ("tablets_missing", "y ~ method + (1 | tablet)", 16.3931189470602),
}
CASES = [
    ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    ("sleepstudy", "Reaction ~ Days + (Days || Subject)"),
    ("dyestuff", "Yield ~ 1 + (1 | Batch)"),
    ("pastes", "strength ~ 1 + (1 | batch/cask)"),
]


@pytest.fixture(autouse=True)
def at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def fitted(name: str, formula: str, method: str = "REML") -> bl.PointFit:
    return bl.fit(bl.load(f"models/{name}").update(formula), method)


@pytest.mark.parametrize("case", LME4)
def test_the_trace_of_the_hat_matrix_is_that_of_lme4(case: str) -> None:
    name, formula, rho = LME4[case]
    # 1e-6: two optimisers' θ differ by about 1e-6 relative
    assert bl.information(fitted(name, formula)).table["rho"].iloc[0] == pytest.approx(rho, rel=1e-6)


def dense_hat(fit: bl.PointFit) -> np.ndarray:
    """diag H with ŷ = Hy, from V as a dense matrix."""
    model = fit.model
    half = model.Z @ model.Lambda(fit.theta)
    W = np.ones(fit.nobs) if model.design.weights is None else model.design.weights
    V = np.diag(1 / W) + (half @ half.T).toarray()
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ model.X @ np.linalg.solve(model.X.T @ inverse @ model.X, model.X.T @ inverse)
    return np.diag(np.eye(fit.nobs) - np.diag(1 / W) @ P)


def test_hat_values_and_the_conditional_likelihood_with_weights_and_crossed_groups() -> None:
    rng = np.random.default_rng(3)
    n = 90
    data = {
        "x": rng.normal(size=n),
        "a": rng.integers(0, 9, n),
        "b": rng.integers(0, 6, n),
        "w": rng.uniform(0.3, 3, n),
    }
    data["y"] = 2 + data["x"] + rng.normal(size=9)[data["a"]] + rng.normal(size=6)[data["b"]] + rng.normal(size=n)
    fit = bl.fit(bl.Model("y ~ x + (1 + x || a) + (1 | b)", data, weights="w"))
    found = conditional(fit)
    np.testing.assert_allclose(found.hat, dense_hat(fit), atol=1e-10)  # rounding of a 90 x 90 inverse
    sd = fit.sigma / np.sqrt(data["w"])
    loglik = np.sum(-0.5 * np.log(2 * np.pi * sd**2) - 0.5 * (fit.residuals.to_numpy() / sd) ** 2)
    assert found.loglik == pytest.approx(loglik, rel=1e-12)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize(("name", "formula"), CASES)
def test_effective_degrees_of_freedom_are_the_derivatives_of_refitted_values(
    name: str, formula: str, method: str
) -> None:
    fit = fitted(name, formula, method)
    again, y, step = Refits(fit.model), fit.model.design.y, 1e-3 * fit.sigma
    total = 0.0
    for i in range(len(y)):
        moved = [y + sign * step * (np.arange(len(y)) == i) for sign in (1, -1)]
        up, down = (bl.fit(again.model(z), method).fitted.to_numpy()[i] for z in moved)
        total += (up - down) / (2 * step)
    # 1e-6: central differences of refits whose θ is known to about 1e-7
    assert conditional(fit).edf == pytest.approx(total, rel=1e-6)


def test_vaida_and_blanchards_penalty_is_the_bias_when_theta_is_known() -> None:
    rng, groups, size, p, sigma, theta = np.random.default_rng(1), 5, 3, 2, 1.3, 0.8
    n = groups * size
    X, Z = np.column_stack([np.ones(n), rng.normal(size=n)]), np.kron(np.eye(groups), np.ones((size, 1)))
    inverse = np.linalg.inv(np.eye(n) + theta**2 * Z @ Z.T)
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    u = theta * sigma * rng.normal(size=(400_000, groups))
    mean = u @ Z.T
    y = mean + sigma * rng.normal(size=(400_000, n))
    residual, rss = y @ P, np.einsum("ni,ij,nj->n", y, P, y)
    # E over new rows y* of (|y* − ŷ|² − |y − ŷ|²)/2 is in closed form given y
    gap = 0.5 * (n * sigma**2 + ((y - residual - mean) ** 2).sum(1) - (residual**2).sum(1)) / rss
    for reml in (True, False):
        values = gap * (n - p if reml else n)
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - _penalty(n - np.trace(P), n, p, reml)) < 4 * error


def test_without_random_effects_both_penalties_count_coefficients() -> None:
    row = bl.information(bl.fit(bl.load("models/dyestuff").update("Yield ~ 1"), "ML")).table.iloc[0]
    assert row["rho"] == pytest.approx(1.0)
    assert row["edf"] == pytest.approx(1.0)
    assert row["cAIC_GK"] == pytest.approx(row["AIC"])
    assert row["cAIC_VB"] == pytest.approx(row["AICc"])  # Hurvich and Tsai's


def test_singular_and_held_fits_say_what_is_missing() -> None:
    singular = bl.information(bl.fit(bl.load("models/dyestuff2")))
    assert singular.table["edf"].iloc[0] == pytest.approx(singular.table["rho"].iloc[0])
    assert "singular" in str(singular)
    held = bl.information(bl.fit(bl.load("models/dyestuff"), fixed={"sd_Batch": 30.0}))
    assert np.isnan(held.table["cAIC_GK"].iloc[0])
    assert "held" in held.notes[0]


def test_what_cannot_be_compared_is_noted_or_refused() -> None:
    one, other = (
        fitted("sleepstudy", "Reaction ~ Days + (1 | Subject)"),
        fitted("sleepstudy", "Reaction ~ 1 + (1 | Subject)"),
    )
    assert "fixed parts differ" in bl.information(one, other).notes[0]
    assert "cannot be compared" in bl.information(one, bl.fit(one.model, "ML")).notes[0]
    assert bl.information(one, bl.fit(one.model)).notes == ()
    with pytest.raises(MethodError, match="different responses"):
        bl.information(one, bl.fit(bl.load("models/dyestuff")))
    with pytest.raises(MethodError, match="MAP"):
        bl.information(bl.fit(one.model, "MAP"))
    with pytest.raises(MethodError, match="one fit or more"):
        bl.information()
