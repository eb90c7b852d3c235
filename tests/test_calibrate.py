"""Calibration: uniform ranks where simulator, model and sampler agree, and each way of disagreeing seen and named."""

import numpy as np
import pandas as pd
import pytest
from reference.calibration import clustered, model
from scipy import stats
from statsmodels.stats.multitest import multipletests

import bayeslmm as bl
from bayeslmm.calibrate import Calibration, _chisq, _counts, _holm, _null, _positions
from bayeslmm.errors import MethodError, PriorError

KEPT = 99


def small_model(**priors):
    rng = np.random.default_rng(4)
    table = {"x": rng.normal(size=30), "g": np.arange(30) % 6, "y": rng.normal(size=30)}
    given = {"Intercept": bl.Prior("Normal", mu=1, sigma=2), "x": bl.Prior("Normal", mu=0, sigma=1),
             "sd_g": bl.Prior("Gamma", alpha=2, beta=2), "sigma": bl.Prior("HalfNormal", sigma=1)}  # fmt: skip
    return bl.Model("y ~ x + (1 | g)", table, priors=given | priors)


@pytest.fixture(scope="module")
def right():
    return bl.calibrate(small_model(), 40, draws=200, tune=200, seed=2, progress=False)


def wrong_sigma(parameters, rng):
    """The model's own response with a residual 1.3 times as large (and 30 rows, each its own draw)."""
    model = small_model()
    return bl.simulate(model, seed=rng, parameters=dict(parameters) | {"sigma": 1.3 * parameters["sigma"]}).to_numpy()[
        :, 0
    ]


def test_the_sampler_is_calibrated(right):
    assert right.calibrated, right.frame
    assert list(right.frame.index) == ["fixef[Intercept]", "fixef[x]", "sd_g[Intercept]", "sigma", "loglik"]
    assert right.verdict == "No deviation from calibration is seen in 40 simulations (5 quantities)."
    # z of 40 independent, nearly standard normal posteriors: mean within 4/√40, sd within 4/√80
    near = right.frame.loc[["fixef[Intercept]", "fixef[x]"]]
    assert (near["z_mean"].abs() < 4 / np.sqrt(40)).all()
    assert ((near["z_sd"] - 1).abs() < 4 / np.sqrt(80)).all()
    assert near["contraction"].between(0.5, 1).all()
    assert np.isnan(right.frame.loc["loglik", "contraction"])


def test_a_simulator_with_another_residual_is_noticed():
    found = bl.calibrate(small_model(), 40, draws=100, tune=100, seed=2, simulator=wrong_sigma, progress=False)
    assert not found.calibrated
    assert found.frame.loc["sigma", "verdict"] == "posterior too high"
    assert found.frame.loc["sigma", "p"] < 1e-3
    assert found.frame.loc["sigma", "z_mean"] > 1
    assert found.verdict.startswith("Not calibrated: ")
    assert "sigma: posterior too high" in found.verdict
    assert next(line.get_color() for line in found.plot().axes[3].lines) == "#D55E00"


def test_the_same_seed_gives_the_same_ranks():
    one, two = (bl.calibrate(small_model(), 20, draws=99, tune=60, seed=2, progress=False) for _ in range(2))
    pd.testing.assert_frame_equal(one.ranks, two.ranks)


def calibration_of(ranks):
    """A Calibration whose ranks are given."""
    frame = pd.DataFrame(ranks, columns=[f"q{i}" for i in range(np.shape(ranks)[1])])
    nothing = frame * 0.0 + 400.0
    return Calibration(small_model(), frame, nothing, nothing, nothing, nothing, KEPT, np.zeros(len(frame), int), (), 1)


@pytest.mark.parametrize(
    ("shift", "scale", "verdict"),
    [
        (0.6, 1.0, "posterior too high"),
        (-0.6, 1.0, "posterior too low"),
        (0.0, 0.5, "posterior too narrow"),
        (0.0, 2.0, "posterior too wide"),
    ],
)
def test_every_way_to_be_wrong_has_its_name(shift, scale, verdict):
    """Truth N(0, 1) and draws N(shift, scale²), whose ranks are uniform only for shift 0 and scale 1."""
    rng = np.random.default_rng(1)
    truth, draws = rng.normal(size=(150, 1)), rng.normal(shift, scale, size=(150, KEPT))
    ranks = (draws < truth).sum(axis=1)[:, None]
    assert calibration_of(ranks).frame["verdict"].tolist() == [verdict]


def test_the_band_holds_uniform_ranks_at_its_level():
    """95 % of samples of uniform ranks stay inside at every point together; the discrete band is no smaller than asked."""
    rng, found = np.random.default_rng(7), calibration_of(np.zeros((80, 1), int))
    lower, upper = found.band(0.95)
    counts = _counts(rng.integers(0, KEPT + 1, (4000, 80)), KEPT)
    share = ((counts >= lower) & (counts <= upper)).all(axis=1).mean()
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000) + 0.005  # Monte Carlo error of the band itself


def test_p_values_of_uniform_ranks_are_uniform():
    rng = np.random.default_rng(8)
    ranks = rng.integers(0, KEPT + 1, (60, 400))
    p = calibration_of(ranks).frame["p"]
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 400) + 0.01  # γ is discrete


