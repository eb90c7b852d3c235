"""Ordered categories: fits against clm, clmm and polr and by brute force, gradients, responses of every kind."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Quadrature
from bayeslmm.errors import DataError, MethodError, NotSupportedError

ROOT = Path(__file__).resolve().parent
REFERENCE = json.loads((ROOT / "reference" / "ordinal.json").read_text(encoding="utf-8"))
FORWARD = {"logit": special.expit, "probit": special.ndtr, "cloglog": lambda x: -np.expm1(-np.exp(x))}
LINKS = list(FORWARD)


@cache
def wine() -> pd.DataFrame:
    return bl.load(ROOT.parent / "models" / "wine").arguments["data"]


@cache
def fit_of(formula: str, link: str = "logit", method: str = "Laplace", nodes: int | None = None):
    return bl.fit(bl.Model(formula, wine(), family="cumulative", link=link), method, nodes=nodes)


@pytest.mark.parametrize("link", LINKS)
def test_without_random_effects_it_is_clm_and_polr(link: str) -> None:
    """Both maximise the same likelihood; polr's quasi-Newton run stops at 1e-5, our Hessian is one of differences (se)."""
    fit, clm, polr = fit_of("rating ~ temp + contact", link), REFERENCE["clm"][link], REFERENCE["polr"][link]
    se = np.array(list(clm["se"].values()))
    got = np.concatenate([fit.thresholds["estimate"], fit.fixef])
    for other, within in ((clm, 1e-5), (polr, 1e-4)):
        want = np.array([*other["thresholds"].values(), *other["fixef"].values()])
        assert fit.loglik == pytest.approx(other["loglik"], abs=1e-7)
        np.testing.assert_allclose((got - want) / se, 0.0, atol=within)
    np.testing.assert_allclose(np.concatenate([fit.thresholds["se"], fit.se]), se, rtol=1e-4)
    assert list(fit.thresholds.index) == list(clm["thresholds"])
    assert fit.df == 6


@pytest.mark.parametrize("link", LINKS)
def test_laplace_is_the_approximation_by_brute_force(link: str) -> None:
    """Modes by a search, curvatures by differences of fourth order (1e-8); clmm's own is off for probit and cloglog."""
    fit = fit_of("rating ~ temp + contact + (1 | judge)", link)
    y, eta, codes = fit.model.design.y.astype(int), fit.model.X @ fit.fixef.to_numpy(), fit.model.design.random[0].codes
    tau, sd, F = fit.thresholds["estimate"].to_numpy(), fit.sd["judge"].iloc[0], FORWARD[link]
    upper, lower = np.append(tau, np.inf)[y], np.insert(tau, 0, -np.inf)[y]
    total = 0.0
    for judge in range(9):
        rows = codes == judge

        def h(b: float, rows=rows) -> float:
            at = eta[rows] + sd * b
            return float(np.log(F(upper[rows] - at) - F(lower[rows] - at)).sum() - 0.5 * b * b)

        b = optimize.minimize_scalar(lambda b: -h(b), bounds=(-5, 5), method="bounded", options={"xatol": 1e-11}).x
        e = 1e-3
        curvature = (h(b + 2 * e) - 16 * h(b + e) + 30 * h(b) - 16 * h(b - e) + h(b - 2 * e)) / (12 * e * e)
        total += h(b) - 0.5 * np.log(curvature)
    assert fit.loglik == pytest.approx(total, abs=1e-7)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", ["Laplace", "joint", "AGHQ"])
def test_gradient_is_that_of_the_objective(link: str, kind: str) -> None:
    """Central differences of step 1e-5: error h² times a third derivative, and rounding of −2 log-likelihood over h."""
    formula = "rating ~ temp + contact + (1 + temp | judge)"
    model = bl.Model(formula, wine(), family="cumulative", link=link)
    by_kind = {
        "Laplace": lambda: Laplace(model), "joint": lambda: Laplace(model, joint=True),
        "AGHQ": lambda: Quadrature(model, "observed", 3),
    }  # fmt: skip
    approximation = by_kind[kind]()
    beta = [] if kind == "joint" else [1.1, 0.4]
    x = np.array([0.8, -0.3, 0.5, *beta, -1.0, 0.6, 0.2, -0.4])
    _, gradient = approximation.minus_twice(approximation.point(x))
    assert len(gradient) == len(x)
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        ends = [approximation.minus_twice(approximation.point(end))[0] for end in (up, down)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-6)


def test_one_node_is_laplace() -> None:
    formula = "rating ~ temp + contact + (1 | judge)"
    assert fit_of(formula, "logit", "AGHQ", 1).loglik == pytest.approx(fit_of(formula).loglik, abs=1e-9)


