"""What a prior is, which ones a model has in use, and that the default ones are Bambi's."""

import copy
import math
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from scipy import stats

from bayeslmm.errors import PriorError
from bayeslmm.priors import Prior, Priors, resolve

MODEL = {
    "coefficient_names": ("Intercept", "x", "f[b]"),
    "column_means": (1.0, 4.5, 0.25),
    "column_sds": (0.0, 2.0, 0.4),
    "has_intercept": True,
    "response_mean": 300.0,
    "response_sd": 50.0,
    "groups": {"g": (("Intercept", "x"), (0.0, 2.0), True), "b:a": (("Intercept",), (math.nan,), False)},
}
WIDE = math.sqrt(125**2 + (125 / 2 * 4.5) ** 2 + (125 / 0.4 * 0.25) ** 2)


def used(given=None, **changes) -> Priors:
    return resolve(given, **{**MODEL, **changes})


# ---------------------------------------------------------------------------------------------- one prior


def test_defaults_of_the_arguments_are_pymcs():
    assert Prior("Normal").args == {"mu": 0, "sigma": 1}
    assert Prior("HalfNormal").args == {"sigma": 1}
    assert Prior("StudentT", nu=3).args == {"nu": 3, "mu": 0, "sigma": 1}
    assert Prior("Exponential").args == {"lam": 1}
    assert Prior("InverseGamma", alpha=3).args == {"alpha": 3, "beta": 1}
    assert Prior("Uniform").args == {"lower": 0, "upper": 1}
    assert Prior("Flat").args == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Prior("Normal", mu=1, tau=4), Prior("Normal", mu=1, sigma=0.5)),
        (Prior("HalfStudentT", nu=4, lam=0.25), Prior("HalfStudentT", nu=4, sigma=2)),
        (Prior("Exponential", scale=4), Prior("Exponential", lam=0.25)),
        (Prior("Gamma", mu=4, sigma=2), Prior("Gamma", alpha=4, beta=1)),
        (Prior("InverseGamma", mu=2, sigma=2), Prior("InverseGamma", alpha=3, beta=4)),
        (Prior("HalfNormal", sigma=np.array(10.0)), Prior("HalfNormal", sigma=10)),
        (Prior("HalfNormal", sigma=np.array([10])), Prior("HalfNormal", auto_scale=False, sigma=np.float32(10))),
        (Prior("Weibull", beta=2, alpha=1), Prior("Weibull", alpha=1, beta=2)),
    ],
    ids=str,
)
def test_the_same_prior_written_in_two_ways(one, other):
    assert one == other
    assert hash(one) == hash(other)
    assert eval(repr(one), {one.name: partial(Prior, one.name)}) == one


def test_text():
    assert repr(Prior("HalfNormal", sigma=10)) == "HalfNormal(sigma=10)"
    assert repr(Prior("Flat")) == "Flat()"
    assert repr(Prior("Normal", sigma=1 / 3)) == "Normal(mu=0, sigma=0.3333333333333333)"
    assert str(Prior("Normal", mu=298.5078, sigma=1 / 3)) == "Normal(mu=298.5, sigma=0.3333)"
    assert repr(Prior("Binomial", n=3, p=0.5)) == "Binomial(n=3, p=0.5)"


def test_a_prior_is_a_value():
    prior = Prior("StudentT", nu=3, sigma=2)
    assert pickle.loads(pickle.dumps(prior)) == copy.deepcopy(prior) == prior
    assert len({prior, Prior("StudentT", sigma=2, nu=3)}) == 1
    with pytest.raises(AttributeError):
        prior.name = "Normal"
    prior.args["nu"] = 7.0
    assert prior.args["nu"] == 3


def test_what_is_known_about_a_prior():
    known = {
        name: Prior(name).nonnegative for name in ("Normal", "HalfNormal", "Flat", "HalfFlat", "Cauchy", "Weibull")
    }
    assert known == {
        "Normal": False,
        "HalfNormal": True,
        "Flat": False,
        "HalfFlat": True,
        "Cauchy": False,
        "Weibull": None,
    }
    assert Prior("Uniform", lower=0, upper=9).nonnegative is True
    assert Prior("Uniform", lower=-1, upper=9).nonnegative is False
    assert [Prior(name).closed_form for name in ("LogNormal", "Weibull", "Cauchy")] == [True, False, False]
    assert [Prior(name).proper for name in ("LogNormal", "Weibull", "Flat", "HalfFlat")] == [True, True, False, False]


