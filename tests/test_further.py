"""Priors of the coefficients of the formulas for dispersion and zeros: Bambi's by default, and what may be given."""

import math

import bambi
import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.distributions import Prior
from bayeslmm.errors import PriorError
from bayeslmm.exact.logpdf import encode, logpdf
from bayeslmm.further import FurtherPriors
from bayeslmm.graph.variables import LogitBeta, prior_variable

FAMILY = "zero_inflated_negativebinomial"


def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {"y": rng.poisson(1.0, 60), "x": rng.normal(4, 2, 60), "f": list("uvw") * 20, "zero": rng.normal(size=60)}
    )


def used(priors=None, zero="~ x + f", dispersion="~ x", terms="x") -> bl.Model:
    return bl.Model(f"y ~ {terms}", table(), family=FAMILY, zero=zero, dispersion=dispersion, priors=priors)


def test_defaults_are_bambis() -> None:
    frame = table()
    theirs = bambi.Model(bambi.Formula("y ~ x", "psi ~ x + f", "alpha ~ x"), frame, family=FAMILY).parameters
    for kind, name in (("zero", "psi"), ("dispersion", "alpha")):
        block = used().priors.further[kind]
        given = [theirs[name].intercept_term.prior, *(term.prior for term in theirs[name].common_terms.values())]
        assert {(prior.name, *np.unique([*prior.args.values()])) for prior in given} == {("Normal", 0, 1)}
        assert set(block.priors) == {Prior("Normal", mu=0, sigma=1)}
        assert block.shifted
    constant = bambi.Model("y ~ x", frame, family=FAMILY).parameters
    alone = used(zero=None, dispersion=None).priors
    assert (constant["psi"].prior.name, *constant["psi"].prior.args.values()) == ("Beta", 2, 2)
    assert alone.further["zero"].priors == (Prior("LogitBeta", alpha=2, beta=2),)
    assert constant["alpha"].prior.name == alone.noise.name == "HalfCauchy"


def test_a_default_intercept_is_at_the_predictor_means() -> None:
    """T takes γ to what the priors are of; a given Intercept is of the coefficient itself."""
    model = used()
    block = model.priors.further["zero"]
    np.testing.assert_allclose(block.transform[0], model.design.further["zero"].X.mean(axis=0))
    np.testing.assert_array_equal(block.transform[1:], np.eye(4)[1:])
    own = used({"zero[Intercept]": Prior("Normal", mu=0, sigma=2)}).priors.further["zero"]
    np.testing.assert_array_equal(own.transform, np.eye(4))
    none = used(zero="~ 0 + x").priors.further["zero"]
    assert isinstance(none, FurtherPriors)
    np.testing.assert_array_equal(none.transform, [[1.0]])


def test_keys() -> None:
    wide, narrow = Prior("Normal", mu=0, sigma=5), Prior("StudentT", nu=4, mu=0, sigma=1)
    found = used({"zero": wide, "zero[x]": narrow, "dispersion[Intercept]": wide}).priors.parameters()
    assert found["zero[f[v]]"] == found["zero[Intercept]"] == found["dispersion[Intercept]"] == wide
    assert found["zero[x]"] == narrow
    assert found["dispersion[x]"] == Prior("Normal", mu=0, sigma=1)
    assert "alpha" not in found


@pytest.mark.parametrize(
    ("priors", "said"),
    [
        ({"alpha": Prior("HalfNormal", sigma=1)}, r"called 'alpha'.*Valid keys: .*dispersion, zero,.*zero\[f\[w\]\]"),
        ({"zero[z]": Prior("Normal")}, r"Did you mean 'zero\[x\]'"),
        ({"psi": Prior("Beta", alpha=1, beta=1)}, "called 'psi'"),
        ({"dispersion": Prior("Beta", alpha=1, beta=1)}, "has no meaning here"),
        ({"zero[Intercept]": Prior("Beta", mu=0.5, sigma=0.1)}, "A Beta with alpha and beta"),
        ({"zero": Prior("LKJ", eta=1)}, "is a prior for correlations"),
    ],
)
def test_what_is_refused(priors, said) -> None:
    with pytest.raises(PriorError, match=said):
        used(priors)


def test_a_column_called_zero_keeps_its_name() -> None:
    """The plain key is the formula's, the column's is under fixef."""
    wide = Prior("Normal", mu=0, sigma=5)
    found = used({"zero": wide, "fixef[zero]": Prior("Normal", mu=0, sigma=3)}, terms="zero").priors.parameters()
    assert found["zero[x]"] == wide
    assert found["fixef[zero]"] == Prior("Normal", mu=0, sigma=3)


def test_flat_is_flat_on_the_whole_line() -> None:
    assert set(used("flat").priors.further["zero"].priors) == {Prior("Flat")}
    assert used("flat").priors.flat
    assert not used({"fixef": Prior("Flat")}).priors.flat


@pytest.mark.parametrize("x", [-700.0, -3.0, 0.0, 0.4, 700.0])
def test_the_logit_of_a_beta(x) -> None:
    """log Beta(p) + log p(1 − p) where p has digits; linear in the tails, whose slopes are α and −β."""
    value, slope = logpdf(*encode("LogitBeta", {"alpha": 2.0, "beta": 5.0}), x)
    constant = math.lgamma(7) - math.lgamma(2) - math.lgamma(5)
    if abs(x) < 30:
        p = 1 / (1 + math.exp(-x))
        assert value == pytest.approx(stats.beta(2, 5).logpdf(p) + math.log(p * (1 - p)), rel=1e-12)
        assert slope == pytest.approx(2 - 7 * p, rel=1e-12)
    else:
        assert value == pytest.approx(constant + (2 * x if x < 0 else -5 * x), rel=1e-12)
        assert slope == (2 if x < 0 else -5)


def test_the_graph_has_it_too() -> None:
    """Density, and draws whose inverse logits have Beta's mean and variance within five standard errors."""
    with pm.Model(coords={"k": ["a", "b"]}) as graph:
        prior_variable("v", [Prior("LogitBeta", alpha=2, beta=5), Prior("Normal", mu=0, sigma=2)], dims="k")
    point = np.array([-0.7, 1.1])
    want = logpdf(*encode("LogitBeta", {"alpha": 2.0, "beta": 5.0}), -0.7)[0] + stats.norm(0, 2).logpdf(1.1)
    assert float(graph.compile_logp(mode="FAST_COMPILE")({"v": point})) == pytest.approx(want, rel=1e-12)
    p = 1 / (1 + np.exp(-pm.draw(LogitBeta.dist(2.0, 5.0), 4000, random_seed=1)))
    truth = stats.beta(2, 5)
    assert abs(p.mean() - truth.mean()) < 5 * truth.std() / np.sqrt(4000)
    assert p.var() == pytest.approx(truth.var(), rel=5 * np.sqrt(2 / 4000))
