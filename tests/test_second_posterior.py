"""Posteriors of t responses and ordered categories: the graph's densities, priors, propriety, draws, Bambi's model."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import ImproperPosteriorError, MethodError, PriorError
from bayeslmm.graph.hierarchical import build, informativeness
from bayeslmm.propriety import check_proper
from bayeslmm.thresholds import second_log_densities

WINE = Path(__file__).resolve().parent.parent / "models" / "wine"
FLAT = bl.Prior("Flat")
TAU = np.array([-1.5, 0.2, 1.1, 2.6])


@cache
def heavy() -> bl.Model:
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(12), 6), rng.normal(size=72)
    y = 1 + x + rng.normal(size=12)[g] + rng.standard_t(3, 72)
    return bl.Model("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g.astype(str)}), family="t")


def log_densities(model: bl.Model, point: dict) -> tuple[np.ndarray, dict[str, float]]:
    """Of the rows by the graph, and of its free variables without Jacobians; not compiled to C, which takes seconds."""
    graph = build(model, "centred")
    names = [v.name for v in graph.free_RVs]
    assert set(names) == set(point)
    values = {
        graph.rvs_to_values[graph[name]].name: (
            graph.rvs_to_transforms[graph[name]]
            .forward(np.asarray(value, float), *graph[name].owner.inputs)
            .eval(mode="FAST_COMPILE")
            if graph.rvs_to_transforms[graph[name]] is not None
            else np.asarray(value, float)
        )
        for name, value in point.items()
    }
    observed = graph.observed_RVs[0]
    logps = graph.logp([observed, *graph.free_RVs], jacobian=False, sum=False)
    found = graph.compile_fn(logps, inputs=graph.value_vars, mode="FAST_COMPILE", point_fn=True)(values)
    return found[0], {name: float(np.sum(v)) for name, v in zip(names, found[1:], strict=True)}


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_the_graph_has_the_probabilities_of_the_categories(link: str) -> None:
    """To 1e-7: PyMC's normal distribution function takes √2 in single precision."""
    model = bl.load(WINE).update(link=link)
    u, beta = np.linspace(-1, 1, 9)[:, None], np.array([1.0, 0.5])
    rows, priors = log_densities(
        model, {"fixef": beta, "sd_judge": np.array([0.8]), "ranef_judge": u, "thresholds": TAU}
    )
    eta = model.X @ beta + u[model.terms[0].codes, 0]
    want = second_log_densities(link, model.design.y, eta[None], np.empty(0), {"thresholds": TAU[None]})[0]
    np.testing.assert_allclose(rows, want, rtol=1e-7)
    assert priors["thresholds"] == pytest.approx(stats.norm.logpdf(TAU, [-2, -0.67, 0.67, 2], 1).sum())


def test_the_graph_has_the_t_density() -> None:
    model = heavy()
    u, beta = np.linspace(-1, 1, 12)[:, None], np.array([1.0, 0.5])
    point = {"fixef": beta, "sd_g": np.array([0.8]), "ranef_g": u, "sigma": 1.3, "nu": 4.5}
    rows, priors = log_densities(model, point)
    eta = model.X @ beta + u[model.terms[0].codes, 0]
    np.testing.assert_allclose(rows, stats.t.logpdf(model.design.y, 4.5, eta, 1.3), rtol=1e-10)
    assert priors["nu"] == pytest.approx(stats.gamma.logpdf(4.5, 2, scale=10))  # Bambi's Gamma(2, 0.1)
    own = second_log_densities("identity", model.design.y, eta[None], np.array([[1.3]]), {"nu": np.array([4.5])})
    np.testing.assert_allclose(own[0], rows, rtol=1e-10)


def test_default_priors_are_bambis() -> None:
    ordinal, t = (dict((name, prior) for name, prior, _ in m.priors.describe()) for m in (bl.load(WINE), heavy()))
    assert ordinal["thresholds[2|3]"] == "Normal(mu=-0.67, sigma=1)"
    assert ordinal["fixef[temp[warm]]"] == "Normal(mu=0, sigma=5)"  # 2.5 over the column's sd of 1/2
    assert t["nu"] == "Gamma(alpha=2, beta=0.1)"
    assert t["sigma"].startswith("HalfStudentT(nu=4")
    given = bl.load(WINE).update(priors={"thresholds": bl.Prior("Normal", mu=0, sigma=3)})
    assert dict(given.priors.parameters())["thresholds[1|2]"] == bl.Prior("Normal", mu=0, sigma=3)
    one = bl.load(WINE).update(priors={"thresholds[1|2]": bl.Prior("StudentT", nu=3, mu=0, sigma=1)})
    with pytest.raises(PriorError, match="thresholds need priors of one distribution"):
        build(one, "centred")
    with pytest.raises(PriorError, match=r"thresholds\[1\|2\] lies anywhere on the line and HalfNormal"):
        bl.load(WINE).update(priors={"thresholds": bl.Prior("HalfNormal", sigma=1)})
    with pytest.raises(PriorError, match="nu is positive"):
        heavy().update(priors={"nu": bl.Prior("Normal", mu=0, sigma=1)})


