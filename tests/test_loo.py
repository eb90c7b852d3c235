"""Leave-one-out densities against dense conditional normals and against samples without the row or the group."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import bayeslmm as bl
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError
from bayeslmm.leftout import row_densities, without_rows

SAMPLER = {"draws": 1000, "tune": 500, "chains": 4, "progress": False}


@pytest.fixture(autouse=True)
def at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def dyestuff(root: Path) -> bl.Posterior:
    return bl.sample(bl.load(root / "models/dyestuff"), seed=1, **SAMPLER)


@pytest.fixture(scope="module")
def sleep(root: Path) -> dict[str, bl.Posterior]:
    slopes = bl.load(root / "models/sleepstudy")
    models = {"slopes": slopes, "intercepts": slopes.update("Reaction ~ Days + (1 | Subject)")}
    return {name: bl.sample(model, seed=1, **SAMPLER) for name, model in models.items()}


@pytest.mark.parametrize("normal", [True, False])
def test_density_of_a_row_given_the_others_is_the_conditional_normal(normal: bool) -> None:
    """With weights, an offset and crossed groups; β integrated where its prior is normal, given where it is not."""
    rng = np.random.default_rng(2)
    n = 40
    data = {
        "x": rng.normal(size=n),
        "a": rng.integers(0, 6, n),
        "b": rng.integers(0, 4, n),
        "w": rng.uniform(0.5, 2, n),
    }
    data["y"] = 5 + data["x"] + rng.normal(size=6)[data["a"]] + rng.normal(size=n)
    priors = None if normal else {"x": bl.Prior("StudentT", nu=4, mu=0, sigma=2)}
    offset = rng.normal(size=n)
    model = bl.Model("y ~ x + (x | a) + (1 | b)", data, weights="w", offset=offset, priors=priors)
    post = bl.sample(model, 3, 100, 1, seed=1, progress=False)
    found = row_densities(post).values[0]
    x = Direct(model).coordinates_of(
        {str(k): np.asarray(v.values) for k, v in post.data["posterior"].data_vars.items()}
    )
    for draw in range(3):
        theta, sigma = Direct(model).theta_sigma(_linear(x[0, draw], Direct(model)))
        half = (model.Z @ model.Lambda(theta)).toarray()
        V = sigma**2 * (np.diag(1 / data["w"]) + half @ half.T)
        mean = offset + model.X @ post.draws("fixef")[draw]
        if normal:
            V = V + model.X @ np.linalg.inv(model.priors.fixef_precision) @ model.X.T
            mean = offset + model.X @ model.priors.fixef_mean
        inverse = np.linalg.inv(V)
        variance = 1 / np.diag(inverse)
        centre = data["y"] - inverse @ (data["y"] - mean) * variance
        expected = norm(centre, np.sqrt(variance)).logpdf(data["y"])
        np.testing.assert_allclose(found[draw], expected, atol=1e-8)  # rounding of a 40 x 40 inverse


def _linear(x: np.ndarray, direct: Direct) -> np.ndarray:
    """Coordinates with sds in place of their logarithms, as `theta_sigma` takes them."""
    out = x.copy()
    out[: direct.n_sd] = np.exp(out[: direct.n_sd])
    return out


def test_rows_agree_with_samples_without_them(dyestuff: bl.Posterior) -> None:
    model, found = dyestuff.model, bl.loo(dyestuff)
    y, codes = model.design.y, model.design.random[0].codes
    for i in (0, 14, 24):
        without = bl.sample(without_rows(model, np.arange(30) == i), seed=2, **SAMPLER)
        mean = without.draws("fixef")[:, 0] + without.draws("ranef_Batch")[:, codes[i], 0]
        exact = np.log(norm(mean, without.draws("sigma")).pdf(y[i]).mean())
        # Monte Carlo: a density whose log varies by 0.3 over 4000 correlated draws, twice
        assert found.pointwise["elpd"].iloc[i] == pytest.approx(exact, abs=0.05)


def test_groups_agree_with_samples_without_them(dyestuff: bl.Posterior) -> None:
    model, found = dyestuff.model, bl.loo(dyestuff, by="Batch")
    y, codes = model.design.y, model.design.random[0].codes
    assert found.pointwise.index.tolist() == list(model.levels("Batch"))
    for g in (0, 4):
        rest = bl.sample(without_rows(model, codes == g), seed=2, **SAMPLER)
        b, s, r = (rest.draws(name).reshape(-1) for name in ("fixef", "sd_Batch", "sigma"))
        own, total = y[codes == g], 5 * s**2 + r**2  # the eigenvalues of s²J + r²I are total and four times r²
        exact = -0.5 * (5 * np.log(2 * np.pi) + 8 * np.log(r) + 5 * own.var() / r**2)
        exact += -0.5 * (np.log(total) + 5 * (own.mean() - b) ** 2 / total)
        # Monte Carlo: the density of a batch varies about twofold over the draws, and PSIS reweights by its inverse
        expected = logsumexp(exact) - np.log(len(exact))
        assert found.pointwise["elpd"].iloc[g] == pytest.approx(expected, abs=0.15)


def test_integrated_weights_estimate_what_conditional_ones_do_with_lower_k(sleep: dict[str, bl.Posterior]) -> None:
    import arviz

    post = sleep["intercepts"]
    integrated, conditional = bl.loo(post), bl.loo(post, effects="conditional")
    with pytest.warns(UserWarning, match="shape parameter") if len(conditional.high_k) else _nothing():
        plain = arviz.loo(post.data)
    assert conditional.elpd == pytest.approx(plain.elpd, abs=0.1)  # another relative efficiency, so another tail
    assert integrated.elpd == pytest.approx(conditional.elpd, abs=0.5)  # Monte Carlo, twice
    assert integrated.p == pytest.approx(conditional.p, abs=0.5)
    assert integrated.pointwise["k"].mean() < conditional.pointwise["k"].mean()


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_high_k_is_said_and_sampled_again(sleep: dict[str, bl.Posterior]) -> None:
    post = sleep["slopes"]
    first = bl.loo(post, by="Subject")
    assert len(first.high_k)  # subject 332, whose rows lie off their line
    assert "refit=True" in first.notes[-1]
    again = bl.loo(post, by="Subject", refit=True, progress=False)
    assert not len(again.high_k)
    done = again.pointwise["k"].isna()
    assert done.sum() == len(first.high_k)
    np.testing.assert_array_equal(again.pointwise.loc[~done, "elpd"], first.pointwise.loc[~done, "elpd"])
    assert "Sampled again" in str(again)


def test_comparison_keeps_names_differences_and_weights(sleep: dict[str, bl.Posterior]) -> None:
    found = bl.compare_loo(sleep, by="Subject")
    assert found.table.index.tolist() == ["slopes", "intercepts"]
    assert found.table["weight"].sum() == pytest.approx(1.0, abs=1e-6)
    gap = found.loos["intercepts"].pointwise["elpd"] - found.loos["slopes"].pointwise["elpd"]
    row = found.table.loc["intercepts"]
    assert row["elpd_diff"] == pytest.approx(gap.sum())
    assert row["dse"] == pytest.approx(np.sqrt(len(gap)) * gap.std(ddof=0))
    density = np.exp([found.loos[n].pointwise["elpd"] for n in found.table.index])
    grid = np.linspace(0, 1, 2001)
    score = [np.log(w * density[0] + (1 - w) * density[1]).sum() for w in grid]
    assert found.table["weight"].iloc[0] == pytest.approx(grid[int(np.argmax(score))], abs=2e-3)  # SLSQP's tolerance


def test_what_has_no_leave_one_out_density_is_refused(dyestuff: bl.Posterior, sleep: dict[str, bl.Posterior]) -> None:
    short = {"draws": 50, "tune": 50, "chains": 1, "seed": 1, "progress": False}
    crossed = bl.sample(bl.load("models/penicillin"), **short)
    with pytest.raises(MethodError, match="crossed"):
        bl.loo(crossed, by="sample")
    nested = bl.sample(bl.load("models/pastes"), **short)
    with pytest.raises(MethodError, match="by='batch'"):
        bl.loo(nested, by="cask:batch")
    with pytest.raises(MethodError, match="no grouping factor"):
        bl.loo(dyestuff, by="Subject")
    with pytest.raises(MethodError, match="different responses"):
        bl.compare_loo({"a": dyestuff, "b": sleep["slopes"]})
    with pytest.raises(MethodError, match="two models"):
        bl.compare_loo({"a": dyestuff})
    with pytest.raises(MethodError, match="different things"):
        bl.compare_loo({"a": bl.loo(dyestuff), "b": bl.loo(dyestuff, by="Batch")})
    with pytest.raises(MethodError, match=r"bl\.information"):
        bl.loo(bl.fit(dyestuff.model))


def test_a_row_that_only_a_flat_prior_predicts_is_named() -> None:
    data = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 9.0], "one": [0, 0, 0, 0, 0, 1.0]}
    model = bl.Model("y ~ one", data, priors={"one": bl.Prior("Flat"), "Intercept": bl.Prior("Normal", mu=0, sigma=9)})
    with pytest.raises(MethodError, match="row 5 alone determines"):
        bl.loo(bl.sample(model, 100, 50, 1, seed=1, progress=False))
