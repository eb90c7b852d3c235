"""Deletion formulas against refits of the remaining rows, dense arithmetic and lme4."""

import json
from time import perf_counter

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm import deletion
from bayeslmm.deletion import without_rows

FORMULAS = {
    "slope": "y ~ x + (x | a)",
    "crossed": "y ~ x + (x | a) + (1 | b)",
    "nested, uncorrelated": "y ~ x + (1 | c/a) + (x || b)",
    "as many levels": "y ~ x + (1 | a) + (0 + x | d)",  # a level less changes the order of theta
    "no intercept": "y ~ 0 + x + (1 | a)",
    "no groups' effect": "y ~ x + (1 | a) + (1 | b) + (1 | a:b)",
}


def table(n=90, seed=1):
    rng = np.random.default_rng(seed)
    a, b, d = rng.integers(0, 8, n), rng.integers(0, 5, n), rng.integers(0, 8, n)
    x = rng.normal(size=n)
    effects = rng.normal(size=(3, 12)) * 2
    y = 1 + x + effects[0][a] + effects[1][b] + effects[2][d] * x + rng.normal(size=n)
    labels = {
        "a": [f"a{i}" for i in a],
        "b": [f"b{i}" for i in b],
        "c": [f"c{i // 4}" for i in a],
        "d": [f"d{i}" for i in d],
    }
    return {"y": y, "x": x, "w": rng.uniform(0.5, 2.0, n), "o": rng.normal(size=n)} | labels


def dense(fit):
    """√w X, √w (y − offset), V in units of σ², all dense."""
    model, design = fit.model, fit.model.design
    root = np.ones(design.nobs) if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    spread = root[:, None] * (model.Z @ model.Lambda(fit.theta)).toarray()
    return root[:, None] * model.X, root * y, np.eye(design.nobs) + spread @ spread.T


def by_hand(fit, codes, levels):
    """β̂ and its covariance from the rows outside each of some levels, (θ, σ) held."""
    X, y, V = dense(fit)
    estimates, covariances = [], []
    for level in levels:
        keep = codes != level
        inverse = np.linalg.inv(V[np.ix_(keep, keep)])
        H = X[keep].T @ inverse @ X[keep]
        estimates.append(np.linalg.solve(H, X[keep].T @ inverse @ y[keep]))
        covariances.append(fit.sigma**2 * np.linalg.inv(H))
    return np.array(estimates), np.array(covariances)


def expected(fit, codes, levels):
    """The table's columns, from their definitions."""
    estimates, covariances = by_hand(fit, codes, levels)
    change, C, p = fit.beta - estimates, fit.beta_covariance, len(fit.beta)
    columns = {
        "cooks_distance": np.einsum("li,ij,lj->l", change, np.linalg.inv(C), change) / p,
        "mdffits": np.einsum("li,lij,lj->l", change, np.linalg.inv(covariances), change) / p,
        "covratio": np.linalg.det(covariances) / np.linalg.det(C),
    }
    scaled = change / np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return pd.DataFrame(
        columns | {f"dfbetas[{n}]": s for n, s in zip(fit.model.design.fixed.names, scaled.T, strict=True)}
    )


@pytest.fixture(scope="module")
def reference(root):
    return json.loads((root / "tests/reference/influence.json").read_text())


@pytest.fixture(scope="module")
def sleep():
    return bl.fit(bl.load("models/sleepstudy"))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weights and offset"])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_deletion_is_the_fit_of_the_other_rows(name, weighted, monkeypatch):
    given = {"weights": "w", "offset": "o"} if weighted else {}
    fit = bl.fit(bl.Model(FORMULAS[name], table(), **given))
    n = fit.nobs
    sets = {None: (np.arange(n), range(0, n, 7))} | {
        t.group: (t.codes, range(len(t.levels))) for t in fit.model.design.random
    }
    for by, (codes, levels) in sets.items():
        wanted = expected(fit, codes, levels)
        for large in (400, 0):  # D of each set, or the cross-products of the other rows
            monkeypatch.setattr(deletion, "LARGE_SET", large)
            found = bl.influence(fit, by)[wanted.columns].iloc[list(levels)]
            # both sides solve systems of condition < 1e6: ten digits
            np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