def test_improper_posteriors_are_refused() -> None:
    with pytest.raises(ImproperPosteriorError, match="flat prior on nu is improper"):
        check_proper(heavy().update(priors="flat"))
    table = bl.load(WINE).arguments["data"]
    late = table.assign(late=(table["rating"] > 3).astype(float))
    apart = bl.Model(
        "rating ~ late + (1 | judge)", late, family="cumulative", priors={"fixef": FLAT, "thresholds": FLAT}
    )
    with pytest.raises(ImproperPosteriorError, match="the categories are separated along"):
        check_proper(apart)
    two = bl.Model(
        "rating ~ temp + (1 | contact)", table, family="cumulative", priors={"sd_contact": FLAT, "thresholds": FLAT}
    )
    with pytest.raises(ImproperPosteriorError, match="sd_contact"):
        check_proper(two)


def test_groups_are_judged_informative_by_scores() -> None:
    """Ninety ratings a judge, judges far apart: the data fix their effects; with none apart they do not."""
    rng = np.random.default_rng(1)
    for sd, low, high in ((3.0, 2.0, np.inf), (0.0, -1.0, 2.0)):
        g = np.repeat(np.arange(10), 90)
        y = np.digitize(sd * rng.normal(size=10)[g] + rng.logistic(size=900), [-1.0, 1.0])
        model = bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}, family="cumulative")
        assert low < informativeness(model)["g"] < high


def test_bambi_has_the_same_models() -> None:
    other = bl.to_bambi(bl.load(WINE))
    assert other.family.name == "cumulative"
    threshold = other.parameters["threshold"].prior
    np.testing.assert_allclose(threshold.args["mu"], [-2, -0.67, 0.67, 2])
    t = bl.to_bambi(heavy())
    assert t.family.name == "t"
    assert t.parameters["nu"].prior.args == {"alpha": 2.0, "beta": 0.1}
    assert "sigma" in bl.to_bambi(heavy().update(dispersion="~ x")).distributional_components


def test_draws_of_categories() -> None:
    """Beside the fit by Laplace, whose standard errors are near the posterior's with these priors: within one of them."""
    model = bl.load(WINE).update(priors={"thresholds": bl.Prior("Normal", mu=0, sigma=10)})
    post, fit = bl.sample(model, draws=300, tune=300, chains=2, seed=1, progress=False), bl.fit(model)
    assert post.route == "hierarchical"
    tau = post.draws("thresholds")
    assert tau.shape == (600, 4)
    assert (np.diff(tau, axis=1) > 0).all()
    assert list(post.data["posterior"]["threshold"].values) == ["1|2", "2|3", "3|4", "4|5"]
    np.testing.assert_array_less(np.abs(tau.mean(axis=0) - fit.tau), 1.2 * fit.thresholds["se"])
    np.testing.assert_array_less(np.abs(post.beta - fit.beta), fit.se)
    found = bl.predict(post, kind="probabilities")
    np.testing.assert_allclose(found["mean"].sum(axis=1), 1.0, rtol=1e-9)
    assert np.abs(found["mean"] - fit.probabilities).to_numpy().max() < 0.15
    new = pd.DataFrame({"temp": ["cold"], "contact": ["no"], "judge": ["new"]})
    whole = bl.predict(post, new, groups="new", kind="probabilities")
    assert whole["mean"].to_numpy().sum() == pytest.approx(1.0)
    own = post.log_likelihood()
    assert own.shape == (2, 300, 72)
    eta = next(iter(post.predictor_draws()))[1]
    assert own[0, 0, 0] == pytest.approx(
        float(second_log_densities("logit", model.design.y, eta[:1], np.empty(0), {"thresholds": tau[:1]})[0, 0])
    )
    assert "thresholds[1|2]" in post.summary().index
    assert bl.simulate(post, 2, seed=1)["sim_1"].cat.ordered
    with pytest.raises(MethodError, match="a category has no mean"):
        _ = post.fitted


def test_draws_of_t_responses() -> None:
    post, fit = bl.sample(heavy(), draws=300, tune=300, chains=2, seed=1, progress=False), bl.fit(heavy())
    np.testing.assert_array_less(np.abs(post.beta - fit.beta), fit.se)
    assert (post.draws("nu") > 0).all()
    assert post.parameters[-2:] == ["sigma", "nu"]
    np.testing.assert_allclose(bl.predict(post)["mean"], post.fitted)
    drawn = bl.simulate(post, 200, seed=1, groups="conditional").to_numpy()
    assert abs(np.median(drawn - post.fitted.to_numpy()[:, None])) < 0.1
