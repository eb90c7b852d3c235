"""The joint density of t responses and ordered categories: against the PyMC graph, by differences, in any coordinates."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from graphs import direct_and_graph, graph_point

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point, Quadrature
from bayeslmm.errors import NotSupportedError
from bayeslmm.joint import Joint
from bayeslmm.laplace_route import weigh_draws
from bayeslmm.moment_matching import Whole, to_coordinates
from bayeslmm.refits import Redrawn

CROSSED = "x + offset(known) + (x | g) + (1 | h)"


@cache
def table() -> pd.DataFrame:
    """Categories 0 to 3 and t₃ responses of the same latent means, in crossed groups of unequal size."""
    rng = np.random.default_rng(11)
    n = 60
    frame = pd.DataFrame({"x": rng.choice([-0.5, 0.0, 0.5], n), "known": rng.choice([0.0, 0.05], n)})
    frame["g"], frame["h"], frame["w"] = (
        rng.choice(list("abcde"), n),
        rng.choice(list("pqr"), n),
        rng.uniform(0.5, 2, n),
    )
    frame["y"] = frame["x"] + 0.8 * rng.normal(size=5)[frame["g"].map("abcde".index)] + rng.standard_t(3, n)
    return frame.assign(rating=np.digitize(frame["y"], [-1.0, 0.0, 1.2]))


def make(family: str, link: str | None = None, terms: str = CROSSED, **options) -> bl.Model:
    left = "rating" if family == "cumulative" else "y"
    return bl.Model(f"{left} ~ {terms}", table(), family=family, link=link, **options)


MODELS = {
    "logit": ("cumulative", "logit", CROSSED, {"weights": "w"}),
    "probit": ("cumulative", "probit", CROSSED, {}),
    "cloglog": ("cumulative", "cloglog", CROSSED, {}),
    "t": ("t", None, CROSSED, {"weights": "w"}),
    "t with a formula for sigma": ("t", None, CROSSED, {"dispersion": "~ x", "priors": {"nu": bl.Prior("HalfNormal", sigma=9)}}),
}  # fmt: skip
QUICK = ("logit", "t with a formula for sigma")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in MODELS])
def test_equals_the_graph(name) -> None:
    """1e-8 of values near 1e2 whose terms are summed in another order; PyMC's normal distribution function takes √2 in single
    precision, which costs the probit 1e-7 of every row."""
    family, link, terms, options = MODELS[name]
    model = make(family, link, terms, **options)
    joint = Joint(model, adapted=False)
    graph = bl.to_pymc(model, parametrisation="noncentred")
    both = direct_and_graph(joint, graph)
    error = 1e-6 if link == "probit" else 1e-8
    for seed in range(5):
        y = np.random.default_rng(seed).normal(scale=0.7, size=joint.size)
        (value, gradient), (logp, slope) = both(y)
        assert value == pytest.approx(logp, rel=error)
        np.testing.assert_allclose(slope, gradient, rtol=error, atol=10 * error)
    assert np.isfinite(graph.compile_logp(mode="FAST_COMPILE")(graph.initial_point()))  # where PyMC would start


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logit", "t"])
def test_equals_the_centred_graph(name) -> None:
    """Whose density of u is that of b over |λ|, once for each level."""
    family, link, terms, options = MODELS[name]
    model = make(family, link, terms, **options)
    joint = Joint(model, adapted=False)
    logp = bl.to_pymc(model, parametrisation="centred").compile_logp(mode="FAST_COMPILE")
    for seed in range(5):
        y = np.random.default_rng(seed).normal(scale=0.7, size=joint.size)
        point, natural = graph_point(joint, y), joint.natural(y[None, None])
        volume = 0.0
        for group in model.groups:
            del point[f"z_{group}"]
            u = natural[f"ranef_{group}"][0, 0]
            point[f"ranef_{group}"] = u
            rest = 1.0 - natural[f"corr_{group}"][0, 0, 0] ** 2 if u.shape[1] > 1 else 1.0
            volume += len(u) * (np.log(natural[f"sd_{group}"]).sum() + 0.5 * np.log(rest))
        assert joint.log_density(y)[0] - volume == pytest.approx(float(logp(point)), rel=1e-8)


SHAPES = {
    "categories": ("cumulative", "logit", "x + (1 | g)", {}),
    "slopes and a crossed factor": ("cumulative", "probit", CROSSED, {"weights": "w"}),
    "nested": ("cumulative", "cloglog", "x + (1 | h / g)", {}),
    "categories without coefficient": ("cumulative", "logit", "1 + (x | g)", {}),
    "categories without random effect": ("cumulative", "logit", "x", {}),
    "t": ("t", None, CROSSED, {}),
    "t with a formula for sigma": ("t", None, "x + (1 | g)", {"dispersion": "~ x", "weights": "w"}),
    "t without random effect": ("t", None, "x", {}),
}


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES), scope="module")
def shaped(request) -> Joint:
    family, link, terms, options = request.param
    return Joint(make(family, link, terms, **options))


def test_gradient_by_differences(shaped) -> None:
    """Central differences with steps of 1e-6 have 1e-6 of a gradient near 1."""
    rng = np.random.default_rng(1)
    for _ in range(2):
        y = rng.normal(scale=0.7, size=shaped.size)
        _, gradient = shaped.log_density(y)
        found = [
            (shaped.log_density(y + e)[0] - shaped.log_density(y - e)[0]) / 2e-6 for e in 1e-6 * np.eye(shaped.size)
        ]
        np.testing.assert_allclose(gradient, found, atol=2e-6 * max(1.0, np.abs(gradient).max()))


def test_coordinates_go_to_draws_and_back(shaped) -> None:
    """Through names and shapes of the posterior's variables; errors are those of a few triangular solves."""
    y = np.random.default_rng(2).normal(size=(2, 5, shaped.size))
    natural = shaped.natural(y)
    for name, values in natural.items():
        shape = {"thresholds": (3,), "nu": (), "sigma": ()}.get(name)
        assert shape is None or values.shape == (2, 5, *shape)
    np.testing.assert_allclose(to_coordinates(shaped, natural), y, atol=1e-9)


