"""The marginal graph: its density and gradients are those of the direct density, and PyMC's own tools reach the fits."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from graphs import QUICK, density_and_gradient

import bayeslmm as bl
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError

HALF = bl.Prior("HalfNormal", sigma=3)
COEF = bl.Prior("Normal", mu=0, sigma=5)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    n = 120
    g, h = np.arange(n) % 10, rng.integers(0, 6, n)
    x, z, t = rng.normal(1, 1, n), rng.normal(-2, 2, n), rng.normal(size=n)
    y = (
        5
        + x
        + rng.normal(size=(10, 2))[g, 0]
        + rng.normal(size=10)[g] * x
        + rng.normal(size=6)[h]
        + 2 * rng.normal(size=n)
    )
    f = np.array(["u", "v", "w"])[rng.integers(0, 3, n)]
    return pd.DataFrame(
        {
            "y": y,
            "x": x,
            "z": z,
            "t": t,
            "f": f,
            "g": g,
            "h": h,
            "w": rng.uniform(0.5, 2, n),
            "known": rng.normal(size=n),
        }
    )


# Every family of prior; HalfNormal or another exact constant for sigma, whose default HalfStudentT has a wrong digit (below).
MODELS = {
    "one group": ("y ~ x + (1 | g)", {"sigma": HALF}, {}),
    "uncorrelated": ("y ~ x + (x || g)", {"sigma": bl.Prior("Exponential", lam=0.3)}, {}),
    "crossed, correlated, weights, offset": (
        "y ~ x + offset(known) + (x | g) + (1 | h)",
        {"sigma": HALF, "corr_g": bl.Prior("LKJ", eta=2), "sd_h": bl.Prior("Gamma", alpha=2, beta=1)}, {"weights": "w"},
    ),
    "three correlated": (
        "y ~ f + (x + z | g)",
        {"sigma": bl.Prior("InverseGamma", alpha=3, beta=2), "corr_g": bl.Prior("LKJ", eta=0.7), "f[w]": bl.Prior("Flat")}, {},
    ),
    "four correlated": ("y ~ x + (x + z + t | g)", {"sigma": HALF, "corr_g": bl.Prior("LKJ", eta=3)}, {}),
    "two terms on a group": ("y ~ x + (x | g) + (0 + z + t | g) + (1 | g:h)", {"sigma": HALF}, {}),
    "coefficients explicit": (
        "y ~ x + z + (x | g)",
        {"x": bl.Prior("StudentT", nu=4, mu=0, sigma=1), "sigma": bl.Prior("LogNormal", mu=0, sigma=1)}, {},
    ),
    "all given": (
        "y ~ x + z + (1 | g)",
        {"fixef": bl.Prior("Uniform", lower=-40, upper=40), "sd_g": bl.Prior("Uniform", lower=0, upper=9), "sigma": HALF}, {},
    ),
    "no coefficients": ("y ~ 0 + (x | g)", {"sigma": HALF}, {}),
    "flat": ("y ~ x + (x | g)", "flat", {}),
    "no groups": ("y ~ x + z", {"sigma": HALF}, {}),
}  # fmt: skip


def natural_draw(model, rng):
    """Random values of the marginal graph's variables, by name."""
    values = {"sigma": np.array(rng.uniform(1.0, 3.0))}
    for group in model.groups:
        values[f"sd_{group}"] = rng.uniform(0.3, 3.0, len(model.effects(group)))
        correlations = []
        for term in (t for t in model.design.random if t.group == group and t.covariance.pairs):
            k = len(term.effects)
            root = rng.normal(size=(k, k + 2))
            R = root @ root.T
            R /= np.sqrt(np.outer(np.diag(R), np.diag(R)))
            correlations.append(R[np.triu_indices(k, 1)])
        if correlations:
            values[f"corr_{group}"] = np.concatenate(correlations)
    if not model.priors.gaussian:
        values["fixef"] = model.products.beta_ols + 0.3 * rng.normal(size=len(model.design.fixed.names))
    return values


def point_of(graph, values):
    """Values as a point in the graph's unconstrained variables."""
    point = {}
    for rv in graph.free_RVs:
        transform, value = graph.rvs_to_transforms[rv], values[rv.name]
        free = transform.forward(pt.as_tensor(value), *rv.owner.inputs).eval(mode=QUICK) if transform else value
        point[graph.rvs_to_values[rv].name] = free
    return point


def coordinates_of(direct, values):
    """The same values in the coordinates of the direct density."""
    return direct.coordinates_of({name: value[None, None] for name, value in values.items()})[0, 0]