def test_a_prior_from_a_table_and_from_bambis_class():
    class Theirs:
        name, args, auto_scale, dist, noncentered = (
            "Normal",
            {"mu": np.array(0.0), "sigma": np.array(2.5)},
            False,
            None,
            None,
        )

    prior = Prior("Normal", mu=0, sigma=2.5)
    assert Prior.of(prior) is prior
    assert Prior.of({"name": "Normal", "sigma": 2.5}) == prior
    assert Prior.of(Theirs()) == prior


MALFORMED = [
    (lambda: Prior("HalfNormal", sigma=-1), "HalfNormal: sigma=-1 must be positive"),
    (lambda: Prior("Normal", sigma=0), "sigma=0 must be positive"),
    (lambda: Prior("Normal", mean=0), "no argument 'mean'; it takes mu, sigma, tau"),
    (lambda: Prior("Flat", sigma=1), "takes no arguments"),
    (lambda: Prior("Normal", sigma=1, tau=1), "give sigma or tau, not both"),
    (lambda: Prior("Gamma", alpha=2, mu=1), "give alpha and beta or mu and sigma, not both"),
    (lambda: Prior("Gamma", mu=1), "Gamma needs sigma beside mu"),
    (lambda: Prior("Gamma", alpha=2), r"Gamma needs beta: Prior\('Gamma', beta=...\)"),
    (lambda: Prior("Gamma", mu=-1, sigma=1), "mu=-1 must be positive"),
    (lambda: Prior("Gamma", mu=1e200, sigma=1e-200), "not finite"),
    (lambda: Prior("StudentT", sigma=2), "StudentT needs nu"),
    (lambda: Prior("HalfCauchy"), "HalfCauchy needs beta"),
    (lambda: Prior("Uniform", lower=2, upper=1), "lower=2 must be below upper=1"),
    (lambda: Prior("LKJ", eta=0), "eta=0 must be positive"),
    (lambda: Prior("Normal", sigma=math.inf), r"not finite. .* Prior\('Flat'\)"),
    (lambda: Prior("Normal", mu=math.nan), "mu=nan is not finite"),
    (lambda: Prior("Normal", mu="zero"), "mu='zero' is not a number"),
    (lambda: Prior("Normal", mu=True), "not a number"),
    (lambda: Prior("Normal", sigma=[1, [2]]), "one number for each argument"),
    (lambda: Prior("Normal", sigma=np.ones(3)), "one number for each argument"),
    (lambda: Prior("Normal", mu=0, sigma=Prior("HalfNormal")), "itself a prior.*'sd_<group>'"),
    (lambda: Prior("halfnormal", sigma=1), "did you mean 'HalfNormal'"),
    (lambda: Prior(3), "begins with the name of its distribution"),
    (lambda: Prior("N(0, 1)"), "begins with the name of its distribution"),
    (lambda: Prior("Normal", dist=print), "dist= is not supported"),
    (lambda: Prior("Normal", noncentered=True), "noncentered= is not part of a prior"),
    (lambda: Prior("Weibull", alpha=[1, 2]), "not a number"),
    (lambda: Prior.of(10), "10 is not a prior: write Prior.*fixed= in fit"),
    (lambda: Prior.of("Normal"), "'Normal' is not a prior"),
    (lambda: Prior.of({"sigma": 2}), "needs its name"),
    (
        lambda: used({"sigm": Prior("HalfNormal")}),
        "called 'sigm'. Did you mean 'sigma'.*Valid keys: fixef, sd_g, corr_g",
    ),
    (lambda: used({"common": Normal}), "Did you mean 'fixef'"),
    (lambda: used({"1|g": Normal}), "Did you mean 'sd_g'"),
    (lambda: used({"sd_g[y]": Prior("HalfNormal")}), r"Did you mean 'sd_g\[x\]'"),
    (lambda: used({3: Prior("HalfNormal")}), "called 3"),
    (lambda: used({"corr_b:a": Prior("LKJ", eta=2)}), "no two effects of 'b:a' are correlated"),
    (lambda: used({"corr_g": Prior("Uniform")}), r"corr_g: correlations take Prior\('LKJ'"),
    (lambda: used({"sigma": Prior("LKJ", eta=2)}), "sigma: .* prior for correlations"),
    (lambda: used({"x": Prior("LKJ", eta=2)}), r"fixef\[x\]: .* prior for correlations"),
    (lambda: used({"sigma": Normal}), "reaches below zero; use HalfNormal"),
    (lambda: used({"sd_g": Prior("StudentT", nu=3)}), r"sd_g\[Intercept\] .* use HalfStudentT"),
    (lambda: used({"sd_g": Prior("Cauchy", alpha=0, beta=1)}), "use HalfCauchy"),
    (lambda: used({"sd_g": Prior("Laplace", mu=0, b=1)}), "use HalfNormal"),
    (lambda: used({"sd_g": Prior("Uniform", lower=-1)}), "use lower=0 or above"),
    (lambda: used({"x": Normal, "fixef[x]": Normal}), "name the same coefficient"),
    (lambda: used({"sd_b:a": Half, "sd_b:a[Intercept]": Half}), "'sd_b:a' applies to nothing"),
    (lambda: used("uniform"), "takes None, 'flat', or a dict"),
    (lambda: used([Normal]), "takes None, 'flat', or a dict"),
    (lambda: used(response_sd=0.0), "no default prior: its scale would be 0.*priors={"),
    (lambda: used(response_sd=math.nan), "no default prior"),
    (lambda: used(has_intercept=False, column_means=(0.0, 4.5, 0.25)), "its column is zero in every row"),
]
Normal, Half = Prior("Normal"), Prior("HalfNormal")


