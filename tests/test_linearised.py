"""The linear model tangent to a generalized fit: scores, leverages and one-step deletions, against densities, R and refits."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.approximation import Laplace
from bayeslmm.deletion import without_rows
from bayeslmm.errors import MethodError
from bayeslmm.linearised import linearised

MORE = {"negativebinomial": "y ~ x + (x | g)", "binomial": "p(s, m) ~ x + (1 | g)", "gamma": "t ~ x + (1 | g)"}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    n = 72
    g, x, m = np.repeat(np.arange(12), 6), rng.normal(size=n), rng.integers(2, 9, n)
    eta = 0.3 + 0.5 * x + 0.6 * rng.normal(size=12)[g] + 0.3 * rng.normal(size=12)[g] * x
    h = np.array(list("abcd"))[np.arange(n) % 4]
    y = rng.negative_binomial(2.0, 2.0 / (2.0 + np.exp(eta + 0.7)))
    s, t = rng.binomial(m, 1 / (1 + np.exp(-eta))), rng.gamma(3.0, np.exp(eta) / 3.0)
    return pd.DataFrame({"y": y, "s": s, "m": m, "t": t, "x": x, "g": g.astype(str), "h": h})


def fitted(family: str, terms: str = "", **options) -> bl.PointFit:
    link = "log" if family == "gamma" else None
    return bl.fit(bl.Model(MORE[family] + terms, table(), family=family, link=link), **options)


@pytest.fixture(scope="module")
def herds(root) -> bl.PointFit:
    return bl.fit(bl.load(root / "models/cbpp"))


@pytest.mark.parametrize("family", MORE)
def test_scores_of_a_group_are_those_of_its_own_likelihood(family) -> None:
    """With one factor Laplace's approximation is a sum over the groups: each has the gradient that its rows' e make."""
    fit = fitted(family)
    working = linearised(fit).working
    e = working.model.design.weights * working.residuals.to_numpy()
    m = fit.model.n_theta
    codes = fit.model.design.random[0].codes
    total = np.zeros(2)
    for level in range(12):
        own = Laplace(without_rows(fit.model, codes == level))
        gradient = -0.5 * own.minus_twice(fit.point)[1][m : m + 2]
        np.testing.assert_allclose(fit.model.X[codes == level].T @ e[codes == level], gradient, atol=1e-8)
        total += gradient
    # and they sum to nothing at the estimate, whose gradient is 1e-5 of its curvature's root at most
    np.testing.assert_allclose(fit.beta_root @ total, 0.0, atol=1e-4)


@pytest.mark.parametrize("terms", ["", " + (1 | h)"], ids=["one factor", "crossed"])
def test_leverages_are_the_diagonal_of_the_hat_matrix(terms) -> None:
    """Of η̂ in the working response, densely: [X ZΛ] with the unit penalty of the effects."""
    fit = fitted("negativebinomial", terms)
    weights = linearised(fit).working.model.design.weights
    columns = np.hstack([fit.model.X, (fit.model.Z @ fit.model.Lambda(fit.theta)).toarray()])
    penalty = np.diag(np.arange(columns.shape[1]) >= 2).astype(float)
    half = np.sqrt(weights)[:, None] * columns
    hat = half @ np.linalg.solve(half.T @ half + penalty, half.T)
    frame = bl.influence(fit)
    np.testing.assert_allclose(frame["leverage"], np.diag(hat), atol=1e-9)
    assert bl.influence(fit, "g")["leverage"].sum() == pytest.approx(np.trace(hat), rel=1e-9)


def test_without_effects_it_is_the_influence_of_r(root) -> None:
    """R 4.2: m <- glm(y ~ x, binomial("probit"), control = list(epsilon = 1e-14)); hatvalues(m), cooks.distance(m)."""
    y = [1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1]
    x = [-1.2, -0.8, -0.5, -0.3, -0.1, 0.0, 0.2, 0.4, 0.7, 1.0, 1.3, 1.9]
    frame = bl.influence(
        bl.fit(bl.Model("y ~ x", {"y": y, "x": x}, family="bernoulli", link="probit"), information="expected")
    )
    hat = [0.31270948584, 0.20088474568, 0.14142602232, 0.11337377985, 0.09455000083, 0.08858427827]
    hat += [0.08351006342, 0.08752396655, 0.11041715457, 0.15328649608, 0.21577843140, 0.39795557520]
    cooks = [0.28576428502, 0.19225648569, 0.07537431259, 0.05515428691, 0.07745251010, 0.07259145851]
    cooks += [0.03554149163, 0.07552816701, 0.04661762436, 0.06858958793, 0.28479721880, 0.31161240865]
    pearson = [1.1207754768, -1.2367636955, 0.9566451572, 0.9287923015, -1.2179633336, -1.2221870883]
    pearson += [0.8832370259, -1.2549219272, 0.8666924054, 0.8704831910, -1.4387927648, 0.9710002513]
    # both are at the maximum to about 1e-8 of a standard error
    np.testing.assert_allclose(frame["leverage"], hat, rtol=1e-6)
    np.testing.assert_allclose(frame["cooks_distance"], cooks, rtol=1e-6)
    np.testing.assert_allclose(frame["std_residual"], pearson, rtol=1e-6)


@pytest.mark.parametrize("observed", [True, False])
def test_hat_values_of_either_information_are_those_of_statsmodels(observed) -> None:
    sm = pytest.importorskip("statsmodels.api")
    data = table()
    X = np.column_stack([np.ones(72), data["x"]])
    found = sm.GLM(data["t"], X, family=sm.families.Gamma(sm.families.links.Log())).fit(tol=1e-14)
    fit = bl.fit(
        bl.Model("t ~ x", data, family="gamma", link="log"), information="observed" if observed else "expected"
    )
    hat = found.get_hat_matrix_diag(observed=observed)
    np.testing.assert_allclose(bl.influence(fit)["leverage"], hat, rtol=1e-6)  # whatever the dispersion is


def test_one_step_is_near_the_refit_of_every_herd(herds) -> None:
    """θ held and the curvature of the tangent model: 5 % of the change of β, however many groups there are.

    Were the herds copied, each would move β by less, and the one step would err by the same share of it (0.047 at 15
    herds, 0.047 at 120): it is the Hessian that is approximate, not the scores, which are exact.
    """
    names = [name for name in bl.influence(herds, "herd") if name.startswith("dfbetas")]
    step, refit = bl.influence(herds, "herd"), bl.influence(herds, "herd", refit=True)
    error = np.linalg.norm(step[names] - refit[names]) / np.linalg.norm(refit[names])
    assert error < 0.06
    assert step["cooks_distance"].nlargest(2).index.tolist() == refit["cooks_distance"].nlargest(2).index.tolist()
    assert set(refit) == {"rows", "cooks_distance", "mdffits", "covratio", *names, "sd_herd[Intercept]"}
    rows = bl.influence(herds)
    assert (rows["leverage"] > 0).all()
    assert rows["leverage"].sum() == pytest.approx(step["leverage"].sum(), rel=1e-9)


def test_one_step_is_near_the_refit_of_every_row(herds) -> None:
    """A row leaves its herd's effect with less to go by, and the curvature there changes: 9 % of the change of β."""
    step, refit = bl.influence(herds), bl.influence(herds, refit=True)
    names = [name for name in step if name.startswith("dfbetas")]
    assert np.linalg.norm(step[names] - refit[names]) / np.linalg.norm(refit[names]) < 0.11