def test_coordinates_change_nothing_but_the_coordinates(shaped) -> None:
    """log p(y) = log p(ψ, b) + log|∂(ψ, b)/∂y|, the Jacobian by differences (1e-8 an entry)."""
    plain = Joint(shaped.model, adapted=False)
    y = np.random.default_rng(2).normal(scale=0.5, size=shaped.size)

    def there(at: np.ndarray) -> np.ndarray:
        return to_coordinates(plain, shaped.natural(at[None, None]))[0, 0]

    units = 1e-5 * np.eye(shaped.size)
    jacobian = np.array([(there(y + e) - there(y - e)) / 2e-5 for e in units])
    want = plain.log_density(there(y))[0] + np.linalg.slogdet(jacobian)[1]
    assert shaped.log_density(y)[0] == pytest.approx(want, abs=1e-6)


def test_the_mode_is_where_sampling_starts(shaped) -> None:
    """At 0 the gradient is what Laplace's approximation leaves out: below one standard deviation."""
    assert np.abs(shaped.log_density(np.zeros(shaped.size))[1]).max() < 1.0


def test_coordinates_of_heavy_tails_come_from_the_expected_curvature() -> None:
    """Three Cauchy-like responses a group: there the observed curvature's determinant runs off, and the sds of log sd, log σ and
    log ν that it gave were 2.1, 1.1 and 1.1; those of the posterior are 0.23, 0.24 and 0.28."""
    rng = np.random.default_rng(100)
    g = np.repeat(np.arange(15), 3)
    y = rng.normal(size=15)[g] * 2 + rng.standard_t(1.2, 45)
    joint = Joint(bl.Model("y ~ x + (1 | g)", {"y": y, "x": rng.normal(size=45), "g": g.astype(str)}, family="t"))
    sds = np.sqrt(np.diag(joint.frame.root @ joint.frame.root.T))
    assert (sds[:3] < 0.5).all()


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_effects_follow_the_thresholds(link) -> None:
    """At z = 0, as their mode does: the derivatives of both by each coordinate of the thresholds, by differences (1e-6)."""
    joint = Joint(make("cumulative", link, "x + (1 | g)"))
    a, centre = joint.approximation, joint.frame.centre
    z, first = np.zeros(joint.size - joint.n_parameters), joint.n_sd
    for unit in 1e-4 * np.eye(joint.n_parameters)[first : first + 3]:
        mapped, modes = [], []
        for psi in (centre + unit, centre - unit):
            x = np.linalg.solve(joint.frame.root, psi - centre)
            mapped.append(joint.natural(np.concatenate([x, z])[None, None])["ranef_g"].ravel())
            sd = joint.sds(psi[:1])
            modes.append(sd * a.mode(Point(sd, psi[first + 3 :], 0.0, psi[first : first + 3])).b[:, 0])
        moved = (mapped[0] - mapped[1]) / 2e-4
        assert np.abs(moved).max() > 0.05
        np.testing.assert_allclose(moved, (modes[0] - modes[1]) / 2e-4, atol=1e-5)