def graph_gradient_in_direct_coordinates(graph, direct, gradient, values):
    """d/d(log sd, z, log σ, β_Q) from PyMC's gradient by value variable; both map z = artanh(partial correlation)."""
    model, at, own = direct.model, 0, {}
    for variable in graph.continuous_value_vars:
        rv = graph.values_to_rvs[variable].name
        own[rv] = gradient[at : at + np.size(values[rv])]
        at += np.size(values[rv])
    parts = [own[f"sd_{group}"] for group in model.groups]
    for group in model.groups:
        start = 0
        for term in (t for t in model.design.random if t.group == group and t.covariance.pairs):
            pairs = list(zip(*np.triu_indices(len(term.effects), 1), strict=True))
            parts.append(
                [own[f"corr_{group}"][start + pairs.index((j, i))] for i in range(len(term.effects)) for j in range(i)]
            )
            start += len(pairs)
    parts.append(own["sigma"])
    if not direct.gaussian:
        parts.append(direct.back.T @ own["fixef"])
    return np.concatenate(parts)


@pytest.mark.parametrize("name", MODELS)
def test_graph_and_direct_density_agree(name, data, rng):
    """On the natural scale to 1e-10, with Jacobians too where both move in log sd and partial correlations; and their gradients."""
    formula, priors, options = MODELS[name]
    model = bl.Model(formula, data, priors=priors, **options)
    graph, direct = bl.to_pymc(model, route="marginal"), Direct(model)
    same_coordinates = "Uniform" not in str(model.priors)
    for jacobian in (False, True):
        theirs = density_and_gradient(graph, jacobian)
        for _ in range(3):
            values = natural_draw(model, rng)
            point, x = point_of(graph, values), coordinates_of(direct, values)
            value, gradient = direct.log_density(x, jacobian)
            if jacobian and not same_coordinates:
                continue
            logp, dlogp = theirs(point)
            assert logp == pytest.approx(value, rel=1e-10)
            if same_coordinates:
                found = graph_gradient_in_direct_coordinates(graph, direct, dlogp, values)
                np.testing.assert_allclose(found, gradient, rtol=1e-9, atol=1e-10 * np.abs(gradient).max())


def test_gradients_agree_on_the_natural_scale_under_interval_transforms(data, rng):
    """Uniform priors: PyMC moves in a logit, we in log sd. d/d(natural) is the same."""
    formula, priors, options = MODELS["all given"]
    model = bl.Model(formula, data, priors=priors, **options)
    graph, direct = bl.to_pymc(model, route="marginal"), Direct(model)
    values = natural_draw(model, rng)
    _, slope = density_and_gradient(graph, jacobian=False)(point_of(graph, values))
    names = [graph.values_to_rvs[v].name for v in graph.continuous_value_vars]
    split = np.cumsum([np.size(values[name]) for name in names])[:-1]
    theirs = dict(zip(names, np.split(slope, split), strict=True))
    sd, beta = values["sd_g"], values["fixef"]
    theirs["sd_g"] = theirs["sd_g"] / (sd * (9 - sd) / 9)
    theirs["fixef"] = theirs["fixef"] / ((beta + 40) * (40 - beta) / 80)
    theirs["sigma"] = theirs["sigma"] / values["sigma"]
    _, gradient = direct.log_density(coordinates_of(direct, values), False)
    ours = [gradient[:1] / sd, gradient[1:2] / values["sigma"], np.linalg.inv(direct.back).T @ gradient[2:]]
    for name, found in zip(("sd_g", "sigma", "fixef"), ours, strict=True):
        np.testing.assert_allclose(found, theirs[name], rtol=1e-9)


def test_default_priors_agree_but_for_pymcs_half_student_t(data, rng):
    """PyMC 6.3 adds log 2 in single precision to HalfStudentT, 1.9e-9 too much or little; nothing else may differ."""
    model = bl.Model("y ~ x + (x | g)", data)
    assert model.priors.sigma.name == "HalfStudentT"
    graph, direct = bl.to_pymc(model, route="marginal"), Direct(model)
    values = natural_draw(model, rng)
    value, _ = direct.log_density(coordinates_of(direct, values), False)
    found = graph.compile_logp(jacobian=False, mode=QUICK)(point_of(graph, values))
    assert abs(found - value) < 3e-9 + 1e-10 * abs(value)


def test_variables_and_coordinates(data):
    graph = bl.to_pymc(bl.Model("y ~ x + (x | g) + (1 | h)", data), route="marginal")
    assert {v.name for v in graph.free_RVs} == {"sd_g", "corr_g", "sd_h", "sigma"}
    assert [p.name for p in graph.potentials] == ["likelihood"]
    assert graph.named_vars_to_dims["sd_g"] == ("g_effect",)
    assert graph.coords["g_pair"] == ("Intercept, x",)
    explicit = bl.Model("y ~ x + (1 | g)", data, priors={"x": bl.Prior("Laplace", mu=0, b=1)})
    assert "fixef" in {v.name for v in bl.to_pymc(explicit, route="marginal").free_RVs}