def test_a_sparse_remainder_gives_the_same():
    rng = np.random.default_rng(3)
    school = np.repeat(np.arange(60), 12)
    klass = school * 3 + rng.integers(0, 3, 720)
    pupil = klass * 4 + rng.integers(0, 4, 720)
    y = rng.normal(size=60)[school] + rng.normal(size=180)[klass] + rng.normal(size=720)[pupil] + rng.normal(size=720)
    data = {"y": y, "x": rng.normal(size=720), "s": school, "k": klass, "p": pupil}
    data |= {name: [f"{name}{i}" for i in data[name]] for name in "skp"}
    fit = bl.fit(bl.Model("y ~ x + (1 | s) + (1 | k) + (1 | p)", data))
    assert fit.model.products.structure.sparse
    for group in "skp":
        codes = next(t.codes for t in fit.model.design.random if t.group == group)
        columns, some = ["cooks_distance", "covratio"], [0, 17, 59]
        found = bl.influence(fit, group)[columns].iloc[some]
        np.testing.assert_allclose(found, expected(fit, codes, some)[columns], rtol=1e-7)


def test_leverage_is_the_derivative_of_the_fitted_values(sleep):
    X, y, V = dense(sleep)
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    frame = bl.influence(sleep)
    np.testing.assert_allclose(frame["leverage"], 1 - np.diag(P), atol=1e-10)
    np.testing.assert_allclose(frame["std_residual"], P @ y / sleep.sigma / np.sqrt(np.diag(P)), rtol=1e-8)
    by_level = bl.influence(sleep, "Subject")
    assert by_level["leverage"].sum() == pytest.approx(frame["leverage"].sum(), rel=1e-12)
    # the effective number of parameters that cAIC4 and lme4 give: the trace of lme4's hat matrix, version 1.1-31
    assert frame["leverage"].sum() == pytest.approx(29.0220678264674, rel=1e-7)


def test_lme4s_hat_values(reference):
    for name in ("penicillin", "pastes"):
        fit = bl.fit(bl.load(f"models/{name}"))
        # lme4's theta is within 1e-7 of the optimum
        np.testing.assert_allclose(bl.influence(fit)["leverage"], reference[name]["hatvalues"], rtol=1e-6)