@pytest.mark.parametrize("options", [{"method": "AGHQ"}, {"method": "PQL"}, {"fast": True}], ids=str)
def test_other_ways_of_fitting_have_influence_too(herds, options) -> None:
    """Each way has its own estimate and its own scores; what a herd does to the coefficients is much the same."""
    fit = bl.fit(herds.model, **options)
    found, by_laplace = bl.influence(fit, "herd"), bl.influence(herds, "herd")
    names = [name for name in found if name.startswith("dfbetas")]
    assert np.corrcoef(found[names].to_numpy().ravel(), by_laplace[names].to_numpy().ravel())[0, 1] > 0.98
    if "fast" not in options:
        again = bl.influence(fit, "herd", refit=True)
        assert np.corrcoef(again["cooks_distance"], found["cooks_distance"])[0, 1] > 0.95


def test_refits_show_the_dispersion_and_where_there_is_no_estimate() -> None:
    fit = fitted("negativebinomial")
    assert "alpha" in bl.influence(fit, "g", refit=True)
    data = pd.DataFrame({"y": [1, 0, 1, 0, 1, 1, 0, 0], "one": [0, 0, 0, 0, 0, 0, 1, 1]}).assign(g=list("aabbccdd"))
    data.loc[6, "y"] = 1
    binary = bl.fit(bl.Model("y ~ one + (1 | g)", data, family="bernoulli"))
    gone = bl.influence(binary, refit=True)
    assert gone.loc[6].isna().all()  # without row 6 all responses with `one` are 0: no finite coefficient
    assert gone.loc[0].notna().all()


def test_where_the_likelihood_is_not_concave_there_is_no_tangent(root) -> None:
    salamanders = bl.load(root / "models/salamanders")
    zeros = bl.fit(salamanders.update("count ~ mined + (1 | site)", family="zero_inflated_poisson"))
    with pytest.raises(MethodError, match="not concave"):
        bl.influence(zeros)
    # the observed weight of a Cauchy link is negative far out; its expectation is not
    data = table().assign(b=lambda t: (t["s"] > 2).astype(int))
    data.loc[0, ["x", "b"]] = (9.0, 0)
    cauchit = bl.fit(bl.Model("b ~ x", data, family="bernoulli", link="cauchit"))
    assert bl.influence(cauchit)["leverage"].sum() == pytest.approx(2.0)


def test_a_diagnosis_names_the_herd_that_the_coefficients_depend_on() -> None:
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(15), 8)
    x = rng.normal(size=120)
    x[g == 3] = rng.normal(3.0, 0.2, 8)
    mu = np.exp(0.5 + 0.3 * x + 0.2 * rng.normal(size=15)[g])
    mu[g == 3] *= 8.0
    model = bl.Model("y ~ x + (1 | g)", {"y": rng.poisson(mu), "x": x, "g": g.astype(str)}, family="poisson")
    found = bl.diagnose(bl.fit(model), nsim=99, progress=False)
    row = found.table.set_index("check").loc["influential levels: g"]
    assert row["verdict"] != "ok"
    assert "g 3" in row["sentence"]
    assert {"leverage", "influential rows", "influential levels"} <= set(found.figures())