def test_bad_routes_are_refused(data):
    model = bl.Model("y ~ x + (1 | g)", data)
    with pytest.raises(MethodError, match="route='collapsed'"):
        bl.to_pymc(model, route="collapsed")
    with pytest.raises(MethodError, match="parametrisation="):
        bl.to_pymc(model, route="marginal", parametrisation="centred")


def find_map(model):
    with pytensor.config.change_flags(mode=QUICK), bl.to_pymc(model, route="marginal"):
        return pm.find_MAP(progressbar=False, seed=1)


@pytest.mark.slow
def test_find_map_reaches_the_integrated_map(data):
    """`pm.find_MAP` maximises the density of the natural parameters, as `bl.fit(method="MAP")` does."""
    priors = {"sigma": HALF, "sd_g": bl.Prior("Gamma", alpha=2, beta=0.5), "corr_g": bl.Prior("LKJ", eta=2)}
    model = bl.Model("y ~ x + (x | g)", data, priors=priors)
    fit = bl.fit(model, method="MAP", fixef="integrated")
    found = find_map(model)
    # both optimisers stop at a gradient near 1e-5: a value within 1e-9 of the top, parameters within its square root
    np.testing.assert_allclose(found["sd_g"], fit.sd["g"], rtol=1e-4)
    assert found["corr_g"][0] == pytest.approx(fit.corr["g"].iloc[0, 1], abs=1e-4)
    assert float(found["sigma"]) == pytest.approx(fit.sigma, rel=1e-4)


@pytest.mark.slow
def test_find_map_with_flat_priors_is_reml(data):
    model = bl.Model("y ~ x + (x | g)", data, priors="flat")
    reml = bl.fit(model)
    found = find_map(model)
    np.testing.assert_allclose(found["sd_g"], reml.sd["g"], rtol=1e-4)
    assert found["corr_g"][0] == pytest.approx(reml.corr["g"].iloc[0, 1], abs=1e-4)
    assert float(found["sigma"]) == pytest.approx(reml.sigma, rel=1e-4)


@pytest.mark.slow
def test_sampled_by_hand_then_restored(data):
    """`pm.sample` on the marginal graph, compiled by Numba, then `bl.posterior`: the posterior of `bl.sample`."""
    model = bl.Model("y ~ x + (x | g)", data, priors={"sigma": HALF})
    with bl.to_pymc(model, route="marginal"):
        tree = pm.sample(1000, tune=1000, chains=2, cores=2, random_seed=3, progressbar=False, quiet=True)
    by_hand = bl.posterior(model, tree, seed=1)
    direct = bl.sample(model, draws=1000, chains=4, seed=2, progress=False)
    assert by_hand.route == "marginal"
    assert by_hand.data.posterior["ranef_g"].dims == ("chain", "draw", "g", "g_effect")
    one, other = by_hand.summary(), direct.summary()
    assert list(one.index) == list(other.index)
    effects = [post.summary(var_names=["ranef_g"]) for post in (by_hand, direct)]
    for a, b in ((one, other), effects):
        gap = np.abs(a["mean"] - b["mean"]) / np.hypot(a["mcse_mean"], b["mcse_mean"])
        spread = np.abs(a["sd"] - b["sd"]) / np.hypot(a["mcse_sd"], b["mcse_sd"])
        # at most 20 comparisons each: a normal deviate beyond 4.5 among 40 has probability 3e-4
        assert gap.max() < 4.5
        assert spread.max() < 4.5


def test_posterior_restores_whatever_was_sampled(data):
    model = bl.Model("y ~ x + (x | g)", data)
    sampled = bl.sample(model, draws=40, tune=100, chains=2, seed=1, progress=False)
    tree = sampled.data.copy()
    tree["posterior"] = (
        sampled.data["posterior"].to_dataset()[["sd_g", "corr_g", "sigma"]].transpose(..., "draw", "chain")
    )
    again = bl.posterior(model, tree, seed=1)
    for name in ("sd_g", "corr_g", "sigma", "fixef", "ranef_g"):
        # coordinates go through log and artanh and back; the same random numbers restore the rest
        np.testing.assert_allclose(again.draws(name), sampled.draws(name), rtol=1e-9, atol=1e-12)
    assert not np.array_equal(bl.posterior(model, tree, seed=2).draws("fixef"), sampled.draws("fixef"))


def test_posterior_names_what_is_missing(data):
    model = bl.Model("y ~ x + (x | g)", data, priors={"x": bl.Prior("StudentT", nu=3, mu=0, sigma=1)})
    sampled = bl.sample(model, draws=20, tune=50, chains=2, seed=1, progress=False)
    whole = sampled.data["posterior"].to_dataset()
    for name in ("sd_g", "corr_g", "sigma", "fixef"):
        tree = sampled.data.copy()
        tree["posterior"] = whole[[n for n in ("sd_g", "corr_g", "sigma", "fixef") if n != name]]
        with pytest.raises(MethodError, match=f"no variable '{name}'"):
            bl.posterior(model, tree)
