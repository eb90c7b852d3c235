"""The Laplace route: its weights against quadrature, its effects against integrals, and what it says of itself."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point, Quadrature
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.joint import Joint
from bayeslmm.laplace_route import Weights, parts_of, resampled, smoothed, t4_quantile, weigh_draws

PRIORS = {"Intercept": bl.Prior("Normal", mu=0, sigma=2), "sd_g": bl.Prior("HalfNormal", sigma=3)}


def clustered(groups: int = 60, sd: float = 3.0) -> bl.Model:
    """Binary responses, five in a group, whose groups differ much: Laplace's approximation is visibly wrong."""
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(groups), 5), rng.normal(size=5 * groups)
    eta = -1 + x + sd * rng.standard_normal(groups)[g]
    y = (rng.random(len(g)) < 1 / (1 + np.exp(-eta))).astype(int)
    return bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, family="bernoulli", priors=PRIORS)


def slopes(family: str) -> bl.Model:
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(8), 6), rng.normal(size=48)
    table = {"y": rng.poisson(2.0, 48) + 1, "x": x, "g": g}
    return bl.Model("y ~ x + (x | g)", table, family=family, link="log")


def nested(crossed: bool) -> bl.Model:
    """Counts in two factors of two and four levels, nested or crossed."""
    y, four = [0, 3, 1, 5, 2, 0, 7, 4, 1, 1, 0, 2], np.tile(list("pqrs"), 3)
    two = np.repeat(["a", "b"], 6) if crossed else np.where(np.isin(four, ["p", "q"]), "a", "b")
    return bl.Model("y ~ 1 + (1 | g) + (1 | h)", {"y": y, "g": four, "h": two}, family="poisson")


def point_of(joint: Joint, psi: np.ndarray) -> Point:
    """ψ of a model with one sd, or with two and their correlation, as Laplace's parameters."""
    found = joint.named(psi[None], np.zeros((1, len(joint.system.B))), (1, 1))
    sd, theta = found["sd_g"][0, 0], found["sd_g"][0, 0]
    if "corr_g" in found:
        r = found["corr_g"][0, 0, 0]
        theta = np.array([sd[0], sd[1] * r, sd[1] * np.sqrt(1 - r**2)])
    name = joint.model.dispersion
    return Point(theta, found["fixef"][0, 0], float(np.log(found[name][0, 0])) if name else 0.0)


def estimate(joint: Joint, psi: np.ndarray, m: int, particles=None) -> tuple[float, float]:
    """log of the mean of m estimates of p(y | ψ)/exp L(ψ), and its standard error."""
    ratio, _ = weigh_draws(joint, np.tile(psi, (m, 1)), 1, 2, particles)
    value = float(logsumexp(ratio) - np.log(m))
    return value, float(np.exp(ratio - value).std() / np.sqrt(m))


@pytest.mark.parametrize(
    "make", [clustered, lambda: slopes("poisson"), lambda: slopes("negativebinomial"), lambda: slopes("gamma")],
    ids=["binary", "poisson slopes", "negative binomial slopes", "gamma slopes"],
)  # fmt: skip
def test_weights_estimate_the_likelihood(make) -> None:
    """Against quadrature by 41 or 21 nodes a dimension, exact to 1e-4 or better here; away from the mode too."""
    model = make()
    joint, nodes = Joint(model), 41 if model.effects("g") == ("Intercept",) else 21
    for shift in (0.0, 1.0):
        psi = joint.frame.centre + joint.frame.root @ np.full(joint.n_parameters, shift)
        point = point_of(joint, psi)
        exact = -0.5 * (
            Quadrature(model, "observed", nodes).minus_twice(point)[0] - Laplace(model).minus_twice(point)[0]
        )
        value, se = estimate(joint, psi, 400)
        assert se < 0.05
        assert value == pytest.approx(exact, abs=4 * se + 1e-4)


