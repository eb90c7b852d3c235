"""Sampling: the collapsed density's own quadrature, exact restoration, reproducibility, propriety, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from scipy.integrate import simpson

import bayeslmm as bl
from bayeslmm import restoration
from bayeslmm.bounds import Bounds
from bayeslmm.direct import Direct
from bayeslmm.errors import ImproperPosteriorError, MethodError

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    n = 60
    g, h = np.arange(n) % 6, np.repeat(np.arange(4), 15)
    x = rng.normal(2, 1, n)
    u = rng.normal(size=(6, 2)) * [1.5, 0.7]
    y = 4 + 2 * x + u[g, 0] + u[g, 1] * x + rng.normal(size=4)[h] + rng.normal(size=n)
    return pd.DataFrame(
        {"y": y, "x": x, "z": rng.normal(size=n), "g": g, "h": h, "w": rng.uniform(0.5, 2, n), "known": rng.normal(size=n)}
    )  # fmt: skip


def tree_of(**variables):
    """A tree of draws with a group `posterior`; arrays are (chains, draws, ...)."""
    arrays = {
        name: (("chain", "draw", *(f"d{i}_{name}" for i in range(v.ndim - 2))), v) for name, v in variables.items()
    }
    return xr.DataTree.from_dict({"/posterior": xr.Dataset(arrays)})


RESTORED = {
    "correlated, crossed, weights, offset": ("y ~ x + offset(known) + (x | g) + (1 | h)", {"weights": "w"}, None),
    "several terms on a group": ("y ~ x + (1 | g) + (0 + x + z | g)", {}, None),
    "flat coefficients": ("y ~ x + (x || g)", {}, {"fixef": bl.Prior("Flat")}),
    "tight coefficients": ("y ~ x + (1 | g)", {}, {"Intercept": bl.Prior("Normal", mu=1, sigma=0.1)}),
    "no coefficients": ("y ~ 0 + (x | g)", {}, None),
    "nested": ("y ~ x + (1 | h / g)", {}, None),
}


def natural_draws(model, m, rng):
    """Draws (1, m, ...) of sd, correlations and sigma, each different."""
    draws = {"sigma": rng.uniform(0.5, 2, (1, m))}
    for group in model.groups:
        draws[f"sd_{group}"] = rng.uniform(0.2, 2, (1, m, len(model.effects(group))))
        if model.pairs(group):
            draws[f"corr_{group}"] = rng.uniform(-0.8, 0.8, (1, m, len(model.pairs(group))))
    return draws


def covariance_of(model, draws, m):
    """Covariance (q, q) of all effects at draw m, in the order group, level, effect."""
    blocks = []
    for group in model.groups:
        sd, R = draws[f"sd_{group}"][0, m], np.eye(len(model.effects(group)))
        for (i, j), value in zip(
            model.pairs(group), draws.get(f"corr_{group}", np.empty((1, m + 1, 0)))[0, m], strict=True
        ):
            R[i, j] = R[j, i] = value
        blocks.append(np.kron(np.eye(len(model.levels(group))), np.outer(sd, sd) * R))
    size = sum(map(len, blocks))
    G, at = np.zeros((size, size)), 0
    for block in blocks:
        G[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return G


def columns_of(model):
    """(n, q) columns of all effects in the order group, level, effect."""
    found = []
    for group in model.groups:
        terms = [term for term in model.design.random if term.group == group]
        values = np.hstack([term.columns for term in terms])
        levels = len(terms[0].levels)
        Z = np.zeros((len(values), levels, values.shape[1]))
        Z[np.arange(len(values)), terms[0].codes] = values
        found.append(Z.reshape(len(values), -1))
    return np.hstack(found)


@pytest.mark.parametrize("name", RESTORED)
def test_restored_coefficients_and_effects_have_their_exact_conditional(name, data, rng):
    """Each draw of (β, u), whitened by the dense conditional at its own (θ, σ), is standard normal."""
    formula, options, priors = RESTORED[name]
    model, m = bl.Model(formula, data, priors=priors, **options), 4000
    draws = natural_draws(model, m, rng)
    post = bl.posterior(model, tree_of(**draws), seed=3)
    p, design = len(model.design.fixed.names), model.design
    parts = ([post.draws("fixef")] if p else []) + [post.draws(f"ranef_{g}").reshape(m, -1) for g in model.groups]
    found = np.hstack(parts)
    XZ = np.hstack([model.X, columns_of(model)])
    weights = np.ones(design.nobs) if design.weights is None else design.weights
    y = design.y - (0.0 if design.offset is None else design.offset)
    P0 = model.priors.fixef_precision
    white = np.empty_like(found)
    for i in range(m):
        precision = XZ.T @ (weights[:, None] * XZ) / draws["sigma"][0, i] ** 2
        right = XZ.T @ (weights * y) / draws["sigma"][0, i] ** 2
        if p:
            precision[:p, :p] += P0
            right[:p] += P0 @ model.priors.fixef_mean
        precision[p:, p:] += np.linalg.inv(covariance_of(model, draws, i))
        L = np.linalg.cholesky(precision)
        white[i] = L.T @ (found[i] - np.linalg.solve(precision, right))
    size = white.shape[1]
    # standard normal: means 1/sqrt(m), covariances 1/sqrt(m) (variances twice that squared); at most 400 numbers below 5
    assert np.abs(white.mean(axis=0)).max() * np.sqrt(m) < 5
    spread = (white.T @ white / m - np.eye(size)) * np.sqrt(m / (1 + np.eye(size)))
    assert np.abs(spread).max() < 5
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-4


def grid_posterior(direct, log_sd, log_sigma):
    """Means and sds of (sd, σ) by quadrature over the coordinates of a model with one sd."""
    values = np.array([[direct.log_density(np.array([a, b]), True)[0] for b in log_sigma] for a in log_sd])
    weight = np.exp(values - values.max())

    def integral(f):
        return simpson(simpson(f, x=log_sigma, axis=1), x=log_sd)

    found = {}
    for name, v in (("sd", np.exp(log_sd)[:, None]), ("sigma", np.exp(log_sigma)[None, :])):
        mean = integral(weight * v) / integral(weight)
        found[name] = mean, np.sqrt(integral(weight * (v - mean) ** 2) / integral(weight))
    return found


PRIORS = {
    "default": {},
    "exponential": {"sd_g": bl.Prior("Exponential", lam=1), "sigma": bl.Prior("Gamma", alpha=2, beta=1)},
    "half-Cauchy": {"sd_g": bl.Prior("HalfCauchy", beta=1), "sigma": bl.Prior("LogNormal", mu=0, sigma=1)},
    "uniform that cuts": {
        "sd_g": bl.Prior("Uniform", lower=0.5, upper=1.2),
        "sigma": bl.Prior("Uniform", lower=1.1, upper=9),
    },
    "uniform off the data": {"sd_g": bl.Prior("Uniform", lower=6, upper=7)},
    "inverse gamma": {"sd_g": bl.Prior("InverseGamma", alpha=3, beta=3)},
}


@pytest.mark.parametrize("name", PRIORS)
def test_draws_match_quadrature(name, data):
    """Two parameters, so Simpson's rule is exact to far below Monte Carlo error: means and sds by MCSE."""
    model = bl.Model("y ~ x + (1 | g)", data, priors=PRIORS[name])
    post = bl.sample(model, draws=2000, tune=1000, chains=4, seed=8, **QUIET)
    limits = model.priors.sd["g"][0].args
    low, high = limits.get("lower", 1e-3), limits.get("upper", 1e2)
    sigma = model.priors.sigma.args
    axes = (
        np.linspace(np.log(low), np.log(high), 401),
        np.linspace(np.log(sigma.get("lower", 0.6)), np.log(sigma.get("upper", 4.0)), 301),
    )
    inside = 1e-9  # ends of the support belong to it but for rounding
    axes = [np.clip(a, a[0] + inside, a[-1] - inside) for a in axes]
    exact, table = grid_posterior(Direct(model), *axes), post.summary()
    assert post.diagnostics.divergences == 0
    for row, key in (("sd_g[Intercept]", "sd"), ("sigma", "sigma")):
        # 24 comparisons over the parametrisation: a normal deviate beyond 4 has probability 1.5e-3 among them
        assert abs(table.loc[row, "mean"] - exact[key][0]) < 4 * table.loc[row, "mcse_mean"], row
        assert abs(table.loc[row, "sd"] - exact[key][1]) < 4 * table.loc[row, "mcse_sd"], row