def test_two_categories_are_a_binary_response() -> None:
    """P(y = 2) = F(η − τ) with a symmetric link: the Intercept is −τ."""
    table = wine().assign(bitter=(wine()["rating"] > 2).astype(int))
    binary = bl.fit(bl.Model("bitter ~ temp + contact + (1 | judge)", table, family="bernoulli"))
    two = bl.fit(bl.Model("bitter ~ temp + contact + (1 | judge)", table, family="cumulative"))
    assert two.loglik == pytest.approx(binary.loglik, abs=1e-8)
    np.testing.assert_allclose(two.fixef, binary.fixef.iloc[1:], rtol=1e-5)  # where two searches stop
    assert two.thresholds["estimate"].item() == pytest.approx(-binary.fixef.iloc[0], rel=1e-5)
    assert two.thresholds["se"].item() == pytest.approx(binary.se.iloc[0], rel=1e-4)


def test_an_intercept_makes_no_difference() -> None:
    """Thresholds stand in its place, and factors are coded beside it."""
    plain = fit_of("rating ~ temp + contact")
    for left in ("0 + ", "1 + ", "-1 + "):
        other = bl.Model(f"rating ~ {left}temp + contact", wine(), family="cumulative")
        assert other.design.fixed.names == ("temp[warm]", "contact[yes]")
        np.testing.assert_array_equal(other.X, plain.model.X)
    alone = bl.fit(bl.Model("rating ~ 1", wine(), family="cumulative"))
    shares = np.cumsum(wine()["rating"].value_counts(normalize=True).sort_index())[:-1]
    np.testing.assert_allclose(alone.thresholds["estimate"], special.logit(shares), rtol=1e-6)
    assert alone.fixef.empty


def test_a_predictor_far_from_zero_moves_the_thresholds_only() -> None:
    """2000 times the slope: the same likelihood to what a search leaves."""
    table = wine().assign(x=np.linspace(0, 1, 72), far=2000.0 + np.linspace(0, 1, 72))
    near = bl.fit(bl.Model("rating ~ x + temp + (1 | judge)", table, family="cumulative"))
    far = bl.fit(bl.Model("rating ~ far + temp + (1 | judge)", table, family="cumulative"))
    assert far.converged
    assert far.loglik == pytest.approx(near.loglik, abs=1e-8)
    moved = near.thresholds["estimate"] + 2000.0 * near.fixef["x"]
    np.testing.assert_allclose(far.thresholds["estimate"], moved, atol=2000.0 * 1e-4 * near.se["x"])


def test_weights_are_repeated_rows() -> None:
    """A row of weight 2 counts as two rows: the same likelihood, to rounding."""
    table = wine().assign(w=np.arange(72) % 3 + 1)
    repeated = table.loc[table.index.repeat(table["w"])].reset_index(drop=True)
    weighted = bl.fit(bl.Model("rating ~ temp + (1 | judge)", table, family="cumulative", weights="w"))
    plain = bl.fit(bl.Model("rating ~ temp + (1 | judge)", repeated, family="cumulative"))
    assert weighted.loglik == pytest.approx(plain.loglik, abs=1e-7)
    np.testing.assert_allclose(weighted.thresholds["estimate"], plain.thresholds["estimate"], rtol=1e-5)


def test_responses_of_every_kind_are_the_same_model() -> None:
    words = ["none", "slight", "some", "much", "most"]
    rating = wine()["rating"].to_numpy()
    labelled = pd.Categorical.from_codes(rating - 1, words, ordered=True)
    want = fit_of("rating ~ temp + contact").loglik
    for response in (labelled, rating * 10, rating.astype(float)):
        model = bl.Model("y ~ temp + contact", wine().assign(y=response), family="cumulative")
        assert bl.fit(model).loglik == pytest.approx(want, abs=1e-10)
    model = bl.Model("y ~ temp", wine().assign(y=labelled), family="cumulative")
    assert model.design.response_levels == tuple(words)
    assert model.design.thresholds == ("none|slight", "slight|some", "some|much", "much|most")
    turned = bl.Model("y ~ temp", wine().assign(y=labelled.reorder_categories(words[::-1])), family="cumulative")
    assert bl.fit(turned).fixef.iloc[0] == pytest.approx(-bl.fit(model).fixef.iloc[0], rel=1e-4)  # logit is symmetric


def test_a_category_that_no_row_has_is_dropped_and_named() -> None:
    """As clm and clmm drop it."""
    labelled = pd.Categorical(wine()["rating"], [0, 1, 2, 3, 4, 5, 6], ordered=True)
    model = bl.Model("y ~ temp + contact", wine().assign(y=labelled), family="cumulative")
    fit = bl.fit(model)
    assert fit.loglik == pytest.approx(fit_of("rating ~ temp + contact").loglik, abs=1e-9)
    assert "Categories dropped, which no row has: 0, 6." in str(fit)


