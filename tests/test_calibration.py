"""Calibration: ranks of the truth among posterior draws, and the coverage of REML with Wald intervals."""

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl

pytestmark = pytest.mark.slow

SIMULATIONS, DRAWS, TUNE, THIN = 120, 150, 200, 3
# False alarm of the whole file below 1 %: 3 models, at most 9 quantities each, 2 tests a quantity.
LEVEL = 0.01 / 60

HALF = bl.Prior("HalfNormal", sigma=1)


def design(kind):
    """Predictor and groups of one small design, the same for every simulation."""
    rng = np.random.default_rng(4)
    n = 36 if kind != "crossed" else 40
    table = {"x": rng.normal(size=n), "g": np.arange(n) % (6 if kind != "crossed" else 5)}
    return table | ({"h": np.repeat(np.arange(8), 5)} if kind == "crossed" else {})


FIXED = {"Intercept": bl.Prior("Normal", mu=1, sigma=2), "x": bl.Prior("Normal", mu=0, sigma=1)}
MODELS = {
    "random intercept": ("y ~ x + (1 | g)", FIXED | {"sd_g": HALF, "sigma": bl.Prior("Exponential", lam=1)}),
    "correlated slopes": (
        "y ~ x + (x | g)",
        FIXED | {"sd_g": bl.Prior("Gamma", alpha=2, beta=2), "corr_g": bl.Prior("LKJ", eta=2), "sigma": HALF},
    ),
    "crossed": (
        "y ~ x + (1 | g) + (1 | h)",
        {"Intercept": bl.Prior("StudentT", nu=5, mu=1, sigma=1), "x": FIXED["x"], "sd_g": bl.Prior("InverseGamma", alpha=3, beta=2),
         "sd_h": bl.Prior("Uniform", lower=0.2, upper=2), "sigma": bl.Prior("LogNormal", mu=0, sigma=0.5)},
    ),
}  # fmt: skip
SCIPY = {
    "Normal": lambda mu, sigma: stats.norm(mu, sigma),
    "StudentT": lambda nu, mu, sigma: stats.t(nu, mu, sigma),
    "HalfNormal": lambda sigma: stats.halfnorm(0, sigma),
    "Exponential": lambda lam: stats.expon(0, 1 / lam),
    "Gamma": lambda alpha, beta: stats.gamma(alpha, 0, 1 / beta),
    "InverseGamma": lambda alpha, beta: stats.invgamma(alpha, 0, beta),
    "Uniform": lambda lower, upper: stats.uniform(lower, upper - lower),
    "LogNormal": lambda mu, sigma: stats.lognorm(sigma, 0, np.exp(mu)),
}


def drawn(prior, rng):
    return SCIPY[prior.name](**prior.args).rvs(random_state=rng)


def truth_of(model, rng):
    """Parameters and effects from the priors, by hand; a 2 × 2 LKJ(η) correlation is 2 Beta(η, η) − 1."""
    values = {
        "fixef": np.array([drawn(prior, rng) for prior in model.priors.fixef]),
        "sigma": np.array(drawn(model.priors.sigma, rng)),
    }
    for group in model.groups:
        sd = np.array([drawn(prior, rng) for prior in model.priors.sd[group]])
        R = np.eye(len(sd))
        if model.pairs(group):
            eta = model.priors.corr[group].args["eta"]
            R[0, 1] = R[1, 0] = 2 * rng.beta(eta, eta) - 1
            values[f"corr_{group}"] = R[0, 1:2]
        values[f"sd_{group}"] = sd
        effects = rng.multivariate_normal(np.zeros(len(sd)), np.outer(sd, sd) * R, size=len(model.levels(group)))
        values[f"ranef_{group}"] = effects
    return values


def response_of(model, values, rng):
    mean = model.X @ values["fixef"]
    for term in model.design.random:
        mean = mean + (values[f"ranef_{term.group}"][term.codes] * term.columns).sum(axis=1)
    return mean + values["sigma"] * rng.normal(size=len(mean))


def quantities(values):
    """Scalars whose ranks are taken: every parameter, and the first level's first effect of each group."""
    found = {}
    for name, value in values.items():
        value = np.asarray(value)
        if name.startswith("ranef_"):
            found[name] = value[..., 0, 0]
        elif name == "sigma":
            found[name] = value
        else:
            found |= {f"{name}[{i}]": value[..., i] for i in range(value.shape[-1])}
    return found