def test_coordinates_without_limits(data, rng):
    """Under Uniform priors: start and map are inverse, and the gradient is that of the value."""
    priors = {
        "x": bl.Prior("Uniform", lower=-5, upper=9), "sd_g[Intercept]": bl.Prior("Uniform", lower=0, upper=5),
        "sigma": bl.Prior("Uniform", lower=0.2, upper=5),
    }  # fmt: skip
    model = bl.Model("y ~ x + (x | g)", data, priors=priors)
    bounds = Bounds(Direct(model))
    x = bounds.direct.sampling_start()
    np.testing.assert_allclose(bounds.coordinates(bounds.start(x)), x, rtol=1e-9, atol=1e-9)
    y = bounds.start(x) + 0.3 * rng.normal(size=len(x))
    value, gradient = bounds.log_density(y)
    steps = 1e-5 * np.eye(len(y))
    numerical = [(bounds.log_density(y + s)[0] - bounds.log_density(y - s)[0]) / 2e-5 for s in steps]
    np.testing.assert_allclose(gradient, numerical, rtol=1e-5, atol=1e-5)  # central differences of a value near 100
    # the density of y is that of x times the Jacobian of x(y)
    jacobian = np.array([(bounds.coordinates(y + s) - bounds.coordinates(y - s)) / 2e-5 for s in steps]).T
    plain, _ = bounds.direct.log_density(bounds.coordinates(y), True)
    shift = np.linalg.slogdet(bounds.direct.layout.T)[1]
    assert value == pytest.approx(plain + np.linalg.slogdet(jacobian)[1] + shift, rel=1e-7)
    assert not Bounds(Direct(bl.Model("y ~ x + (x | g)", data)))