def test_responses_without_an_order_are_refused() -> None:
    text = wine().assign(y=wine()["rating"].map({1: "a", 2: "b", 3: "c", 4: "d", 5: "e"}))
    with pytest.raises(DataError, match=r"'y' has categories without an order .*ordered=True"):
        bl.Model("y ~ temp", text, family="cumulative")
    with pytest.raises(DataError, match="without an order"):
        bl.Model("y ~ temp", text.assign(y=pd.Categorical(text["y"])), family="cumulative")
    with pytest.raises(DataError, match=r"whole numbers or an ordered categorical; y is 2.5 in row 0"):
        bl.Model("y ~ temp", text.assign(y=wine()["rating"] + 0.5), family="cumulative")
    with pytest.raises(DataError, match="has one category, '3'; a threshold needs two"):
        bl.Model("y ~ temp", text.assign(y=3), family="cumulative")
    with pytest.raises(NotSupportedError, match="it has logit, probit, cloglog"):
        bl.Model("rating ~ temp", wine(), family="cumulative", link="cauchit")


def test_what_has_no_meaning_is_refused_by_name() -> None:
    fit = fit_of("rating ~ temp + contact + (1 | judge)")
    for ask in (lambda: fit.fitted, lambda: fit.residuals, lambda: fit.pearson_residuals):
        with pytest.raises(MethodError, match=r"a category has no mean.*fit.probabilities"):
            ask()
    with pytest.raises(MethodError, match="fast=True puts β at the mode with thresholds held"):
        bl.fit(fit.model, fast=True)
    with pytest.raises(MethodError, match="PQL needs a variance function"):
        bl.fit(fit.model, "PQL")
    with pytest.raises(MethodError, match="expected information of the cumulative family"):
        bl.fit(fit.model, information="expected")


def test_the_summary_shows_the_thresholds() -> None:
    text = str(fit_of("rating ~ temp + contact + (1 | judge)"))
    table = text.partition("Thresholds:")[2]
    assert table.split()[:8] == ["Estimate", "Std.", "Error", "z", "value", "Pr(>|z|)", "1|2", "-1.624"]
    assert "Family: cumulative (logit link)" in text
    assert "Pearson" not in text


def test_probabilities_given_the_effects() -> None:
    """Those of clm without random effects; they sum to one with them."""
    alone = fit_of("rating ~ temp + contact")
    first = alone.probabilities.loc[(alone.model.X == 0).all(axis=1)].iloc[0]
    np.testing.assert_allclose(first, REFERENCE["clm"]["logit"]["fit"][0], rtol=1e-5)  # where two searches stop
    fit = fit_of("rating ~ temp + contact + (1 | judge)")
    np.testing.assert_allclose(fit.probabilities.sum(axis=1), 1.0, rtol=1e-12)
    assert list(fit.probabilities.columns) == ["1", "2", "3", "4", "5"]
    with pytest.raises(MethodError, match="probabilities of categories are of the cumulative family"):
        _ = bl.fit(bl.Model("response ~ temp", wine(), family="gamma", link="log")).probabilities


def test_a_response_that_a_factor_separates_is_named() -> None:
    table = wine().assign(warm=(wine()["rating"] > 3).astype(float))
    fit = bl.fit(bl.Model("rating ~ warm", table, family="cumulative"))
    assert not fit.converged
    assert "rises without end along warm" in fit.message


def test_a_model_file_keeps_the_order_of_the_categories(tmp_path: Path) -> None:
    from bayeslmm.spec import save

    words = ["none", "slight", "some", "much", "most"]
    labelled = pd.Categorical.from_codes(wine()["rating"].to_numpy() - 1, words, ordered=True)
    model = bl.Model("taste ~ temp + (1 | judge)", wine().assign(taste=labelled), family="cumulative", link="probit")
    again = bl.load(save(model, tmp_path / "taste.toml"))
    assert again.design.response_levels == tuple(words)
    np.testing.assert_array_equal(again.design.y, model.design.y)


def test_the_model_is_written_in_words_and_mathematics() -> None:
    from bayeslmm.mathematics import equations, symbols

    model = fit_of("rating ~ temp + contact + (1 | judge)").model
    assert "logit P(rating[i] ≤ k) = τ[k] - (X[i]·β + z_judge[i]·u_judge[judge[i]])" in str(model)
    assert "τ         1|2, 2|3, 3|4, 4|5" in str(model)
    said = [found.text for _, found in equations(model)]
    assert said[0].startswith("logit(P(rating[i] ≤ k)) = τ[k] − (")
    assert any("threshold above category k: 1|2, 2|3, 3|4, 4|5" in symbol.meaning for symbol in symbols(model))