def test_lme4s_refitted_deletions(reference):
    ours, theirs = bl.load("models/sleepstudy"), reference["unbalanced"]
    data = ours.arguments["data"]
    fit = bl.fit(ours.update(data=data.drop(data.index[theirs["rows_left_out"]]).reset_index(drop=True)))
    np.testing.assert_allclose(bl.influence(fit)["leverage"], theirs["hatvalues"], rtol=1e-6)
    frame = bl.influence(fit, "Subject", refit=True)
    assert len(frame) == len(theirs["cooks"]) == 17
    # lme4 multiplies by (m − p)/m; its refits stop within 1e-5 standard errors
    factor = (len(frame) - 2) / len(frame)
    np.testing.assert_allclose(frame["cooks_distance"] * factor, theirs["cooks"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(-frame.filter(like="dfbetas"), theirs["dfbetas"], atol=1e-4)
    held = bl.influence(fit, "Subject")["cooks_distance"]
    assert 1e-3 < (held - frame["cooks_distance"]).abs().max() < 0.05  # the variances matter, a little


def test_lme4s_deletions_of_a_crossed_factor(reference):
    frame = bl.influence(bl.fit(bl.load("models/penicillin")), "sample", refit=True)
    cooks = frame["cooks_distance"] * (len(frame) - 1) / len(frame)
    np.testing.assert_allclose(cooks, reference["penicillin"]["cooks_sample"], rtol=1e-5)


def test_a_refit_is_that_of_a_model_of_the_other_rows(sleep):
    data = sleep.model.arguments["data"]
    alone = bl.fit(sleep.model.update(data=data[data["Subject"].astype(str) != "308"]))
    frame = bl.influence(sleep, "Subject", refit=True)
    assert frame.loc["308", "sigma"] == pytest.approx(alone.sigma, rel=1e-6)
    assert frame.loc["308", "sd_Subject[Days]"] == pytest.approx(alone.sd["Subject"]["Days"], rel=1e-5)
    change = (sleep.beta - alone.beta) / alone.beta_sd
    np.testing.assert_allclose(
        frame.loc["308", ["dfbetas[Intercept]", "dfbetas[Days]"]].astype(float), change, rtol=1e-5
    )


def test_a_coefficient_that_only_one_level_knows_is_nan_without_it():
    data = table()
    data["only"] = [float(label == "a3") for label in data["a"]]
    fit = bl.fit(bl.Model("y ~ x + only + (1 | a)", data))
    for refit in (False, True):
        frame = bl.influence(fit, "a", refit=refit)
        assert frame["cooks_distance"].isna().sum() == 1
        assert np.isnan(frame.loc["a3", "cooks_distance"])


def test_map_with_gaussian_priors_counts_the_prior_as_data_that_stays():
    model = bl.Model("y ~ x + (1 | a)", table(), priors={"fixef": bl.Prior("Normal", mu=0.0, sigma=0.5)})
    fit = bl.fit(model, "MAP")
    X, y, V = dense(fit)
    prior = np.array([p.args["sigma"] ** -2 for p in model.priors.fixef])
    T = model.priors.fixef_transform
    P0 = T.T @ np.diag(prior) @ T
    codes = model.design.random[0].codes
    keep = codes != 4
    inverse = np.linalg.inv(V[np.ix_(keep, keep)]) / fit.sigma**2
    alone = np.linalg.solve(
        X[keep].T @ inverse @ X[keep] + P0,
        X[keep].T @ inverse @ y[keep] + T.T @ (prior * [p.args["mu"] for p in model.priors.fixef]),
    )
    change = (fit.beta - alone) @ np.linalg.solve(fit.beta_covariance, fit.beta - alone) / 2
    assert bl.influence(fit, "a")["cooks_distance"].iloc[4] == pytest.approx(change, rel=1e-5)


def test_only_fits_and_known_groups(sleep):
    with pytest.raises(bl.errors.MethodError, match=r"'Days' is no grouping factor.*'Subject'"):
        bl.influence(sleep, "Days")
    with pytest.raises(bl.errors.MethodError, match="point fit"):
        bl.influence(sleep.model)


def test_other_families_are_refused():
    fit = bl.fit(bl.Model("y ~ x + (1 | a)", table()))
    vars(fit.model)["family"] = "poisson"
    with pytest.raises(bl.errors.NotSupportedError, match="poisson"):
        bl.influence(fit)


def test_rows_that_stay_keep_the_model(sleep):
    keep = np.arange(180) % 10 != 3
    some = without_rows(sleep.model, keep)
    data = sleep.model.arguments["data"]
    anew = bl.fit(sleep.model.update(data=data[keep]))
    assert bl.fit(some).loglik == pytest.approx(anew.loglik, abs=1e-8)


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds():
    rng = np.random.default_rng(0)
    n, levels = 100_000, 10_000
    g, x = rng.integers(0, levels, n), rng.normal(size=n)
    y = 1 + x + rng.normal(size=levels)[g] + 0.5 * rng.normal(size=levels)[g] * x + rng.normal(size=n)
    fit = bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": [f"g{i:05d}" for i in g]}))
    start = perf_counter()
    bl.influence(fit)
    bl.influence(fit, "g")
    assert perf_counter() - start < 5.0  # 0.3 s on one idle core