def test_draws_depend_on_the_seed_and_on_nothing_else(data):
    model = bl.Model("y ~ x + (x | g) + (1 | h)", data)
    first, again, other = (
        bl.sample(model, draws=50, tune=100, chains=3, seed=seed, cores=cores, **QUIET)
        for seed, cores in ((4, 1), (4, 3), (5, 3))
    )
    for name in first.data.posterior.data_vars:
        np.testing.assert_array_equal(first.draws(name), again.draws(name))
        assert not np.array_equal(first.draws(name), other.draws(name))
    chains = first.data.posterior["sigma"].values
    assert len({chain.tobytes() for chain in chains}) == 3
    assert first.data.attrs["seed"] == 4


def test_the_blocks_in_which_effects_are_restored_are_set_by_size_alone(data, monkeypatch):
    monkeypatch.setattr(restoration, "RESTORE_AT_ONCE", 200)
    model = bl.Model("y ~ x + (1 | g)", data)
    one, other = (bl.sample(model, draws=60, tune=100, chains=2, seed=1, cores=cores, **QUIET) for cores in (1, 2))
    for name in one.data.posterior.data_vars:
        np.testing.assert_array_equal(one.draws(name), other.draws(name))
    effects = one.draws("ranef_g").reshape(len(one.draws("sigma")), -1)
    assert len(np.unique(effects[:, 0])) == len(effects)


