"""The same model in Bambi: its joint density, its priors, and what it cannot say."""

import bambi
import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import NotSupportedError
from bayeslmm.family import family_of
from bayeslmm.graph.hierarchical import build

QUICK = "FAST_COMPILE"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(11)
    n = 48
    return pd.DataFrame(
        {
            "y": rng.normal(3, 2, n), "x": rng.normal(4, 1, n), "known": rng.normal(size=n),
            "f": np.tile(list("uvwu"), 12), "g": np.repeat(np.arange(8), 6), "h": np.tile(["p", "q", "r"], 16),
        }
    )  # fmt: skip


def our_point(model, rng):
    """Random values of our non-centred graph's variables, and those of Bambi's graph for the same model."""
    p, theirs = len(model.design.fixed.names), {}
    values = {"fixef": rng.normal(size=p), "sigma": np.array(rng.uniform(0.5, 2))}
    ours = {"fixef": values["fixef"], "sigma_log__": np.log(values["sigma"])}
    theirs |= {"sigma_log__": np.log(values["sigma"])}
    for group in model.groups:
        k, q = len(model.effects(group)), len(model.levels(group))
        sd, z = rng.uniform(0.3, 2, k), rng.normal(size=(q, k))
        ours |= {f"sd_{group}_log__": np.log(sd), f"z_{group}": z}
        column = group.replace(":", "__")
        for a, effect in enumerate(model.effects(group)):
            name = f"{'1' if effect == 'Intercept' else effect}|{column}"
            theirs |= {f"{name}_sigma_log__": np.log(sd[a]), f"{name}_offset": z[:, a]}
    return ours, theirs, values["fixef"]


def bambi_coefficients(model, graph, beta):
    """Our coefficients as Bambi's graph has them: columns of a factor in one vector, intercept at the predictor means."""
    names, found = model.design.fixed.names, {}
    shift = model.priors.fixef_transform @ beta
    for j, name in enumerate(names):
        key = "Intercept" if name == "Intercept" else "".join(part.split("[")[0] for part in name.split("]"))
        found.setdefault(key, []).append(shift[j])
    sizes = {v.name: v.type.ndim for v in graph.value_vars}
    return {key: np.array(own) if sizes[key] else np.array(own[0]) for key, own in found.items()}


