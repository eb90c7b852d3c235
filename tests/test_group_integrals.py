"""Likelihoods of groups with their effects integrated out by quadrature: against closed forms, brute force and samples."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logsumexp

import bayeslmm as bl
from bayeslmm.approximation import Quadrature
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.group_integrals import NODES, integrated_rows
from bayeslmm.leftout import without_rows
from bayeslmm.natural_points import point_of, posterior_draws
from bayeslmm.posterior import posterior_tree
from bayeslmm.powerscale import log_prior

GROUPS, ROWS = 6, 5
N = GROUPS * ROWS


def frame(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(GROUPS), ROWS)
    x = rng.normal(size=N)
    eta = 0.5 + 0.4 * x + rng.normal(size=GROUPS)[g]
    return {
        "x": x,
        "g": g.astype(str),
        "o": rng.normal(0.0, 0.2, N),
        "w": rng.uniform(0.5, 2.0, N),
        "normal": eta + rng.normal(size=N),
        "heavy": eta + rng.standard_t(2.5, N),
        "binary": (rng.uniform(size=N) < 1 / (1 + np.exp(-eta))).astype(int),
        "count": rng.poisson(np.exp(0.3 * eta)) * (rng.uniform(size=N) > 0.2),
        "level": np.digitize(eta + rng.logistic(size=N), [-0.5, 0.8, 2.0]),
    }


def drawn(model: bl.Model, draws: dict[str, np.ndarray]) -> bl.Posterior:
    """A posterior with these draws (draws, …) as its only chain."""
    size = (1, len(draws["sd_g"]))
    tree = posterior_tree(model, {k: v[None] for k, v in draws.items()}, {}, {}, {"energy": np.zeros(size)})
    return bl.Posterior(model, tree, "hierarchical")


def spread(rng: np.random.Generator, centre, size: int = 4) -> np.ndarray:
    return np.asarray(centre) + rng.normal(0.0, 0.15, (size, *np.shape(centre)))


def bernoulli(rng):
    model = bl.Model("binary ~ x + (1 | g)", frame(), family="bernoulli", offset="o", weights="w")
    draws = {"fixef": spread(rng, [0.5, 0.4]), "sd_g": np.exp(spread(rng, [0.3]))}

    def density(d, data, eta):
        return data["w"] * stats.bernoulli.logpmf(data["binary"], 1 / (1 + np.exp(-eta - data["o"])))

    return model, draws, density


def inflated(rng):
    model = bl.Model(
        "count ~ x + (1 | g)", frame(), family="zero_inflated_negativebinomial", zero="~ x", dispersion="~ x"
    )
    draws = {
        "fixef": spread(rng, [0.5, 0.1]), "sd_g": np.exp(spread(rng, [-0.5])),
        "dispersion": spread(rng, [0.5, 0.2]), "zero": spread(rng, [-1.0, 0.3]),
    }  # fmt: skip

    def density(d, data, eta):
        columns = np.column_stack([np.ones(N), data["x"]])
        alpha, p = np.exp(columns @ draws["dispersion"][d]), 1 / (1 + np.exp(-columns @ draws["zero"][d]))
        plain = stats.nbinom.pmf(data["count"], alpha, alpha / (alpha + np.exp(eta)))
        return np.log(p * (data["count"] == 0) + (1 - p) * plain)

    return model, draws, density


def student(rng):
    model = bl.Model("heavy ~ x + (1 | g)", frame(), family="t")
    draws = {
        "fixef": spread(rng, [0.5, 0.4]), "sd_g": np.exp(spread(rng, [0.3])),
        "sigma": np.exp(spread(rng, 0.0)), "nu": np.exp(spread(rng, 1.0)),
    }  # fmt: skip

    def density(d, data, eta):
        return stats.t.logpdf(data["heavy"], draws["nu"][d], eta, draws["sigma"][d])

    return model, draws, density


def ordered(rng):
    model = bl.Model("level ~ x + (1 | g)", frame(), family="cumulative", link="cloglog")
    tau = np.cumsum(np.exp(spread(rng, [-0.5, 0.2, 0.1])), axis=1) - 1.0
    draws = {"fixef": spread(rng, [0.4]), "sd_g": np.exp(spread(rng, [0.3])), "thresholds": tau}

    def density(d, data, eta):
        edges = np.concatenate([[-np.inf], tau[d], [np.inf]])
        upper, lower = (stats.gumbel_l.cdf(edges[data["level"] + i] - eta) for i in (1, 0))
        return np.log(np.maximum(upper - lower, 1e-300))  # at nodes where the integrand is nothing

    return model, draws, density


# Quadrature's error falls geometrically with the nodes where the density given the effects is log-concave; t densities
# with ν near 2.7 have poles near the real line, and 42 nodes of a level of five rows differ from 21 by up to 1e-4.
@pytest.mark.parametrize(
    ("case", "error"), [(bernoulli, 1e-6), (inflated, 1e-6), (student, 1e-3), (ordered, 1e-6)]
)  # fmt: skip
def test_densities_of_groups_are_the_integrals_over_their_effects(case, error) -> None:
    model, draws, density = case(np.random.default_rng(2))
    data, codes = frame(), model.design.random[0].codes
    found = bl.group_log_likelihood(drawn(model, draws))
    assert found.dims == ("chain", "draw", "g")
    assert found.attrs["error"] < error
    for d in (0, 3):
        fixed, sd = model.X @ draws["fixef"][d], draws["sd_g"][d, 0]
        for level in range(GROUPS):
            mine = codes == level

            def integrand(u, d=d, fixed=fixed, sd=sd, mine=mine):
                return np.exp(density(d, data, fixed + u)[mine].sum() + stats.norm.logpdf(u, 0, sd))

            whole, _ = integrate.quad(integrand, -9 * sd, 9 * sd, points=[0.0], epsabs=0, epsrel=1e-10, limit=400)
            assert float(found[0, d, level]) == pytest.approx(np.log(whole), abs=max(error, 1e-8))


@pytest.mark.parametrize(("case", "error"), [(bernoulli, 1e-6), (inflated, 1e-6), (student, 1e-3), (ordered, 1e-6)])
def test_densities_of_rows_given_the_others_are_ratios_of_integrals(case, error) -> None:
    """A grid of a thousandth of the effects' sd, for every row of two groups; twice the row for what it gains."""
    model, draws, density = case(np.random.default_rng(2))
    data, codes = frame(), model.design.random[0].codes
    found = integrated_rows(drawn(model, draws), 1)
    assert found.error < error
    twice = np.empty((4, 2 * ROWS))
    for d in range(4):
        fixed, sd = model.X @ draws["fixef"][d], draws["sd_g"][d, 0]
        u = np.linspace(-9 * sd, 9 * sd, 2001)
        at = np.array([density(d, data, fixed + one) for one in u])[:, codes < 2]  # the first ten rows
        prior = stats.norm.logpdf(u, 0, sd)
        for i in range(2 * ROWS):
            own = at[:, codes[codes < 2] == codes[i]].sum(axis=1) + prior
            whole, without = logsumexp(own), logsumexp(own - at[:, i])
            twice[d, i] = logsumexp(own + at[:, i]) - whole
            assert found.without[0, d, i] == pytest.approx(whole - without, abs=max(error, 1e-8))
    want = logsumexp(twice, axis=0) - np.log(4)
    np.testing.assert_allclose(found.full[: 2 * ROWS], want, atol=max(error, 1e-8))