def test_gamma_is_the_smallest_two_sided_tail():
    """Säilynoja et al. (2022), equation 7, by hand for one sample."""
    rng = np.random.default_rng(9)
    ranks = rng.integers(0, KEPT + 1, 50)
    counts = _counts(ranks[None, :], KEPT)
    expected = min(
        2
        * min(
            stats.binom.cdf((ranks <= k).sum(), 50, (k + 1) / 100),
            stats.binom.sf((ranks <= k).sum() - 1, 50, (k + 1) / 100),
        )
        for k in range(KEPT)
    )
    assert _null(50, KEPT).gamma(counts)[0] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(_positions(KEPT)[[0, -1]], [0.01, 0.99])


def test_holm_and_chi_square_are_those_of_other_programs():
    p = np.array([0.01, 0.4, 0.03, 0.04, 0.9])
    np.testing.assert_allclose(_holm(p), multipletests(p, method="holm")[1], rtol=1e-12)
    ranks = np.random.default_rng(3).integers(0, 100, 100)
    counts = np.histogram(ranks, bins=np.arange(0, 101, 5))[0]
    assert _chisq(ranks, KEPT) == pytest.approx(stats.chisquare(counts).pvalue, rel=1e-12)


def test_autocorrelated_draws_are_reported():
    ranks = np.random.default_rng(0).integers(0, 100, (50, 1))
    slow = calibration_of(ranks)
    object.__setattr__(slow, "ess", slow.ess * 0 + 30.0)
    assert any("effective sample size of q0 is below the 99 draws" in note for note in slow.notes)


def test_default_priors_keep_the_scale_of_the_models_own_response():
    model = bl.load("models/dyestuff")
    found = bl.calibrate(model, 20, draws=99, tune=60, seed=1, progress=False)
    sigma = found.truth["sigma"].median()
    assert sigma == pytest.approx(stats.t(4).ppf(0.75) * model.priors.sigma.args["sigma"], rel=0.9)
    assert found.model.priors is model.priors


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: bl.calibrate(small_model(), 5, seed=1), MethodError, "nsim=5 must be a whole number, at least 20"),
        (lambda: bl.calibrate(small_model(), draws=50, seed=1), MethodError, "draws=50 must be"),
        (lambda: bl.calibrate(bl.fit(small_model()), seed=1), MethodError, "calibrate takes a Model"),
        (
            lambda: bl.calibrate(small_model(sigma=bl.Prior("HalfFlat")), seed=1),
            PriorError,
            "sigma has the improper prior",
        ),
        (
            lambda: bl.calibrate(small_model(), 20, seed=1, progress=False, simulator=lambda parameters, rng: [1.0]),
            MethodError,
            "every simulation failed; the first: MethodError: the simulator gave shape",
        ),
    ],
)
def test_what_cannot_be_calibrated_raises(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_the_page_says_it(right):
    assert "Simulation-based calibration (40 simulations, 99 draws of each posterior)" in str(right)
    assert "<table>" in right._repr_html_()
    assert "calibrated=True" in repr(right)
    figure = right.plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(right.ranks.columns)


FEW = {"draws": 120, "tune": 150, "progress": False}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "route"), [("binomial", "laplace"), ("poisson", "hierarchical")])
def test_other_families_are_calibrated(family, route):
    """A false alarm in 20 at the 5 % level of all quantities together, so the seed is one that gives none; at 0.1 % none should."""
    found = bl.calibrate(model(family), 25, seed=1, route=route, **FEW)
    assert list(found.frame.index) == ["fixef[Intercept]", "fixef[x]", "sd_g[Intercept]", "loglik"]
    assert (found.frame["p_holm"] > 1e-3).all(), found.frame
    assert found.failures == ()
    assert found.frame.loc["fixef[x]", "contraction"] > 0.3


@pytest.mark.slow
def test_a_dispersion_read_upside_down_is_noticed():
    """alpha of the negative binomial as its reciprocal: variance μ + αμ² where the model has μ + μ²/α."""
    of = model("negativebinomial")

    def inverted(parameters, rng):
        return bl.simulate(of, seed=rng, parameters=dict(parameters) | {"alpha": 1 / parameters["alpha"]})["sim_1"]

    found = bl.calibrate(of, 25, seed=1, simulator=inverted, **FEW)
    assert list(found.ranks.columns)[3] == "alpha"
    assert found.frame["verdict"]["alpha"] == "posterior too low"
    assert found.frame["p_holm"]["alpha"] < 0.01


@pytest.mark.slow
def test_laplace_s_approximation_uncorrected_is_noticed():
    """Few binary responses in many groups: sd_g is too low by 0.8 posterior sds, 4.5 standard errors of 30 simulations."""
    found = bl.calibrate(clustered(), 30, seed=1, route="laplace", corrected=False, **FEW)
    assert found.frame.loc["sd_g[Intercept]", "verdict"] == "posterior too low"
    assert found.frame.loc["sd_g[Intercept]", "p_holm"] < 0.01


@pytest.mark.slow
def test_posteriors_that_stay_uncorrected_are_counted():
    """99 draws: the limit of Pareto's k is 0.5, which these weights often exceed."""
    found = bl.calibrate(clustered(100), 20, draws=99, tune=60, seed=1, route="laplace", progress=False)
    assert 0 < found.uncorrected < 20
    assert f"{found.uncorrected} of 20 posteriors stayed Laplace's approximation: Pareto k is too high." in found.notes


def test_priors_that_allow_no_response():
    wild = model("poisson").update(priors={"fixef": bl.Prior("Normal", mu=80, sigma=1)})
    with pytest.raises(MethodError, match="no response can be drawn at parameters that the priors allow"):
        bl.calibrate(wild, 20, seed=1, **FEW)