def test_beyond_the_memory_limit_effects_are_summarised(data, monkeypatch):
    model = bl.Model("y ~ x + (x | g) + (1 | h)", data.assign(y=data.y + 1e6 * (data.g == 2)))
    kept = bl.sample(model, draws=200, tune=200, chains=2, seed=1, **QUIET)
    monkeypatch.setattr(restoration, "MOST_EFFECT_DRAWS", 100)
    monkeypatch.setattr(restoration, "RESTORE_AT_ONCE", 1000)
    blocks = bl.sample(model, draws=200, tune=200, chains=2, seed=1, **QUIET)
    monkeypatch.setattr(restoration, "MOST_EFFECT_DRAWS", 10**9)
    whole = bl.sample(model, draws=200, tune=200, chains=2, seed=1, **QUIET)
    assert "ranef_g" not in blocks.data.posterior.data_vars
    assert "log_likelihood" not in blocks.data.children
    np.testing.assert_array_equal(whole.draws("fixef"), blocks.draws("fixef"))
    np.testing.assert_array_equal(kept.draws("sigma"), blocks.draws("sigma"))
    for group in model.groups:
        # means and variances are pooled over blocks of 50 draws: rounding only, though one level lies 1e6 away
        np.testing.assert_allclose(blocks.ranef[group], whole.ranef[group], rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(blocks.ranef_sd[group], whole.ranef_sd[group], rtol=1e-9)
        np.testing.assert_allclose(whole.ranef_sd[group], whole.draws(f"ranef_{group}").std(axis=0, ddof=1), rtol=1e-14)
    with pytest.raises(MethodError, match="too many"):
        blocks.draws("ranef_g")


@pytest.mark.slow
def test_priors_without_closed_form_go_through_the_graph(data):
    """Weibull on an sd, Laplace on a coefficient: against direct draws under other priors, reweighted."""
    priors = {"sd_g": bl.Prior("Weibull", alpha=2, beta=2), "x": bl.Prior("Laplace", mu=0, b=1)}
    model = bl.Model("y ~ x + (1 | g)", data, priors=priors)
    post = bl.sample(model, draws=1000, tune=1000, chains=2, seed=2, **QUIET)
    assert (post.route, post.draws("ranef_g").shape) == ("marginal", (2000, 6, 1))
    assert post.diagnostics.r_hat < 1.02
    closed = {"sd_g": bl.Prior("Uniform", lower=0, upper=30), "x": bl.Prior("StudentT", nu=3, mu=0, sigma=2)}
    near = bl.sample(model.update(priors=closed), draws=4000, tune=1000, chains=4, seed=3, **QUIET)
    x, sd = near.draws("fixef")[:, 1], near.draws("sd_g")[:, 0]
    weight = stats.weibull_min(2, scale=2).pdf(sd) * stats.laplace(0, 1).pdf(x) / stats.t(3, 0, 2).pdf(x)
    weight /= weight.sum()
    table = post.summary()
    effect = post.summary(var_names=["ranef_g"]).iloc[[0]]
    drawn = {
        "fixef[Intercept]": near.draws("fixef")[:, 0],
        "fixef[x]": x,
        "sd_g[Intercept]": sd,
        "sigma": near.draws("sigma"),
    }
    for row, values in (drawn | {effect.index[0]: near.draws("ranef_g")[:, 0, 0]}).items():
        found = pd.concat([table, effect]).loc[row]
        mean = weight @ values
        # importance sampling's own error, with half as many effective draws as weights alone leave: chains are autocorrelated
        error = np.sqrt(2 * np.sum(weight**2) * (weight @ (values - mean) ** 2))
        assert abs(found["mean"] - mean) < 4 * np.hypot(found["mcse_mean"], error), row


def test_store_can_be_read_back(data, tmp_path):
    model = bl.Model("y ~ x + (x | g)", data)
    post = bl.sample(model, draws=40, tune=100, chains=2, seed=6, store=tmp_path / "draws", **QUIET)
    tree = xr.open_datatree(tmp_path / "draws", engine="zarr", consolidated=False)
    again = bl.posterior(model, tree, seed=6)
    for name in post.data.posterior.data_vars:
        np.testing.assert_array_equal(again.draws(name), post.draws(name))
    assert "diverging" in again.data["sample_stats"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws=0 must be"), ({"draws": 10.0}, "draws=10.0"), ({"chains": 0}, "chains=0"), ({"tune": -1}, "tune=-1"),
        ({"target_accept": 1.0}, "between 0 and 1"), ({"target_accept": 0}, "target_accept=0"), ({"route": "collapsed"}, "route='collapsed'"),
        ({"parametrisation": "centred"}, "no random effects to place"), ({"route": "hierarchical", "store": "x"}, "store="),
    ],
)  # fmt: skip
def test_bad_arguments(options, message, data):
    with pytest.raises(MethodError, match=message):
        bl.sample(bl.Model("y ~ x + (1 | g)", data), **QUIET, **options)


def two_levels(**more):
    rng = np.random.default_rng(1)
    return {
        "y": rng.normal(size=24),
        "x": rng.normal(size=24),
        "g": np.tile(["a", "b"], 12),
        "h": np.repeat(list("pqr"), 8),
    } | more