MODELS = {
    "two effects": ("y ~ x + f + (x || g)", None),
    "crossed, nested, offset, interaction": ("y ~ f * x + offset(known) + (1 | g) + (1 | h / f)", None),
    "a given intercept": (
        "y ~ x + (1 | h)",
        {"Intercept": bl.Prior("Normal", mu=1, sigma=3), "x": bl.Prior("StudentT", nu=4, mu=0, sigma=2),
         "sd_h": bl.Prior("Exponential", lam=0.5), "sigma": bl.Prior("HalfNormal", sigma=2)},
    ),
    "no intercept": ("y ~ 0 + x + (0 + x | h)", {"fixef": bl.Prior("Normal", mu=0, sigma=3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_joint_densities_are_equal(name, data, rng):
    """At any point Bambi's log density is that of our non-centred graph; not up to a constant, but equal."""
    formula, priors = MODELS[name]
    model = bl.Model(formula, data, priors=priors)
    theirs = bl.to_bambi(model)
    theirs.build()
    other = theirs.backend.model.compile_logp(jacobian=False, mode=QUICK)
    own = build(model, "noncentred").compile_logp(jacobian=False, mode=QUICK)
    for _ in range(3):
        ours, point, beta = our_point(model, rng)
        point |= bambi_coefficients(model, theirs.backend.model, beta)
        assert other(point) == pytest.approx(own(ours), rel=1e-10)


OTHERS = {
    "binomial": ("binomial", {}),
    "gamma": ("gamma", {"link": "log"}),
    "zeros": ("zero_inflated_poisson", {}),
    "zeros with a normal prior": ("zero_inflated_poisson", {"priors": {"zero": bl.Prior("Normal", mu=1, sigma=2)}}),
    "formulas": ("hurdle_negativebinomial", {"zero": "~ x + f", "dispersion": "~ f"}),
    "beta-binomial": ("betabinomial", {"dispersion": "~ x"}),
    "sigma": ("gaussian", {"dispersion": "~ x + f"}),
    "a sigma for each level": ("gaussian", {"dispersion": "~ 0 + f"}),
}


def formula_points(model, gamma):
    """Our coefficients of the formulas for dispersion and zeros as Bambi's graph has them."""
    found = {}
    for kind, block in model.priors.further.items():
        sign, name = (-1.0, "psi") if kind == "zero" else (1.0, family_of(model.family).dispersion)
        shifted = sign * block.transform @ gamma[kind]
        for j, coefficient in enumerate(block.coefficients):
            found.setdefault(f"{name}_{coefficient.split('[')[0]}", []).append(shifted[j])
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_have_equal_densities(name, data, rng):
    """With their Jacobians, so that a Beta prior of a probability is one of its logit."""
    family, options = OTHERS[name]
    drawn = family_of(family).draws(rng, np.full(len(data), 0.4), 2.0, np.full(len(data), 5.0), 0.3)
    left = "p(y, m)" if family_of(family).of_trials else "y"
    model = bl.Model(f"{left} ~ x + f + (1 | g)", data.assign(y=drawn, m=5), family=family, **options)
    theirs = bl.to_bambi(model)
    theirs.build()
    other, own = (graph.compile_logp(mode=QUICK) for graph in (theirs.backend.model, build(model, "noncentred")))
    scalar = {v.name: v.type.ndim == 0 for v in theirs.backend.model.value_vars}
    for _ in range(3):
        beta, sd, z, phi = rng.normal(size=4), rng.normal(size=1), rng.normal(size=(8, 1)), np.array(rng.normal())
        gamma = {kind: rng.normal(size=len(block.names)) for kind, block in model.design.further.items()}
        ours = {"fixef": beta, "sd_g_log__": sd, "z_g": z, **gamma} | (
            {f"{model.dispersion}_log__": phi} if model.dispersion else {}
        )
        point = formula_points(model, gamma) | {"1|g_sigma_log__": sd[0], "1|g_offset": z[:, 0]}
        point |= {f"{model.dispersion}_log__": phi} | {"psi_logodds__": point.get("psi_Intercept")}
        point |= bambi_coefficients(model, theirs.backend.model, beta)
        point = {key: np.array(np.ravel(point[key])[0] if one else point[key]) for key, one in scalar.items()}
        assert other(point) == pytest.approx(own(ours), rel=1e-10, abs=1e-8)


def test_priors_are_the_same(data):
    model = bl.Model("y ~ x + f + (x || g)", data)
    theirs = bl.to_bambi(model).parameters["mu"]
    by_name = dict(zip(model.design.fixed.names, model.priors.fixef, strict=True))
    assert theirs.common_terms["x"].prior.args["sigma"] == by_name["x"].args["sigma"]
    np.testing.assert_array_equal(
        theirs.common_terms["f"].prior.args["sigma"], [by_name["f[v]"].args["sigma"], by_name["f[w]"].args["sigma"]]
    )
    assert theirs.intercept_term.prior.args["sigma"] == by_name["Intercept"].args["sigma"]
    for name, prior in zip(("1|g", "x|g"), model.priors.sd["g"], strict=True):
        assert theirs.group_specific_terms[name].prior.args["sigma"].args["sigma"] == prior.args["sigma"]


def test_default_priors_are_those_bambi_would_choose(data):
    ours = bl.to_bambi(bl.Model("y ~ x + f + (x || g)", data)).parameters["mu"]
    own = bambi.Model("y ~ x + f + (1|g) + (0 + x|g)", data).parameters["mu"]
    for name, term in own.common_terms.items():
        np.testing.assert_allclose(ours.common_terms[name].prior.args["sigma"], term.prior.args["sigma"], rtol=1e-12)
    for name, term in own.group_specific_terms.items():
        scale = ours.group_specific_terms[name].prior.args["sigma"].args["sigma"]
        assert scale == pytest.approx(term.prior.args["sigma"].args["sigma"], rel=1e-12)


def test_a_group_that_is_a_predictor_as_well_stays_a_number(data):
    model = bl.Model("y ~ g + (1 | g)", data)
    theirs = bl.to_bambi(model)
    assert theirs.data["g"].dtype.kind == "i"
    assert "1|g__level" in theirs.parameters["mu"].group_specific_terms
    assert list(theirs.data["g__level"].cat.categories) == list(model.levels("g"))


def test_dropped_rows_are_dropped(data):
    gaps = data.assign(x=data.x.where(data.index % 7 > 0))
    model = bl.Model("y ~ np.exp(x) + (1 | h)", gaps)
    assert len(bl.to_bambi(model).data) == model.design.nobs < len(data)


COUNTS = {"family": "zero_inflated_poisson", "zero": "~ x"}
HALF, LINE = bl.Prior("HalfNormal", sigma=1), bl.Prior("Normal", mu=0, sigma=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "bernoulli", "data": {"y": list("abab") * 6, "x": range(24), "g": list("uvw") * 8}}, "as 0 and 1"),
        ({"family": "negativebinomial1"}, "no family 'negativebinomial1'"),
        (COUNTS | {"priors": {"zero[x]": HALF}}, r"HalfNormal\(sigma=1\) of the other sign"),
        (COUNTS | {"priors": {"zero[Intercept]": LINE}}, "at the predictor means, or none"),
    ],
)
def test_what_bambi_cannot_say_of_counts_is_named(options, message, data):
    with pytest.raises(NotSupportedError, match=message):
        bl.to_bambi(bl.Model("y ~ x + (1 | g)", **({"data": data.assign(y=np.arange(len(data)) % 3)} | options)))


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("y ~ x + (x | g)", {}, r"correlated effects.*'g'.*\|\|"),
        ("y ~ x + (f || g)", {}, "one column of a factor"),
        ("y ~ x + (1 | g)", {"weights": "w"}, "weights"),
        ("y ~ x + (1 | g)", {"offset": "known"}, r"offset\(column\)"),
        ("y ~ f + (1 | g)", {"contrasts": {"f": "sum"}}, "contrasts="),
        ("y ~ x + I(2 * x) + (1 | g)", {}, "linearly dependent"),
        (
            "y ~ f + (1 | g)",
            {"priors": {"f[v]": bl.Prior("StudentT", nu=3, mu=0, sigma=1)}},
            "one prior family for all columns of 'f'",
        ),
    ],
)
def test_what_bambi_cannot_say_is_named(formula, options, message, data):
    wide = data.assign(w=np.linspace(1, 2, len(data)))
    with pytest.raises(NotSupportedError, match=message):
        bl.to_bambi(bl.Model(formula, wide, **options))