@pytest.mark.parametrize(("call", "message"), MALFORMED, ids=[message[:40] for _, message in MALFORMED])
def test_malformed(call, message):
    with pytest.raises(PriorError, match=f"(?s){message}"):
        call()


# ---------------------------------------------------------------------------------------------- default scales


def test_default_scales_by_hand():
    priors = used()
    assert priors.fixef == (
        Prior("Normal", mu=300, sigma=priors.fixef[0].args["sigma"]),
        Prior("Normal", sigma=125 / 2),
        Prior("Normal", sigma=125 / 0.4),
    )
    assert priors.fixef[0].args["sigma"] == pytest.approx(WIDE, rel=1e-14)
    assert [p.name for p in (*priors.sd["g"], *priors.sd["b:a"])] == ["HalfNormal"] * 3
    assert priors.sd["g"][0].args["sigma"] == priors.sd["b:a"][0].args["sigma"] == pytest.approx(WIDE, rel=1e-14)
    assert priors.sd["g"][1].args["sigma"] == 125 / 2
    assert priors.corr == {"g": Prior("LKJ", eta=1), "b:a": None}
    assert priors.sigma == Prior("HalfStudentT", nu=4, sigma=50)
    assert priors.centred_intercept
    assert priors.gaussian
    assert not priors.flat
    assert priors.given == priors.chosen == frozenset()


def test_a_slope_with_a_prior_of_its_own_leaves_the_intercepts_scale():
    priors = used({"x": Prior("Normal", sigma=1)})
    assert priors.fixef[0].args["sigma"] == pytest.approx(math.hypot(125, 125 / 0.4 * 0.25), rel=1e-14)
    assert priors.centred_intercept


def test_scales_follow_units_to_the_ends_of_floating_point():
    columns = {"column_means": (1.0, 4.5e-200, 0.25), "column_sds": (0.0, 2e-200, 0.4), "groups": {}}
    far = used(response_mean=300e100, response_sd=50e100, **columns)
    assert far.fixef[0].args["sigma"] == pytest.approx(WIDE * 1e100, rel=1e-14)
    assert far.fixef[1].args["sigma"] == pytest.approx(62.5e300, rel=1e-14)
    assert used(response_sd=50e200, groups={}).fixef[0].args["sigma"] == pytest.approx(WIDE * 1e200, rel=1e-14)


def test_a_constant_column_is_an_intercept_in_its_units():
    means, sds = (0.1, 4.5), (1e-17, 2.0)
    priors = used(coefficient_names=("tenth", "x"), column_means=means, column_sds=sds, has_intercept=False, groups={})
    assert priors.fixef[0].args == pytest.approx({"mu": 3000, "sigma": math.hypot(125, 62.5 * 4.5) / 0.1})
    assert not priors.centred_intercept
    assert np.array_equal(priors.fixef_transform, np.eye(2))