def normal_nodes(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def test_nested_factors_against_a_double_integral() -> None:
    """∫ Π over inner levels ∫ by 60 × 60 nodes; standard error of the estimate 1e-3 or less."""
    model = nested(False)
    joint = Joint(model)
    assert parts_of(joint).size == 2
    psi = joint.frame.centre + 0.5
    found = joint.named(psi[None], np.zeros((1, 6)), (1, 1))
    (inner, outer), beta = ([found[f"sd_{name}"][0, 0, 0] for name in "gh"], found["fixef"][0, 0, 0])
    nodes, weights = normal_nodes()
    y, g = np.asarray(model.design.y), np.asarray(next(t for t in model.design.random if t.group == "g").codes)
    eta = beta + outer * nodes[:, None] + inner * nodes
    exact = 0.0
    for pair in ((0, 1), (2, 3)):
        levels = [np.exp(sum(stats.poisson(np.exp(eta)).logpmf(v) for v in y[g == level])) @ weights for level in pair]
        exact += np.log(weights @ (levels[0] * levels[1]))
    a = Laplace(model)
    sd = {"g": inner, "h": outer}
    laplace = -0.5 * a.minus_twice(Point(np.array([sd[group] for group in model.groups]), np.array([beta]), 0.0))[0]
    value, se = estimate(joint, psi, 400)
    assert se < 1e-2
    assert value == pytest.approx(exact - laplace, abs=4 * se)


def test_crossed_factors_are_one_part() -> None:
    """However the draws are shared out the estimate means the same: here against one draw an estimate, both unbiased."""
    joint = Joint(nested(True))
    assert parts_of(joint).size == 1
    psi = joint.frame.centre + 0.3
    (one, error), (many, se) = estimate(joint, psi, 20_000, (1, 1)), estimate(joint, psi, 400)
    assert se < 0.1 * error * np.sqrt(20_000 / 400)
    assert one == pytest.approx(many, abs=4 * np.hypot(error, se))


def test_weighted_effects_are_those_of_the_posterior() -> None:
    """E(rf(u))/E(r) of a group of five zeros and of one of mixed responses, against a fine grid."""
    model = clustered()
    joint, m = Joint(model), 4000
    psi = joint.frame.centre
    ratio, u = weigh_draws(joint, np.tile(psi, (m, 1)), 2, 2)
    effects = u[:, joint.model.structure.rows(0)] / joint.approximation.effect_scale[0][0]
    sd, beta = np.exp(psi[0]), psi[1:]
    weight = np.exp(ratio - ratio.max())
    grid = np.linspace(-15, 15, 4001)
    codes, y, fixed = model.design.random[0].codes, np.asarray(model.design.y), model.X @ beta
    sums = np.bincount(codes, y)
    for level in (int(np.argmin(sums)), int(np.argmin(np.abs(sums - 2)))):
        mine = codes == level
        eta = fixed[mine] + grid[:, None]
        density = np.exp(
            stats.norm(0, sd).logpdf(grid) + stats.bernoulli(1 / (1 + np.exp(-eta))).logpmf(y[mine]).sum(1)
        )
        density /= density.sum()
        for f in (lambda v: v, np.square):
            drawn = f(effects[:, level])
            mean = np.average(drawn, weights=weight)
            error = np.sqrt(np.sum((weight * (drawn - mean)) ** 2)) / weight.sum()
            assert mean == pytest.approx(f(grid) @ density, abs=4 * error)


def test_quantiles_of_student_s_t() -> None:
    p = np.array([1e-9, 1e-3, 0.2, 0.5, 0.7, 1 - 1e-6])
    np.testing.assert_allclose(t4_quantile(p), stats.t(4).ppf(p), rtol=1e-6, atol=1e-12)


def test_systematic_resampling_keeps_every_share() -> None:
    """A draw of weight w is kept ⌊nw⌋ or ⌈nw⌉ times, and the order of the chain stays."""
    weight = np.random.default_rng(1).exponential(size=(3, 200))
    source = resampled(weight, 4)
    assert (np.diff(source, axis=1) >= 0).all()
    for of, kept in zip(weight / weight.sum(axis=1, keepdims=True), source, strict=True):
        assert (np.abs(np.bincount(kept, minlength=200) - 200 * of) < 1).all()
    np.testing.assert_array_equal(source, resampled(weight, 4))


def test_which_weights_can_be_trusted() -> None:
    """Log weights exponential with mean k have a Pareto tail of shape k; its estimate leans on a prior around 0.5."""
    rng = np.random.default_rng(2)
    for k, reliable in ((0.2, True), (1.2, False)):
        found = smoothed(k * rng.exponential(size=(2, 2000)))
        assert found.pareto_k == pytest.approx(k, abs=0.4)
        assert found.reliable is reliable
        assert found.limit == pytest.approx(0.7)
    few = smoothed(rng.exponential(size=(1, 24)))
    assert few.pareto_k == np.inf
    assert not few.reliable
    constant = smoothed(np.full((2, 50), 3.0))
    assert np.isnan(constant.pareto_k)
    assert constant.reliable
    assert constant.effective == 1.0
    assert Weights(np.zeros((1, 2)), np.array([[1.0, 0.0]]), 0.0).effective == 0.5


QUIET = {"progress": False}
SIZES = {"draws": 400, "tune": 300, "chains": 2}


@pytest.fixture(scope="module")
def post() -> bl.Posterior:
    return bl.sample(clustered(30), seed=1, route="laplace", **SIZES, **QUIET)


@pytest.fixture(scope="module")
def plain() -> bl.Posterior:
    return bl.sample(clustered(30), seed=1, route="laplace", corrected=False, **SIZES, **QUIET)


def test_a_posterior_says_what_it_is(post) -> None:
    attrs = post.data.attrs
    assert (post.route, attrs["route"], attrs["approximate"], attrs["corrected"]) == ("laplace", "laplace", 1, 1)
    assert post.diagnostics.pareto_k == attrs["pareto_k"] < attrs["pareto_k_limit"]
    assert "random effects integrated out by Laplace's approximation, corrected by importance weights" in str(post)
    assert post.parameters == ["fixef", "sd_g"]
    assert post.ranef["g"].shape == (30, 1)
    assert post.data["log_likelihood"].to_dataset().sizes["obs"] == 150
    kept = post.data["sample_stats"]
    assert (np.asarray(kept["source"]).max(axis=1) < 400).all()
    assert np.isfinite(np.asarray(kept["log_weight"])).all()


def test_draws_stand_where_the_chain_had_them(post, plain) -> None:
    """The two runs have the same chain: a corrected draw of the parameters is the uncorrected one it was taken from."""
    source = np.asarray(post.data["sample_stats"]["source"])
    chain = np.asarray(plain.data["posterior"]["fixef"])
    taken = np.take_along_axis(chain, source[..., None], axis=1)
    np.testing.assert_array_equal(np.asarray(post.data["posterior"]["fixef"]), taken)


def test_uncorrected_draws_say_so(plain) -> None:
    assert not plain.diagnostics.ok
    assert "draws of Laplace's approximation, not corrected, as asked" in str(plain.diagnostics)
    assert "not corrected" in str(plain)


def test_too_few_draws_to_judge_the_weights_leave_them_alone() -> None:
    found = bl.sample(clustered(20), draws=10, tune=50, chains=2, seed=1, route="laplace", **QUIET)
    assert found.data.attrs["corrected"] == 0
    assert "Pareto k inf" in str(found.diagnostics)
    assert 'Take route="hierarchical"' in str(found.diagnostics)


def test_compared(post, plain) -> None:
    fit = bl.fit(clustered(30))
    said = bl.compare(fit, post, plain)
    assert any("corrects it by importance weights" in note for note in said.notes)
    assert [reason.evidence["pareto_k"] for reason in said.reasons if "is not corrected" in reason.text
            or "not corrected (Pareto" in reason.text] == [plain.data.attrs["pareto_k"]]  # fmt: skip


def test_the_seed_decides_and_the_cores_do_not(post) -> None:
    again = bl.sample(clustered(30), seed=1, route="laplace", progress=False, cores=1, **SIZES)
    np.testing.assert_array_equal(again.draws("ranef_g"), post.draws("ranef_g"))
    np.testing.assert_array_equal(again.draws("sd_g"), post.draws("sd_g"))


def test_saved_and_read_back(post, tmp_path) -> None:
    post.save(tmp_path / "post.nc")
    back = bl.Posterior.load(clustered(30), tmp_path / "post.nc")
    assert back.route == "laplace"
    assert back.diagnostics.sentences == post.diagnostics.sentences


def test_without_random_effects_nothing_is_approximated() -> None:
    data = {"y": [0, 1, 2, 1, 4, 3, 6, 5], "x": [0.0, 1, 2, 3, 4, 5, 6, 7]}
    found = bl.sample(bl.Model("y ~ x", data, family="poisson"), seed=1, route="laplace", **SIZES, **QUIET)
    assert np.isnan(found.diagnostics.pareto_k)
    assert found.data.attrs["corrected"] == 1


def agreement(one: bl.Posterior, two: bl.Posterior):
    """Differences of means in Monte Carlo standard errors."""
    a, b = one.summary(), two.summary()
    return (a["mean"] - b["mean"]) / np.hypot(a["mcse_mean"], b["mcse_mean"])


@pytest.mark.slow
def test_corrected_draws_are_the_posterior_and_uncorrected_are_not() -> None:
    """Against the hierarchical route, means within 4 Monte Carlo errors; what is off by more, the sd, is off by 8 here."""
    sizes = {"draws": 1500, "tune": 500, "chains": 2}
    exact = bl.sample(clustered(), seed=1, draws=3000, tune=500, chains=2, **QUIET)
    right = bl.sample(clustered(), seed=2, route="laplace", **sizes, **QUIET)
    wrong = bl.sample(clustered(), seed=2, route="laplace", corrected=False, **sizes, **QUIET)
    assert (agreement(exact, right).abs() < 4).all()
    assert agreement(exact, wrong)["sd_g[Intercept]"] > 4
    sd = {post: post.ranef_sd["g"]["Intercept"].mean() for post in (exact, right, wrong)}
    assert sd[right] == pytest.approx(sd[exact], rel=0.04)
    assert sd[wrong] < 0.96 * sd[exact]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: bl.sample(bl.load("models/dyestuff"), route="laplace"), MethodError, "integrate out exactly"),
        (lambda: bl.sample(clustered(), corrected=False), MethodError, 'corrected= is for route="laplace"'),
        (lambda: bl.sample(clustered(), route="laplace", store="x"), MethodError, "store="),
        (lambda: bl.sample(clustered(), route="laplace", parametrisation="centred"), MethodError, "parametrisation="),
        (
            lambda: bl.sample(
                clustered().update(priors={"sd_g": bl.Prior("Uniform", lower=0, upper=9)}), route="laplace"
            ),
            NotSupportedError,
            "closed form",
        ),
    ],
)
def test_refusals(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