def test_weights_of_the_laplace_route_estimate_the_likelihood() -> None:
    """Against quadrature by 41 nodes, exact to 1e-4 here; away from the mode too."""
    model, m = make("cumulative", None, "x + (1 | g)"), 400
    joint = Joint(model)
    for shift in (0.0, 1.0):
        psi = joint.frame.centre + joint.frame.root @ np.full(joint.n_parameters, shift)
        point = Point(joint.sds(psi[:1]), psi[4:], 0.0, psi[1:4])
        exact = -0.5 * (Quadrature(model, "observed", 41).minus_twice(point)[0] - Laplace(model).minus_twice(point)[0])
        ratio, _ = weigh_draws(joint, np.tile(psi, (m, 1)), 1, 2)
        value = float(np.log(np.mean(np.exp(ratio))))
        se = float(np.exp(ratio - value).std() / np.sqrt(m))
        assert se < 0.05
        assert value == pytest.approx(exact, abs=4 * se + 1e-4)


def test_the_laplace_route_takes_categories_and_refuses_t() -> None:
    """Its means are those of the hierarchical route within four Monte Carlo errors."""
    model = make("cumulative", None, "x + (1 | g)")
    sizes = {"draws": 300, "tune": 300, "chains": 2, "progress": False}
    one, other = bl.sample(model, seed=1, route="laplace", **sizes), bl.sample(model, seed=2, **sizes)
    assert one.data.attrs["corrected"] == 1
    mine, theirs = one.summary(), other.summary()
    assert list(mine.index[-3:]) == ["thresholds[0|1]", "thresholds[1|2]", "thresholds[2|3]"]
    error = np.hypot(mine["mcse_mean"], theirs["mcse_mean"])
    assert ((mine["mean"] - theirs["mean"]).abs() < 4 * error).all()
    with pytest.raises(NotSupportedError, match="given t responses may be one of several"):
        bl.sample(make("t", None, "x + (1 | g)"), route="laplace")


@pytest.mark.parametrize(("family", "second"), [("cumulative", "thresholds"), ("t", "nu")])
def test_the_tree_is_that_of_the_graph(family, second) -> None:
    """Names, dimensions and labels of the variables, so that draws of either are one posterior to whatever reads them."""
    model = make(family, None, "x + (1 | g)")
    post = bl.sample(model, draws=60, tune=100, chains=2, seed=1, progress=False)
    graph, node = bl.to_pymc(model), post.data["posterior"]
    for name in post.parameters:
        assert node[name].dims[2:] == tuple(graph.named_vars_to_dims.get(name, ()))
        for dim in node[name].dims[2:]:
            assert list(node[dim].values) == list(graph.coords[dim])
    assert second in post.parameters
    assert post.data["log_likelihood"].to_dataset().sizes["obs"] == 60
    assert bl.posterior(model, post.data).parameters == post.parameters
    assert post.route == "hierarchical"
    whole = Whole(post, 60)  # what moves draws for bl.loo: the density that was sampled, and a row's own
    assert np.ptp(whole.log_density(whole.x) - post.data["sample_stats"]["lp"].values) < 1e-8
    np.testing.assert_allclose(whole.unit(whole.x, 7), post.log_likelihood()[..., 7], atol=1e-12)


@pytest.mark.parametrize("empty", [0, 1, 3])
def test_a_category_that_a_redrawn_response_lacks(empty) -> None:
    """The fit is the one without it, one threshold gone off or two of them equal; the posterior has its start and its prior."""
    model = make("cumulative", None, "x + (1 | g)")
    y = np.where(model.design.y == empty, empty - 1 if empty else 1, model.design.y)
    redrawn = Redrawn(model).model(y)
    fit = bl.fit(redrawn)
    assert fit.converged
    assert fit.loglik == pytest.approx(bl.fit(model.update(data=table().assign(rating=y))).loglik, abs=1e-6)
    joint = Joint(redrawn)
    assert np.isfinite(joint.log_density(np.zeros(joint.size))[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cumulative", "t"])
def test_the_sampler_is_calibrated(family) -> None:
    """At 0.1 % no false alarm should be, of all quantities together; some simulated responses lack a category."""
    normal = {"sd_g": bl.Prior("HalfNormal", sigma=1), "x": bl.Prior("Normal", mu=0, sigma=1)}
    own = {"thresholds": bl.Prior("Normal", mu=0, sigma=1.5)} if family == "cumulative" else {}
    own |= (
        {"Intercept": bl.Prior("Normal", mu=0, sigma=2), "sigma": bl.Prior("Gamma", alpha=4, beta=4)} if not own else {}
    )
    model = make(family, None, "x + (1 | g)", priors=normal | own)
    found = bl.calibrate(model, 25, seed=1, draws=120, tune=150, progress=False)
    assert (found.frame["p_holm"] > 1e-3).all(), found.frame
    assert found.failures == ()
    assert ("nu" if family == "t" else "thresholds[1|2]") in found.frame.index
