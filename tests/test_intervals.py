"""Intervals and profiles: lme4's bounds, closed forms, the deviance at a bound by other routes, ends of the domain."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates, parameter_names
from bayeslmm.profile import curves
from bayeslmm.slices import slice_of

Q95 = float(stats.chi2.ppf(0.95, 1))

# lme4 1.1-31, confint(profile(m, signames = FALSE)) of REML fits. lme4 interpolates zeta by a spline, at a finer grid
# (delta.cutoff 1/16 to 1/64) within 3e-5 of the interval's width of the bounds found here; hence SPLINE.
SPLINE = 5e-5
PROFILES = {
    "sleepstudy": {
        "fixef[Intercept]": (237.680691145692, 265.129518531161),
        "fixef[Days]": (7.35865229553012, 13.5759196183059),
        "sd_Subject[Intercept]": (14.3813905732221, 37.7160547152515),
        "sd_Subject[Days]": (3.80117125234288, 8.7533919045881),
        "corr_Subject[Intercept, Days]": (-0.481492517131831, 0.685015687849066),
        "sigma": (22.8982565471938, 28.8579991531869),
    },
    "penicillin_blocks": {
        "fixef[Intercept]": (82.0935655400786, 89.9064343434092),
        "fixef[treat[A]]": (-5.14558015322711, 1.14558015636205),
        "fixef[treat[B]]": (-4.14558015322711, 2.14558015636206),
        "fixef[treat[C]]": (-0.145580153227125, 6.14558015636206),
        "sd_blend[Intercept]": (0.0, 7.67672919955841),
        "sigma": (2.81920925659115, 5.8261561926785),
    },
    "dyestuff": {
        "fixef[Intercept]": (1486.45148779, 1568.54851221),
        "sd_Batch[Intercept]": (12.19651399, 84.06341074),
        "sigma": (38.23012331, 67.65767278),
    },
    "dyestuff2": {
        "fixef[Intercept]": (4.312835018, 7.018364982),
        "sd_Batch[Intercept]": (0.0, 2.084047864),
        "sigma": (2.892845043, 4.815830304),
    },
    "pastes": {
        "fixef[Intercept]": (58.663648626, 61.443018039),
        "sd_cask:batch[Intercept]": (2.157930922, 4.053804848),
        "sd_batch[Intercept]": (0.0, 2.946597031),
        "sigma": (0.652022889, 1.085447558),
    },
    "penicillin": {
        "fixef[Intercept]": (21.2666083808, 24.6778360638),
        "sd_plate[Intercept]": (0.6335651933, 1.1821033289),
        "sd_sample[Intercept]": (1.0958314907, 3.5563223772),
        "sigma": (0.4858455620, 0.6294534265),
    },
}
# confint(m, method = "Wald"), REML
WALD = {
    "sleepstudy": [[238.029219834071, 264.780989862901], [7.43759539479822, 13.4969765243935]],
    "penicillin_blocks": [
        [82.4395486088858, 89.5604513911142],
        [-5.29425578369452, 1.29425578369452],
        [-4.29425578369452, 2.29425578369452],
        [-0.294255783694524, 6.29425578369452],
    ],
}


@pytest.fixture(scope="module")
def fits(root):
    return {name: bl.fit(bl.load(root / "models" / name)) for name in PROFILES}


@pytest.mark.parametrize("name", PROFILES)
def test_profile_intervals_are_those_of_lme4(fits, name):
    found = bl.confint(fits[name], method="profile")
    expected = np.array(list(PROFILES[name].values()))
    assert set(found.index) == set(PROFILES[name])
    assert list(found.columns) == ["lower", "upper"]
    gap = np.abs(found.loc[list(PROFILES[name])].to_numpy() - expected)
    assert (gap / np.ptp(expected, axis=1)[:, None]).max() < SPLINE


@pytest.mark.parametrize("name", WALD)
def test_wald_intervals_are_those_of_lme4(fits, name):
    np.testing.assert_allclose(bl.confint(fits[name], parameters="fixef"), WALD[name], atol=1e-6)


def test_wald_intervals_of_variances(fits):
    fit = fits["sleepstudy"]
    found = bl.confint(fit, 0.95)
    own = estimates(fit, "REML")
    np.testing.assert_allclose(found.to_numpy(), np.column_stack([own.lower, own.upper]), rtol=1e-12)
    half = bl.confint(fit, 0.5)
    assert (half["lower"] > found["lower"]).all()
    assert (half["upper"] < found["upper"]).all()
    assert bl.confint(fits["dyestuff2"]).loc["sd_Batch[Intercept]"].isna().all()


# the deviance at a bound, by routes that share nothing with the search


@pytest.fixture(scope="module")
def slopes():
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(12), 7), np.tile(np.arange(7.0), 12)
    z, w = rng.normal(size=84), rng.uniform(0.5, 2.0, 84)
    u = rng.normal(size=(12, 2)) @ np.array([[2.0, 0.3], [0.0, 0.5]])
    y = 3 + 0.4 * x + 0.7 * z + u[g, 0] + u[g, 1] * x + rng.normal(size=84) / np.sqrt(w)
    return bl.Model("y ~ 1 + z + x + (x | g)", {"y": y, "x": x, "z": z, "g": g, "w": w}, weights="w")


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_deviance_at_the_bounds_of_variances(slopes, level):
    fit = bl.fit(slopes, "ML")
    rise = stats.chi2.ppf(level, 1)
    found = bl.confint(fit, level, "profile", [n for n in parameter_names(slopes) if not n.startswith("fixef")])
    for name, bounds in found.iterrows():
        for bound in bounds:
            if name.startswith("corr_") and abs(bound) == 1:
                continue  # where fit cannot hold it
            there = bl.fit(slopes, "ML", fixed={name: bound}).deviance
            assert there - fit.deviance == pytest.approx(rise, abs=1e-6)


def test_deviance_at_the_bounds_of_a_coefficient():
    rng = np.random.default_rng(4)
    g, z = np.repeat(np.arange(9), 6), rng.normal(size=54)
    data = {"y": 1 + 0.5 * z + rng.normal(size=9)[g] + rng.normal(size=54), "z": z, "g": g}
    fit = bl.fit(bl.Model("y ~ 1 + z + (1 | g)", data), "ML")
    for bound in bl.confint(fit, method="profile", parameters="fixef[z]").loc["fixef[z]"]:
        rest = bl.Model("y ~ 1 + (1 | g)", data, offset=bound * z)
        assert bl.fit(rest, "ML").deviance - fit.deviance == pytest.approx(Q95, abs=1e-6)


def test_restricted_deviance_at_the_bounds(slopes):
    fit = bl.fit(slopes, "REML")
    found = bl.confint(fit, method="profile", criterion="REML")
    assert not any(name.startswith("fixef") for name in found.index)
    for name, bounds in found.iterrows():
        for bound in bounds:
            there = bl.fit(slopes, "REML", fixed={name: bound}).deviance
            assert there - fit.deviance == pytest.approx(Q95, abs=1e-6)


def test_linear_model_in_closed_form():
    rng = np.random.default_rng(5)
    n, x = 25, rng.normal(size=25)
    y = 1 + 2 * x + rng.normal(size=n)
    fit = bl.fit(bl.Model("y ~ x", {"y": y, "x": x}), "ML")
    found = bl.confint(fit, method="profile")
    X = np.column_stack([np.ones(n), x])
    beta, rss = np.linalg.lstsq(X, y)[:2]
    reach = np.sqrt((np.exp(Q95 / n) - 1) * rss[0] * np.diag(np.linalg.inv(X.T @ X)))
    np.testing.assert_allclose(found.iloc[:2], np.column_stack([beta - reach, beta + reach]), rtol=1e-8)
    ratio = [optimize.brentq(lambda r: n * (1 / r - 1 + np.log(r)) - Q95, *ends) for ends in ((0.1, 1), (1, 10))]
    np.testing.assert_allclose(found.loc["sigma"], np.sqrt(rss[0] / n * np.array(ratio)), rtol=1e-8)


# slices


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["(x + w | g)", "(x || g) + (1 | h)", "(1 | h) + (0 + w + x | g)"]))
def test_derivatives_of_a_slice(seed, random):
    rng = np.random.default_rng(seed)
    data = {
        "x": rng.normal(size=60),
        "w": rng.normal(size=60),
        "g": np.repeat(np.arange(10), 6),
        "h": np.tile(np.arange(5), 12),
    }
    data["y"] = 1 + data["x"] + rng.normal(size=10)[data["g"]] + rng.normal(size=60)
    fit = bl.fit(bl.Model(f"y ~ x + {random}", data), "ML")
    for name in parameter_names(fit.model):
        for reml in (False, True) if not name.startswith("fixef") else (False,):
            here = slice_of(fit.model, fit.theta, fit.sigma, fit.beta, name, reml)
            if not reml:
                assert here.value(here.estimate, here.start)[0] == pytest.approx(fit.deviance, abs=1e-8)
            x = here.start + 0.1 * rng.uniform(0.5, 1.0, len(here.start))
            held = 0.8 * here.estimate + 0.05
            _, gradient, slope = here.value(held, x)
            step = 1e-6
            rises = [
                (here.value(held, x + step * e)[0] - here.value(held, x - step * e)[0]) / (2 * step)
                for e in np.eye(len(x))
            ]
            np.testing.assert_allclose(gradient, rises, rtol=2e-5, atol=2e-5)
            rise = (here.value(held + step, x)[0] - here.value(held - step, x)[0]) / (2 * step)
            assert slope == pytest.approx(rise, rel=2e-5, abs=2e-5)


# what must not change


def three_effects(seed, shift=0.0):
    rng = np.random.default_rng(seed)
    g, x, w = np.repeat(np.arange(15), 8), np.tile(np.arange(8.0), 15), rng.normal(size=120)
    u = rng.normal(size=(15, 3)) @ np.array([[2.0, 0.3, 0.1], [0, 0.5, 0.1], [0, 0, 0.6]])
    y = 1 + 0.3 * x + u[:, 0][g] + u[:, 1][g] * x + u[:, 2][g] * w + rng.normal(size=120)
    return {"y": y, "x": x + shift, "w": w, "g": g}


def test_order_of_effects_does_not_matter():
    data = three_effects(1)
    one = bl.confint(bl.fit(bl.Model("y ~ x + w + (x + w | g)", data)), method="profile")
    two = bl.confint(bl.fit(bl.Model("y ~ x + w + (w + x | g)", data)), method="profile")
    renamed = two.rename(index={"corr_g[w, x]": "corr_g[x, w]"})
    np.testing.assert_allclose(one.to_numpy(), renamed.loc[one.index].to_numpy(), rtol=1e-6, atol=1e-6)


def test_moving_and_scaling_data():
    names = ["fixef[x]", "sd_g[x]", "sigma"]
    near, far = three_effects(2), three_effects(2, shift=2000.0)
    one = bl.confint(bl.fit(bl.Model("y ~ x + (x | g)", near)), method="profile")
    two = bl.confint(bl.fit(bl.Model("y ~ x + (x | g)", far)), method="profile")
    np.testing.assert_allclose(two.loc[names], one.loc[names], rtol=1e-6)
    near["y"] = near["y"] * 1e100
    three = bl.confint(bl.fit(bl.Model("y ~ x + (x | g)", near)), method="profile")
    scale = np.where([name.startswith("corr") for name in one.index], 1.0, 1e100)
    np.testing.assert_allclose(three.to_numpy() / scale[:, None], one.to_numpy(), rtol=1e-6)


# ends of the domain


def test_a_correlation_at_its_end():
    rng = np.random.default_rng(16)
    g, x = np.repeat(np.arange(12), 6), np.tile(np.arange(6.0) - 2.5, 12)
    u = rng.normal(size=12)
    y = 2 * u[g] + 0.5 * u[g] * x + rng.normal(size=72)
    fit = bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": g}), "ML")
    found = bl.confint(fit, method="profile")
    assert fit.corr["g"].iloc[0, 1] == pytest.approx(1.0)
    assert found.loc["corr_g[Intercept, x]", "upper"] == 1.0
    assert 0.5 < found.loc["corr_g[Intercept, x]", "lower"] < 1.0
    lower = float(found.loc["corr_g[Intercept, x]", "lower"])
    there = bl.fit(fit.model, "ML", fixed={"corr_g[Intercept, x]": lower}).deviance
    assert there - fit.deviance == pytest.approx(Q95, abs=1e-6)
    assert bl.confint(fit).loc["corr_g[Intercept, x]"].isna().all()


def test_an_effect_without_variance_leaves_its_correlation_open():
    rng = np.random.default_rng(7)
    g, x = np.repeat(np.arange(12), 6), np.tile(np.arange(6.0) - 2.5, 12)
    resid = rng.normal(size=(12, 6))
    resid -= resid @ np.outer(x[:6], x[:6]) / (x[:6] @ x[:6])
    y = 2 * rng.normal(size=12)[g] + resid.ravel()
    fit = bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": g}), "ML")
    assert fit.sd["g"]["x"] == 0.0
    found = bl.confint(fit, method="profile")
    assert found.loc["corr_g[Intercept, x]"].tolist() == [-1.0, 1.0]
    assert found.loc["sd_g[x]", "lower"] == 0.0
    assert found.loc["sd_g[x]", "upper"] > 0.0


def test_wider_levels_nest(fits):
    last = None
    for level in (0.5, 0.8, 0.95, 0.999):
        found = bl.confint(fits["penicillin_blocks"], level, "profile")
        if last is not None:
            assert (found["lower"] <= last["lower"]).all()
            assert (found["upper"] >= last["upper"]).all()
        last = found


# profiles


def test_profile_table_and_plot(fits):
    found = bl.profile(fits["penicillin_blocks"])
    assert found.fit.method == "ML"
    assert list(found.table.columns) == ["parameter", "value", "zeta"]
    for name, rows in found.table.groupby("parameter"):
        assert rows["value"].is_monotonic_increasing
        assert rows["zeta"].is_monotonic_increasing, name
        assert 8 <= len(rows) <= 40
        assert rows["zeta"].max() > 2.5
        assert rows["zeta"].min() < -2.5 or name == "sd_blend[Intercept]"
    assert found.table.query("parameter == 'sd_blend[Intercept]'")["value"].min() == 0.0
    figure = found.plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(parameter_names(found.fit.model))
    assert "6 parameters" in repr(found)


def test_profile_of_some_parameters(fits):
    found = bl.profile(fits["sleepstudy"], ["sd_Subject", "sigma"], criterion="REML")
    assert found.fit is fits["sleepstudy"]
    assert [c.name for c in found.curves] == ["sd_Subject[Intercept]", "sd_Subject[Days]", "sigma"]


def test_every_bound_is_an_optimum_of_the_others(fits):
    for fit in fits.values():
        for curve in curves(fit, None, "ML")[1]:
            for side in (-1, 1):
                bound = curve.bound(side, Q95)
                assert curve.at(bound).converged


# posteriors


@pytest.fixture(scope="module")
def post(root):
    model = bl.load(root / "models/sleepstudy")
    return bl.sample(model, draws=200, tune=200, chains=2, seed=1, progress=False)


def test_posterior_intervals(post):
    found = bl.confint(post, 0.9)
    assert list(found.index) == list(parameter_names(post.model))
    for name, draws in {"fixef[Days]": post.draws("fixef")[:, 1], "sigma": post.draws("sigma")}.items():
        np.testing.assert_allclose(found.loc[name], np.quantile(draws, [0.05, 0.95]), rtol=1e-3)
    narrow = bl.confint(post, 0.9, "hdi", "sd_Subject")
    assert list(narrow.index) == ["sd_Subject[Intercept]", "sd_Subject[Days]"]
    assert (narrow.diff(axis=1)["upper"] <= found.loc[narrow.index].diff(axis=1)["upper"] * 1.02).all()


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "eti"}, "not for a point fit; use 'wald', 'profile' or 'bootstrap'"),
        ({"method": "likelihood"}, "use 'wald', 'profile' or 'bootstrap'"),
        ({"level": 95}, "between 0 and 1"),
        ({"level": "95%"}, "between 0 and 1"),
        ({"parameters": "sd_Subjects"}, r"no parameter 'sd_Subjects'.*sd_Subject\[Days\]"),
        ({"method": "profile", "parameters": ["sigma", "tau"]}, "no parameter 'tau'"),
        ({"criterion": "REML"}, 'for method="profile"'),
        ({"method": "profile", "criterion": "restricted"}, 'use "ML" or "REML"'),
        ({"method": "profile", "criterion": "REML", "parameters": "fixef[Days]"}, "REML integrates β out"),
    ],
)
def test_what_has_no_meaning_is_refused(fits, options, message):
    with pytest.raises(MethodError, match=message):
        bl.confint(fits["sleepstudy"], **options)


def test_results_without_a_profile(fits, post):
    model = fits["sleepstudy"].model
    with pytest.raises(MethodError, match="prior of a MAP fit"):
        bl.profile(bl.fit(model, "MAP"))
    with pytest.raises(MethodError, match="holds parameters"):
        bl.confint(bl.fit(model, fixed={"sigma": 25.0}), method="profile")
    with pytest.raises(MethodError, match="a Posterior has none"):
        bl.profile(post)
    with pytest.raises(MethodError, match="not for a posterior; use 'eti' or 'hdi'"):
        bl.confint(post, method="wald")
    with pytest.raises(MethodError, match="confint takes"):
        bl.confint(model)


def test_a_local_optimum_is_found_out_and_left_as_the_message_says():
    rng = np.random.default_rng(128)
    groups, size = int(rng.integers(3, 10)), int(rng.integers(3, 7))
    g, h = np.repeat(np.arange(groups), size), rng.integers(0, 5, groups * size)
    x, w = np.tile(np.arange(float(size)), groups), rng.normal(size=groups * size)
    u = rng.normal(size=(groups, 3)) * np.array([2, 0.5, 0.3]) * rng.integers(0, 2, 3)
    y = 1 + (0.3 + u[g, 1]) * (x - x.mean()) + u[g, 0] + u[g, 2] * w + rng.normal(size=groups * size)
    model = bl.Model("y ~ x + (x || g) + (1 | h)", {"y": y, "x": x, "g": g, "h": h})
    fit = bl.fit(model, start=[1.536, 0.711, 0.663])
    with pytest.raises(MethodError, match="local optimum only") as found:
        bl.confint(fit, method="profile", criterion="REML")
    better = eval(str(found.value).split("profile that: ")[1], {"bl": bl, "model": model})
    assert better.deviance < fit.deviance - 0.3
    assert len(bl.confint(better, method="profile", criterion="REML")) == 4


def test_series_are_frames_by_name(fits):
    found = bl.confint(fits["sleepstudy"])
    assert isinstance(found, pd.DataFrame)
    assert found.index.name == "parameter"


# bootMer of lme4's REML fit of sleepstudy, percentiles 2.5 and 97.5 of nsim refits: seed 5 with 500, where the effects
# are stored as σθ (so of the slopes' sd and the correlation only this much), and seed 11 with 600 of VarCorr's own.
BOOTMER = {
    500: {"fixef[Intercept]": (237.498886864304, 265.128739550282), "fixef[Days]": (7.80809072596983, 13.513406495413),
          "sd_Subject[Intercept]": (13.9863815098453, 36.6688868109203), "sigma": (22.6749990446865, 28.7347776672648)},
    600: {"fixef[Intercept]": (237.7081, 265.0800), "fixef[Days]": (7.58192, 13.37854),
          "sd_Subject[Intercept]": (12.64165, 35.26376), "sd_Subject[Days]": (3.332332, 8.218326),
          "corr_Subject[Intercept, Days]": (-0.4992053, 0.8101614), "sigma": (22.51021, 28.44463)},
}  # fmt: skip


@pytest.fixture(scope="module")
def refits():
    return bl.bootstrap(bl.fit(bl.load("models/sleepstudy")), 600, seed=1, progress=False).draws


@pytest.mark.parametrize("nsim", BOOTMER)
def test_percentiles_of_refits_are_those_of_bootmer(nsim, refits):
    """Quantiles of independent samples: q sits between order statistics 4 binomial standard errors apart, both sides."""
    reach = 4 * np.sqrt(0.025 * 0.975 * (1 / nsim + 1 / 600))
    for name, (low, high) in BOOTMER[nsim].items():
        for q, value in ((0.025, low), (0.975, high)):
            inside = np.quantile(refits[name], np.clip([q - reach, q + reach], 0.0, 1.0))
            assert inside[0] <= value <= inside[1], (name, q)


def test_bootstrap_intervals_are_quantiles_of_the_refits():
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    options = {"method": "bootstrap", "nsim": 100, "seed": 4, "progress": False}
    boot = bl.bootstrap(fit, 100, seed=4, progress=False)
    percentile = bl.confint(fit, level=0.9, **options)
    np.testing.assert_allclose(percentile, boot.confint(0.9).loc[percentile.index], rtol=1e-12)
    basic = bl.confint(fit, level=0.9, interval="basic", parameters="fixef[treat[C]]", **options)
    low, high = percentile.loc["fixef[treat[C]]"]
    twice = 2 * boot.estimate["fixef[treat[C]]"]
    np.testing.assert_allclose(basic.to_numpy(), [[twice - high, twice - low]], rtol=1e-12)
    assert basic.attrs["seed"] == 4


def test_bias_correction_moves_percentiles_by_the_share_below_the_estimate():
    """Efron's BC at level 0.9 by hand; no movement where half of the refits lie below."""
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    options = {"method": "bootstrap", "nsim": 200, "seed": 4, "progress": False, "parameters": "sigma", "level": 0.9}
    found = bl.confint(fit, interval="bias-corrected", **options).loc["sigma"]
    draws = bl.bootstrap(fit, 200, seed=4, progress=False).draws["sigma"]
    z0 = stats.norm.ppf((draws < fit.sigma).mean())
    tails = stats.norm.cdf(2 * z0 + stats.norm.ppf([0.05, 0.95]))
    np.testing.assert_allclose(found, np.quantile(draws, tails), rtol=1e-12)


def test_bootstrap_options_belong_to_the_bootstrap():
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    for options in ({"seed": 1}, {"interval": "basic"}, {"method": "profile", "interval": "basic"}):
        with pytest.raises(MethodError, match='are for method="bootstrap"'):
            bl.confint(fit, **options)
    with pytest.raises(MethodError, match="interval='bca' is not known"):
        bl.confint(fit, method="bootstrap", interval="bca")
    with pytest.raises(MethodError, match="use 'wald', 'profile' or 'bootstrap'"):
        bl.confint(fit, method="hdi")