def test_rows_that_are_all_their_group_knows() -> None:
    """One count of about 60 for every level: without it nothing is known of its effect, with it nearly all."""
    rng, n = np.random.default_rng(8), 12
    data = {"y": rng.poisson(60 * np.exp(0.8 * rng.normal(size=n))), "g": np.arange(n).astype(str)}
    model = bl.Model("y ~ 1 + (1 | g)", data, family="poisson")
    draws = {"fixef": spread(rng, [4.1]), "sd_g": np.full((4, 1), 0.8)}
    found = integrated_rows(drawn(model, draws), 1)
    u = np.linspace(-8, 8, 40_001) * 0.8
    for d in range(4):
        for i in range(n):
            density = stats.poisson.pmf(data["y"][i], np.exp(draws["fixef"][d, 0] + u)) * stats.norm.pdf(u, 0, 0.8)
            assert found.without[0, d, i] == pytest.approx(np.log(np.trapezoid(density, u)), abs=1e-4)


def test_effects_that_a_row_rules_out() -> None:
    """With an identity link a count rules out the effects that make its mean negative; without it they come back."""
    data = {"y": np.array([1, 2, 3, 4]), "g": list("aabb"), "o": np.array([0.0, 4.0, 1.0, 4.0])}
    model = bl.Model("y ~ 1 + (1 | g)", data, family="poisson", link="identity", offset="o")
    post = drawn(model, {"fixef": np.full((1, 1), 1.5), "sd_g": np.full((1, 1), 0.6)})
    found = integrated_rows(post, 1).without[0, 0]
    u = np.linspace(-9, 9, 400_001) * 0.6
    prior = stats.norm.pdf(u, 0, 0.6)
    for i, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        p, q = (np.where(m > 0, stats.poisson.pmf(data["y"][r], np.maximum(m, 0)), 0)
                for r in (i, other) for m in [1.5 + data["o"][r] + u])  # fmt: skip
        # the kink at a mean of 0 lies 2.5 sds out in the first group
        assert found[i] == pytest.approx(np.log((p * q * prior).sum() / (q * prior).sum()), abs=5e-3)