def ranks_of(formula, priors, table, seed):
    """(SIMULATIONS,) uniform positions of each quantity's truth among its posterior draws; ties are split at random."""
    rng = np.random.default_rng(seed)
    template = bl.Model(formula, table | {"y": rng.normal(size=len(table["x"]))}, priors=priors)
    found = {}
    for simulation in range(SIMULATIONS):
        truth = truth_of(template, rng)
        model = bl.Model(formula, table | {"y": response_of(template, truth, rng)}, priors=priors)
        post = bl.sample(model, draws=DRAWS, tune=TUNE, chains=1, cores=1, seed=simulation, progress=False)
        kept = {name: post.draws(name)[::THIN] for name in truth}
        for name, draws in quantities(kept).items():
            below = np.count_nonzero(draws < quantities(truth)[name])
            found.setdefault(name, []).append((below + rng.uniform()) / (len(draws) + 1))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_ranks_are_uniform(name):
    """Talts et al. (2018): truth from the prior, data from the truth; its rank among thinned posterior draws is uniform."""
    formula, priors = MODELS[name]
    ranks = ranks_of(formula, priors, design(name), seed=17)
    worst = {}
    for quantity, values in ranks.items():
        location = stats.kstest(values, "uniform").pvalue
        spread = stats.kstest(np.abs(2 * values - 1), "uniform").pvalue  # too wide or too narrow posteriors
        worst[quantity] = min(location, spread)
    assert min(worst.values()) > LEVEL, worst


def test_wrong_ranks_are_noticed():
    """The test has power: sds of draws 40 % too small, or means 0.6 posterior sds off, fail it (power above 0.99)."""
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=(SIMULATIONS, 1)), rng.normal(size=(SIMULATIONS, DRAWS // THIN))
    for wrong in (0.6 * draws, draws + 0.6):
        ranks = (np.count_nonzero(wrong < truth, axis=1) + rng.uniform(size=SIMULATIONS)) / (wrong.shape[1] + 1)
        pvalue = min(stats.kstest(ranks, "uniform").pvalue, stats.kstest(np.abs(2 * ranks - 1), "uniform").pvalue)
        assert pvalue < LEVEL


def exact_coverage(groups, rows, sd, sigma, z):
    """Coverage of β̂ ± z se in a balanced one-way layout: se² = max(MSA, pooled)/n is independent of β̂.

    MSA ~ (σ² + rows·sd²) χ²/(J − 1), MSE ~ σ² χ²/(n − J); the REML estimate sits at sd = 0 where MSA < MSE.
    """
    n = groups * rows
    points = (np.arange(400) + 0.5) / 400
    between = (sigma**2 + rows * sd**2) * stats.chi2(groups - 1).ppf(points)[:, None]
    within = sigma**2 * stats.chi2(n - groups).ppf(points)[None, :]
    msa, mse = between / (groups - 1), within / (n - groups)
    variance = np.where(msa > mse, msa, (between + within) / (n - 1)) / n
    truth = (sigma**2 + rows * sd**2) / n
    return float(np.mean(2 * stats.norm.cdf(z * np.sqrt(variance / truth)) - 1))


@pytest.mark.parametrize(("groups", "sd"), [(4, 1.0), (8, 0.5), (30, 1.0)])
def test_coverage_of_reml_with_wald_intervals(groups, sd):
    """What β̂ ± 1.96 se covers: below 95 % with few groups, by exactly what integrating over se says."""
    rng, rows, sigma, z = np.random.default_rng(groups), 5, 1.0, stats.norm.ppf(0.975)
    codes, fits = np.repeat(np.arange(groups), rows), 600
    x = np.tile(np.arange(rows) - (rows - 1) / 2, groups)
    hits = np.zeros(2)
    for _ in range(fits):
        y = 1.0 + sd * rng.normal(size=groups)[codes] + sigma * rng.normal(size=groups * rows)
        fit = bl.fit(bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": codes}))
        hits += np.abs(fit.beta - [1.0, 0.0]) < z * fit.beta_sd
    found, expected = hits / fits, exact_coverage(groups, rows, sd, sigma, z)
    # x takes one of the n − J residual degrees of freedom: less than 0.002 of coverage at J = 4
    error = np.sqrt(expected * (1 - expected) / fits)
    print(
        f"{groups:3d} groups: intercept {found[0]:.3f} (exact {expected:.3f}), slope {found[1]:.3f}, binomial error {error:.3f}"
    )
    assert abs(found[0] - expected) < 4 * error + 0.002
    # the slope's se has n − J − 1 or more degrees of freedom: Student's coverage of a normal interval bounds it below
    low = 2 * stats.t(groups * (rows - 1) - 1).cdf(z) - 1
    assert low - 4 * error < found[1] < 0.95 + 4 * error