def test_default_priors_are_bambis():
    import logging

    import bambi as bmb
    import pandas as pd

    logging.getLogger("pymc").setLevel(logging.ERROR)
    rng = np.random.default_rng(3)
    n = 90
    data = pd.DataFrame({"x": rng.normal(5, 2, n), "f": rng.choice(["u", "v", "w"], n), "g": np.arange(n) % 9})
    data["g"] = data["g"].astype(str)
    data["y"] = 250 + 3 * data["x"] + rng.normal(0, 20, n)
    theirs = bmb.Model("y ~ x + f + (x|g)", data)
    theirs.build()
    mean = theirs.parameters["mu"]
    X = np.column_stack([np.ones(n), data["x"], data["f"] == "v", data["f"] == "w"])
    ours = resolve(
        None,
        coefficient_names=("Intercept", "x", "f[v]", "f[w]"),
        column_means=X.mean(axis=0),
        column_sds=X.std(axis=0),
        has_intercept=True,
        response_mean=data["y"].mean(),
        response_sd=data["y"].std(ddof=0),
        groups={"g": (("Intercept", "x"), (0.0, data["x"].std(ddof=0)), True)},
    )

    def same(prior, other):
        assert prior.name == other.name
        assert prior.args == pytest.approx({key: float(value) for key, value in other.args.items()}, rel=1e-12)

    same(ours.fixef[0], mean.intercept_term.prior)
    same(ours.fixef[1], mean.common_terms["x"].prior)
    same(ours.sd["g"][0], mean.group_specific_terms["1|g"].prior.args["sigma"])
    same(ours.sd["g"][1], mean.group_specific_terms["x|g"].prior.args["sigma"])
    same(ours.sigma, theirs.parameters["sigma"].prior)
    levels = mean.common_terms["f"].prior
    assert [p.args["sigma"] for p in ours.fixef[2:]] == pytest.approx(list(levels.args["sigma"]), rel=1e-12)
    assert [p.args["mu"] for p in ours.fixef[2:]] == list(np.broadcast_to(levels.args["mu"], 2)) == [0, 0]

    # A slope's own prior leaves Bambi's intercept scale as it leaves ours, and Bambi's class is read as it is.
    slope = bmb.Prior("Normal", mu=0, sigma=2)
    other = bmb.Model("y ~ x + f + (x|g)", data, priors={"x": slope})
    other.build()
    priors = resolve(
        {"x": slope},
        coefficient_names=("Intercept", "x", "f[v]", "f[w]"),
        column_means=X.mean(axis=0),
        column_sds=X.std(axis=0),
        has_intercept=True,
        response_mean=data["y"].mean(),
        response_sd=data["y"].std(ddof=0),
        groups={},
    )
    same(priors.fixef[0], other.parameters["mu"].intercept_term.prior)
    assert priors.fixef[1] == Prior("Normal", sigma=2)


# ---------------------------------------------------------------------------------------------- given priors


def test_keys():
    half, narrow = Prior("HalfNormal", sigma=3), Prior("Exponential", lam=2)
    priors = used(
        {"Intercept": Normal, "fixef[x]": Normal, "sd_g": half, "sd_g[x]": narrow, "corr_g": Prior("LKJ", eta=3)}
    )
    assert priors.fixef[:2] == (Normal, Normal)
    assert priors.fixef[2] == Prior("Normal", sigma=125 / 0.4)
    assert priors.sd["g"] == (half, narrow)
    assert priors.corr["g"] == Prior("LKJ", eta=3)
    assert not priors.centred_intercept
    assert priors.given == {"Intercept", "fixef[x]", "sd_g", "sd_g[x]", "corr_g"}
    assert priors.chosen == {"fixef[Intercept]", "fixef[x]", "sd_g[Intercept]", "sd_g[x]", "corr_g"}


def test_fixef_is_all_the_others():
    wide = Prior("Normal", sigma=99)
    priors = used({"fixef": wide, "x": Normal})
    assert priors.fixef == (wide, Normal, wide)
    assert not priors.centred_intercept


def test_a_column_called_like_another_key():
    names = ("Intercept", "sigma", "sd_g")
    priors = used({"sigma": Half, "fixef[sigma]": Normal, "sd_g": Half}, coefficient_names=names)
    assert priors.sigma == Half
    assert priors.fixef[1] == Normal
    assert priors.sd["g"] == (Half, Half)
    assert priors.fixef[2] == Prior("Normal", sigma=125 / 0.4)