def test_a_second_mode_that_quadrature_misses_is_told() -> None:
    """A group with two rows at −6, two at 6 and one between them has modes at both ends; nodes are around one of them."""
    data = frame()
    data["heavy"] = np.where(data["g"] == "0", np.array([-6.0, -5.9, 0.0, 5.9, 6.0])[np.arange(N) % 5], data["heavy"])
    rng, model = np.random.default_rng(6), bl.Model("heavy ~ 1 + (1 | g)", data, family="t")
    draws = {
        "fixef": spread(rng, [0.0], 60), "sd_g": np.full((60, 1), 6.0),
        "sigma": np.full(60, 0.5), "nu": np.full(60, 1.5),
    }  # fmt: skip
    post = drawn(model, draws)
    assert bl.group_log_likelihood(post).attrs["error"] > 0.4  # about half the integral is missed, log 2
    assert "Quadrature over the effects is off by up to" in str(bl.loo(post, by="g"))


def test_gaussian_rows_have_their_closed_form() -> None:
    """A formula for log σ that is constant is the Gaussian model, whose integral over two effects quadrature has exactly."""
    rng, data = np.random.default_rng(3), frame()
    formula = "normal ~ x + (x | g)"
    two, one = bl.Model(formula, data, dispersion="~ 1", weights="w"), bl.Model(formula, data, weights="w")
    draws = {"fixef": spread(rng, [0.5, 0.4]), "sd_g": np.exp(spread(rng, [0.3, -0.7])), "corr_g": spread(rng, [0.4])}
    log_sigma = spread(rng, [0.1])
    closed = bl.group_log_likelihood(drawn(one, draws | {"sigma": np.exp(log_sigma[:, 0])}))
    found = bl.group_log_likelihood(drawn(two, draws | {"dispersion": log_sigma}))
    np.testing.assert_allclose(found, closed, rtol=1e-10)


def test_levels_add_up_to_the_likelihood_that_is_maximised() -> None:
    """Three effects, two of them in a term of their own."""
    rng, data = np.random.default_rng(4), frame()
    model = bl.Model("count ~ x + (1 | g) + (0 + x + o | g)", data, family="poisson")
    draws = {
        "fixef": spread(rng, [0.5, 0.1]),
        "sd_g": np.exp(spread(rng, [-0.5, -1.0, -1.0])),
        "corr_g": spread(rng, [0.3]),
    }
    post = drawn(model, draws)
    found, quadrature = bl.group_log_likelihood(post), Quadrature(model, "observed", NODES[3])
    for d, values in enumerate(posterior_draws(post)[0]):
        whole = -0.5 * quadrature.minus_twice(point_of(model, values))[0]
        assert float(found[0, d].sum()) == pytest.approx(whole, rel=1e-12)


@pytest.mark.slow
def test_groups_left_out_agree_with_samples_without_them() -> None:
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(12), 8)
    u = 0.8 * rng.normal(size=12)
    u[2] = 2.5
    y = (rng.uniform(size=96) < 1 / (1 + np.exp(-0.3 - u[g]))).astype(int)
    model = bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}, family="bernoulli")
    settings = {"draws": 1000, "tune": 500, "chains": 2, "progress": False}
    found = bl.loo(bl.sample(model, seed=1, **settings), by="g")
    assert found.pointwise.index.tolist() == list(model.levels("g"))
    assert (found.pointwise["k"] < found.k_limit).all()
    for level in ("2", "5"):
        gone = model.design.random[0].codes == model.levels("g").index(level)
        rest = bl.sample(without_rows(model, gone), seed=2, **settings)
        b, sd = rest.draws("fixef")[:, 0], rest.draws("sd_g")[:, 0]
        ones = int(y[g == int(level)].sum())
        z = np.linspace(-8, 8, 401)
        p = 1 / (1 + np.exp(-(b[:, None] + sd[:, None] * z)))
        exact = np.log((stats.norm.pdf(z) * p**ones * (1 - p) ** (8 - ones)).sum(axis=1) * 0.04)
        expected = logsumexp(exact) - np.log(len(exact))
        # Monte Carlo: the density of a group varies about twofold over the draws, and PSIS reweights by its inverse
        assert found.pointwise.loc[level, "elpd"] == pytest.approx(expected, abs=0.1)
    assert found.p == pytest.approx(2.0, abs=1.0)  # a mean and a standard deviation
    other = bl.sample(model.update("y ~ 1 + (1 | g)", link="probit"), seed=1, **settings)
    assert bl.compare_loo({"logit": found, "probit": other}, by="g").table["elpd_diff"].abs().max() < 1.0