FLAT_SD = {"sd_g": bl.Prior("Flat")}
IMPROPER = {
    "two levels": ("y ~ 1 + (1 | g)", two_levels(), "flat", r"sd_g\[Intercept\] is improper: 'g' has 2 levels.*leave 1"),
    "a slope's two levels": ("y ~ x + (x || g)", two_levels(), {"sd_g[x]": bl.Prior("Flat"), "fixef": bl.Prior("Flat")}, r"sd_g\[x\]"),
    "a predictor of the groups takes a level": (
        "y ~ t + (1 | h)", two_levels(t=np.repeat([1.0, 2.0, 4.0], 8)), "flat", r"sd_h\[Intercept\].*leave 1",
    ),
    "a slope that is nearly nowhere": (
        "y ~ 1 + (1 | h) + (0 + x | h)", two_levels(x=np.repeat([0.0, 0.0, 1.0], 8) * np.arange(24)), "flat", r"sd_h\[x\].*leave 1",
    ),
    "two groups that are one": (
        "y ~ 1 + (1 | h) + (1 | k)", two_levels(k=np.repeat(list("rst"), 8)), "flat", "sd_h.* and sd_k.*together are improper",
    ),
    "rows": ("y ~ x + (1 | g)", {"y": [1.0, 2, 4, 3.5], "x": [1.0, 3, 2, 5], "g": list("abca")}, "flat", "at least 5 rows; there are 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPROPER)
def test_improper_posteriors_are_refused(name):
    formula, table, priors, message = IMPROPER[name]
    with pytest.raises(ImproperPosteriorError, match=message):
        bl.sample(bl.Model(formula, table, priors=priors), **QUIET)


PROPER = {
    "two levels, no flat coefficient": ("y ~ 1 + (1 | g)", two_levels(), FLAT_SD),
    "two levels, proper sd": ("y ~ 1 + (1 | g)", two_levels(), {"fixef": bl.Prior("Flat"), "sigma": bl.Prior("Flat")}),
    "three levels": ("y ~ 1 + (1 | h)", two_levels(), "flat"),
    "as many rows as coefficients, which are not flat": (
        "y ~ x + (1 | g)", {"y": [1.0, 2, 4, 3.5], "x": [1.0, 3, 2, 5], "g": list("abca")}, {"sigma": bl.Prior("Flat")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROPER)
def test_proper_posteriors_are_not_refused(name):
    formula, table, priors = PROPER[name]
    post = bl.sample(bl.Model(formula, table, priors=priors), draws=10, tune=50, chains=1, seed=1, **QUIET)
    assert np.isfinite(post.draws("sigma")).all()


def test_the_rule_for_flat_priors_is_the_tail_of_the_density():
    """J levels and a flat intercept: the density of sd falls like sd**-(J - 1), integrable from J = 3 on."""
    for levels in (2, 3, 5):
        table = {"y": np.random.default_rng(0).normal(size=40), "g": np.arange(40) % levels}
        direct = Direct(bl.Model("y ~ 1 + (1 | g)", table, priors="flat"))
        high, low = (direct.log_density(np.array([v, 0.0]), False)[0] for v in (9.0, 8.0))
        assert high - low == pytest.approx(1 - levels, abs=1e-5)  # (sigma / sd)**2 = 1e-7 is left out


def test_flat_priors_put_the_mode_at_reml(root):
    """The density of sd, correlation and σ under flat priors is highest at the REML fit."""
    table = pd.read_csv(root / "models" / "sleepstudy" / "data.csv")
    model = bl.Model("Reaction ~ Days + (Days | Subject)", table, priors="flat")
    reml, direct = bl.fit(model), Direct(model)
    top = {"sd_Subject": reml.sd["Subject"].to_numpy()[None, None], "corr_Subject": reml.corr["Subject"].iloc[[0], 1].to_numpy()[None, None],
           "sigma": np.array([[reml.sigma]])}  # fmt: skip
    x = direct.coordinates_of(top)[0, 0]
    value, gradient = direct.log_density(x, jacobian=False)
    assert value == pytest.approx(reml.loglik + np.log(0.5), rel=1e-12)  # the LKJ(1) density of one correlation
    assert np.abs(gradient).max() < 1e-3  # per unit of log sd; a standard deviation of it is 0.05 to 0.4
    rng = np.random.default_rng(2)
    for scale in (1e-3, 1e-2, 0.1):
        for _ in range(20):
            assert direct.log_density(x + scale * rng.normal(size=len(x)), jacobian=False)[0] < value


def test_linear_models_and_models_without_coefficients(data):
    linear = bl.sample(bl.Model("y ~ x", data), draws=1500, chains=2, seed=1, **QUIET)
    assert list(linear.parameters) == ["fixef", "sigma"]
    assert linear.diagnostics.ok
    bare = bl.sample(bl.Model("y ~ 0 + (x | g)", data), draws=500, chains=2, seed=1, **QUIET)
    assert bare.parameters == ["sd_g", "corr_g", "sigma"]
    assert bare.fixef.empty


def test_progress_is_shown_and_counts_to_the_end(data, capsys):
    bl.sample(bl.Model("y ~ x + (1 | g)", data), draws=30, tune=20, chains=2, seed=1, progress=True)
    assert "100/100 draws" in capsys.readouterr().out