@pytest.mark.slow
def test_posteriors_agree(data):
    """Bambi's NUTS on its own graph, ours on the collapsed density: means within Monte Carlo error."""
    rng = np.random.default_rng(3)
    level = rng.normal(size=(8, 2)) * [2, 1]
    table = data.assign(y=1 + data.x + level[data.g, 0] + level[data.g, 1] * (data.x - 4) + rng.normal(size=48))
    table["x"] -= 4
    model = bl.Model("y ~ x + (x || g)", table)
    theirs = bl.to_bambi(model).fit(
        draws=1000,
        tune=1000,
        chains=2,
        cores=2,
        random_seed=1,
        progressbar=False,
        inference_method="nutpie",
        nuts={"target_accept": 0.9},
    )
    ours = bl.sample(model, draws=1000, chains=4, seed=2, progress=False)
    names = {
        "fixef[Intercept]": "Intercept",
        "fixef[x]": "x",
        "sd_g[Intercept]": "1|g_sigma",
        "sd_g[x]": "x|g_sigma",
        "sigma": "sigma",
    }
    import arviz as az

    other, own = az.summary(theirs, round_to="none"), ours.summary()
    for mine, name in names.items():
        for value, error in (("mean", "mcse_mean"), ("sd", "mcse_sd")):
            gap = own.loc[mine, value] - other.loc[name, value]
            # ten comparisons: a normal deviate beyond 4 among them has probability 6e-4
            assert abs(gap) < 4 * np.hypot(own.loc[mine, error], other.loc[name, error]), (mine, value)


def test_formulas_that_bambi_cannot_read_are_named(data):
    with pytest.raises(NotSupportedError, match=r"Bambi cannot read.*column of the data"):
        bl.to_bambi(bl.Model("y ~ 0 + cc(x, df=4) + (1 | g)", data))