def left_out(model: bl.Model, sets: list[np.ndarray]) -> np.ndarray:
    """log p(y_i | y_−i) of sets of rows by a grid over (β, sd) and, for each group, over its effect; nothing is sampled."""
    y, codes = model.design.y, model.design.random[0].codes
    z = np.linspace(-8, 8, 121)
    prior_z = stats.norm.logpdf(z) + np.log(z[1] - z[0])
    grid = np.array([(b, s) for b in np.linspace(0.8, 2.4, 25) for s in np.linspace(0.06, 2.4, 40)])
    prior = log_prior(model, grid)

    def likelihood(rows: np.ndarray) -> np.ndarray:
        total = prior.copy()
        for at, (b, s) in enumerate(grid):
            eta = b + s * z
            inside = stats.poisson.logpmf(y[rows, None], np.exp(eta))
            by_group = np.zeros((codes.max() + 1, len(z)))
            np.add.at(by_group, codes[rows], inside)
            total[at] += logsumexp(by_group + prior_z, axis=1).sum()
        return logsumexp(total)

    whole = likelihood(np.ones(len(y), bool))
    return np.array([whole - likelihood(~rows) for rows in sets])


@pytest.mark.slow
def test_rows_and_groups_left_out_have_the_densities_of_a_grid() -> None:
    """With a count far from the others of its group, whose weights fail while they hold the group's effect."""
    rng = np.random.default_rng(9)
    g = np.repeat(np.arange(15), 3)
    y = rng.poisson(np.exp(1.5 + 0.5 * rng.normal(size=15)[g]))
    y[4] = 30
    model = bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}, family="poisson")
    post = bl.sample(model, draws=1000, tune=500, chains=2, seed=1, progress=False)
    rows, groups, plain = bl.loo(post, effects="integrated").pointwise, bl.loo(post, by="g").pointwise, bl.loo(post)
    assert plain.pointwise.loc[4, "k"] > plain.k_limit > rows["k"].max()
    assert 'effects="integrated" takes u out of the weights' in plain.notes[-1]
    exact = left_out(model, [np.arange(45) == 4, np.arange(45) == 20, g == 1, g == 7])
    found = [rows.loc[4, "elpd"], rows.loc[20, "elpd"], groups.loc["1", "elpd"], groups.loc["7", "elpd"]]
    # Monte Carlo: 2000 draws reweighted by densities that vary severalfold; the conditional ones miss the outlier's by 3
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert plain.pointwise.loc[4, "elpd"] > exact[0] + 2.0


def test_refusals() -> None:
    rng, data = np.random.default_rng(5), frame() | {"h": np.tile(np.arange(5), GROUPS).astype(str)}
    two = bl.Model("binary ~ 1 + (1 | g) + (1 | h)", data, family="bernoulli")
    many = {"fixef": spread(rng, [0.5], 60), "sd_g": np.exp(spread(rng, [0.0], 60))}
    with pytest.raises(
        NotSupportedError, match=r"one grouping factor with at most 3 effects; the model has g: 1, h: 1"
    ):
        bl.loo(drawn(two, many | {"sd_h": many["sd_g"]}), by="g")
    post = drawn(bl.Model("binary ~ 1 + (1 | g)", data, family="bernoulli"), many)
    with pytest.raises(NotSupportedError, match="moment_match=True with by='g' needs a Gaussian model"):
        bl.loo(post, by="g", moment_match=True)
    identity = bl.Model("count ~ 1 + (1 | g)", data, family="poisson", link="identity")
    for options in ({"by": "g"}, {"effects": "integrated"}):
        with pytest.raises(MethodError, match=r"at draw \d+ quadrature has no finite density: with the identity link"):
            bl.loo(drawn(identity, many), **options)
    with pytest.raises(MethodError, match="by='h' is no grouping factor of the model; it has g"):
        bl.loo(post, by="h")