def test_flat():
    priors = used("flat")
    assert priors.flat
    assert priors.gaussian
    assert not priors.centred_intercept
    assert priors.fixef == (Prior("Flat"),) * 3
    assert {*priors.sd["g"], *priors.sd["b:a"], priors.sigma} == {Prior("HalfFlat")}
    assert priors.corr == {"g": Prior("LKJ", eta=1), "b:a": None}
    assert not priors.fixef_precision.any()
    assert priors.fixef_logconstant == 0
    assert priors.given == {"flat"}
    assert {source for _, _, source in priors.describe()} == {"given"}
    flat = Prior("Flat")
    written_out = used({"fixef": flat, "sd_g": flat, "sd_b:a": flat, "sigma": flat})
    assert written_out.flat
    assert written_out.sigma == Prior("HalfFlat")
    assert used("flat", response_sd=0.0).flat


def test_describe():
    rows = used({"sigma": Prior("HalfNormal", sigma=10), "sd_g[x]": Prior("Weibull", alpha=2, beta=1)}).describe()
    assert rows == [
        ("fixef[Intercept]", f"Normal(mu=300, sigma={WIDE:.4g}) at the predictor means", "default"),
        ("fixef[x]", "Normal(mu=0, sigma=62.5)", "default"),
        ("fixef[f[b]]", "Normal(mu=0, sigma=312.5)", "default"),
        ("sd_g[Intercept]", f"HalfNormal(sigma={WIDE:.4g})", "default"),
        ("sd_g[x]", "Weibull(alpha=2, beta=1)", "given"),
        ("sd_b:a[Intercept]", f"HalfNormal(sigma={WIDE:.4g})", "default"),
        ("corr_g", "LKJ(eta=1)", "default"),
        ("sigma", "HalfNormal(sigma=10)", "given"),
    ]


def test_no_coefficients_and_no_groups():
    priors = used(coefficient_names=(), column_means=(), column_sds=(), has_intercept=False, groups={})
    assert priors.fixef_precision.shape == (0, 0)
    assert priors.fixef_mean.shape == (0,)
    assert list(priors.parameters()) == ["sigma"]
    with pytest.raises(PriorError, match="called 'fixef'"):
        used({"fixef": Normal}, coefficient_names=(), column_means=(), column_sds=(), has_intercept=False)


# ---------------------------------------------------------------------------------------------- the joint normal


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"x": Prior("Normal", mu=7, sigma=3)},
        {"Intercept": Prior("Normal", mu=250, sigma=9)},
        {"x": Prior("Flat")},
        {"Intercept": Prior("Flat"), "f[b]": Prior("Normal", mu=-1)},
        {"fixef": Prior("Normal", sigma=10)},
    ],
    ids=str,
)
def test_joint_normal_is_the_change_of_variables(given):
    priors = used(given)
    rng = np.random.default_rng(0)
    means = np.array(MODEL["column_means"])
    for beta in rng.normal(0, 200, (5, 3)):
        # The Jacobian of (β₀ + Σ x̄ β, β₁, β₂) is 1.
        point = beta.copy()
        if priors.centred_intercept:
            point[0] = beta[0] + means[1:] @ beta[1:]
        expected = sum(
            stats.norm(**{"loc": p.args["mu"], "scale": p.args["sigma"]}).logpdf(v)
            for p, v in zip(priors.fixef, point, strict=True)
            if p.name == "Normal"
        )
        d = beta - priors.fixef_mean
        assert np.allclose(priors.fixef_transform @ beta, point, rtol=1e-13)
        assert priors.fixef_logconstant - 0.5 * d @ priors.fixef_precision @ d == pytest.approx(expected, rel=1e-11)
        assert np.sum((priors.fixef_root @ d) ** 2) == pytest.approx(
            d @ priors.fixef_precision @ d, rel=1e-11, abs=1e-12
        )
    assert np.linalg.det(priors.fixef_transform) == pytest.approx(1)


def test_other_priors_on_coefficients_have_no_joint_normal():
    priors = used({"x": Prior("StudentT", nu=3)})
    assert not priors.gaussian
    assert priors.fixef_mean is priors.fixef_root is priors.fixef_precision is priors.fixef_logconstant is None
    assert priors.centred_intercept
    assert priors.fixef_transform[0].tolist() == [1.0, 4.5, 0.25]


def test_priors_travel_between_processes():
    priors = used({"x": Normal})
    assert pickle.loads(pickle.dumps(priors)) == priors


def test_nothing_heavy_is_imported():
    check = "import sys, bayeslmm.priors; sys.exit(bool({'pymc', 'pandas', 'scipy', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
