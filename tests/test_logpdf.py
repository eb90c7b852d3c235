"""Log densities of the priors against SciPy, PyMC's constants, differences, and the limits of floating point."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import betaln

from bayeslmm.distributions import FAMILIES, Prior
from bayeslmm.errors import PriorError
from bayeslmm.exact.logpdf import encode, lkj_logconstant, log_gamma_step, logpdf, logpdf_sum

CASES = [
    (Prior("Normal", mu=-1.3, sigma=0.7), stats.norm(-1.3, 0.7)),
    (Prior("Normal", mu=1e6, sigma=3e5), stats.norm(1e6, 3e5)),
    (Prior("HalfNormal", sigma=2.5), stats.halfnorm(scale=2.5)),
    (Prior("StudentT", nu=3, mu=0.5, sigma=2), stats.t(3, 0.5, 2)),
    (Prior("StudentT", nu=0.4, sigma=0.01), stats.t(0.4, 0, 0.01)),
    (Prior("HalfCauchy", beta=1.7), stats.halfcauchy(scale=1.7)),
    (Prior("Exponential", lam=0.25), stats.expon(scale=4)),
    (Prior("Exponential", scale=40), stats.expon(scale=40)),
    (Prior("Gamma", alpha=2, beta=0.01), stats.gamma(2, scale=100)),
    (Prior("Gamma", alpha=0.5, beta=3), stats.gamma(0.5, scale=1 / 3)),
    (Prior("Gamma", mu=3, sigma=2), stats.gamma(9 / 4, scale=4 / 3)),
    (Prior("InverseGamma", alpha=1.5, beta=2), stats.invgamma(1.5, scale=2)),
    (Prior("InverseGamma", mu=3, sigma=2), stats.invgamma(2 + 9 / 4, scale=3 * (1 + 9 / 4))),
    (Prior("LogNormal", mu=0.4, sigma=0.8), stats.lognorm(0.8, scale=math.exp(0.4))),
    (Prior("Uniform", lower=-2, upper=5), stats.uniform(-2, 7)),
]
PRIORS = [prior for prior, _ in CASES] + [
    Prior("HalfStudentT", nu=4, sigma=3),
    Prior("Flat"),
    Prior("HalfFlat"),
    Prior("StudentT", nu=1e9, sigma=2),
]


def value(prior, x):
    return logpdf(*encode(prior.name, prior.args), float(x))[0]


def slope(prior, x):
    return logpdf(*encode(prior.name, prior.args), float(x))[1]


@pytest.mark.parametrize(("prior", "reference"), CASES, ids=[str(prior) for prior, _ in CASES])
def test_values_are_scipys(prior, reference):
    points = np.concatenate([reference.ppf(np.linspace(1e-6, 1 - 1e-6, 41)), [-1e3, -1.0, -1e-9, 1e-9, 1.0, 1e3]])
    expected = reference.logpdf(points)
    got = np.array([value(prior, x) for x in points])
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_half_student_t_is_the_folded_t():
    for x in (0.0, 1e-3, 1.0, 7.0, 1e5):
        expected = math.log(2) + stats.t(4, scale=3).logpdf(x)
        assert value(Prior("HalfStudentT", nu=4, sigma=3), x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("prior", [p for p in PRIORS if p.proper], ids=str)
def test_every_proper_prior_integrates_to_one(prior):
    lower = {"Uniform": -2.0}.get(prior.name, 0.0 if prior.nonnegative else -np.inf)
    upper = 5.0 if prior.name == "Uniform" else np.inf
    # The substitution x = m + s sinh t reaches both tails; a finite edge is met as sinh t = 0.
    scale = max(prior.args.get("sigma", 1.0), 1e-3)
    centre = prior.args.get("mu", 0.0) if lower == -np.inf else lower

    def integrand(t):
        return math.exp(value(prior, centre + scale * math.sinh(t))) * scale * math.cosh(t)

    start = -60.0 if lower == -np.inf else 0.0
    stop = 60.0 if upper == np.inf else math.asinh((upper - centre) / scale)
    edges = np.linspace(start, stop, 61)
    total = sum(integrate.quad(integrand, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(edges))
    # Gamma(1/2) has a pole at 0 and t with nu = 0.4 a tail beyond the last point: both cost digits of the quadrature.
    assert total == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_derivatives_are_central_differences(prior):
    for x in (1e-3, 0.3, 1.0, 2.7, 4.9, 31.0, 1e4):
        h = 1e-5 * x
        if not np.isfinite(value(prior, x + h)):
            continue
        numeric = (value(prior, x + h) - value(prior, x - h)) / (2 * h)
        # Rounding of a difference: eps |value| / h, beside the h² of the formula.
        noise = 4e-16 * max(1.0, abs(value(prior, x))) / h
        assert slope(prior, x) == pytest.approx(numeric, rel=1e-7, abs=4 * noise)


def test_derivatives_left_of_the_centre():
    for prior in (Prior("Normal", mu=3), Prior("StudentT", nu=5, mu=3, sigma=0.5)):
        numeric = (value(prior, -1 + 1e-5) - value(prior, -1 - 1e-5)) / 2e-5
        assert slope(prior, -1) == pytest.approx(numeric, rel=1e-8)
        assert slope(prior, -1) > 0


@pytest.mark.parametrize("prior", [p for p in PRIORS if p.nonnegative], ids=str)
@pytest.mark.parametrize("x", [-1e-300, -1.0, -1e200])
def test_nothing_below_zero_for_half_families(prior, x):
    assert logpdf(*encode(prior.name, prior.args), x) == (-math.inf, 0.0)


def test_uniform_ends_belong_to_it():
    prior = Prior("Uniform", lower=-2, upper=5)
    assert [value(prior, x) for x in (-2, 5)] == [pytest.approx(-math.log(7))] * 2
    assert [logpdf(*encode(prior.name, prior.args), x) for x in (-2.0001, 5.0001)] == [(-math.inf, 0.0)] * 2


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (Prior("HalfNormal", sigma=2), (0.5 * math.log(2 / math.pi) - math.log(2), 0.0)),
        (Prior("HalfCauchy", beta=2), (math.log(1 / math.pi), 0.0)),
        (Prior("Exponential", lam=2), (math.log(2), -2.0)),
        (Prior("Gamma", alpha=2, beta=2), (-math.inf, 0.0)),
        (Prior("Gamma", alpha=1, beta=2), (math.log(2), -2.0)),
        (Prior("Gamma", alpha=0.5, beta=2), (math.inf, 0.0)),
        (Prior("InverseGamma", alpha=2, beta=2), (-math.inf, 0.0)),
        (Prior("LogNormal"), (-math.inf, 0.0)),
        (Prior("HalfFlat"), (0.0, 0.0)),
    ],
    ids=str,
)
def test_at_zero(prior, expected):
    assert logpdf(*encode(prior.name, prior.args), 0.0) == pytest.approx(expected, rel=1e-14)


def test_a_missing_value_stays_one():
    assert all(np.isnan(logpdf(*encode(p.name, p.args), math.nan)).all() for p in PRIORS)


@pytest.mark.parametrize(
    ("prior", "x", "expected"),
    [
        # log x = log 10 × exponent, by hand; L = log 10
        (Prior("StudentT", nu=1, sigma=1), 1e200, -math.log(math.pi) - 400 * math.log(10)),
        (Prior("StudentT", nu=1, sigma=1e-200), 1e200, -math.log(math.pi) - 600 * math.log(10)),
        (Prior("StudentT", nu=1, sigma=1e-200), -1e200, -math.log(math.pi) - 600 * math.log(10)),
        (Prior("HalfCauchy", beta=1e-200), 1e200, math.log(2 / math.pi) - 600 * math.log(10)),
        (Prior("HalfCauchy", beta=1e200), 1e-200, math.log(2 / math.pi) - 200 * math.log(10)),
        (Prior("Normal", sigma=1e-200), 1e-200, -0.5 - 0.5 * math.log(2 * math.pi) + 200 * math.log(10)),
        (Prior("HalfNormal", sigma=1e200), 1e200, -0.5 + 0.5 * math.log(2 / math.pi) - 200 * math.log(10)),
        (Prior("Gamma", alpha=2, beta=1e-200), 1e200, -1 - 200 * math.log(10)),
        (Prior("InverseGamma", alpha=1, beta=1e-200), 1e-200, -1 + 200 * math.log(10)),
        (Prior("InverseGamma", alpha=1, beta=1), 1e200, -400 * math.log(10)),
        (Prior("LogNormal", mu=200 * math.log(10)), 1e200, -0.5 * math.log(2 * math.pi) - 200 * math.log(10)),
        (Prior("Exponential", lam=1e-200), 1e200, -1 - 200 * math.log(10)),
    ],
    ids=str,
)
def test_extreme_arguments_keep_finite_values_finite(prior, x, expected):
    # 1e-11: log Gamma and log x each carry an absolute rounding of eps × 1400.
    assert value(prior, x) == pytest.approx(expected, rel=1e-11)
    assert not math.isnan(slope(prior, x))


def test_extreme_derivatives():
    assert slope(Prior("StudentT", nu=3, sigma=1e-200), 1e200) == pytest.approx(-4e-200, rel=1e-12)
    assert slope(Prior("StudentT", nu=3, sigma=1), 1e100) == pytest.approx(-4e-100, rel=1e-12)
    assert slope(Prior("Normal", sigma=1e-100), 1e-100) == pytest.approx(-1e100, rel=1e-12)
    assert slope(Prior("InverseGamma", alpha=1, beta=1e-200), 1e-200) == pytest.approx(-1e200, rel=1e-12)


def test_many_degrees_of_freedom_are_the_normal():
    for nu in (1e6, 1e9, 1e14):
        for x in (0.0, 0.5, 3.0):
            assert value(Prior("StudentT", nu=nu), x) == pytest.approx(value(Prior("Normal"), x), abs=30 / nu + 1e-14)


@pytest.mark.parametrize("h", [1e-3, 0.5, 1.0, 7.3, 49.999, 50.0, 80.0])
def test_gamma_step(h):
    # Γ(h + 1/2)/Γ(h) times Γ(h + 1)/Γ(h + 1/2) is h.
    assert log_gamma_step(h) + log_gamma_step(h + 0.5) == pytest.approx(math.log(h), rel=1e-12, abs=1e-13)
    assert log_gamma_step(h) == pytest.approx(math.lgamma(h + 0.5) - math.lgamma(h), rel=1e-12, abs=1e-12)


def test_sum_and_gradient():
    priors = [Prior("Normal", sigma=2), Prior("Flat"), Prior("Gamma", alpha=2, beta=1)]
    x = np.array([0.7, -4.0, 1.3])
    encoded = [encode(p.name, p.args) for p in priors]
    codes = np.array([row[0] for row in encoded])
    arguments = np.array([row[1:] for row in encoded])
    gradient = np.full(3, np.nan)
    total = logpdf_sum(codes, arguments, x, gradient)
    assert total == pytest.approx(sum(value(p, v) for p, v in zip(priors, x, strict=True)), rel=1e-14)
    assert gradient.tolist() == [slope(p, v) for p, v in zip(priors, x, strict=True)]
    x[2] = -1.0
    assert logpdf_sum(codes, arguments, x, gradient) == -math.inf


def test_every_closed_form_has_a_code_except_lkj():
    for name, family in FAMILIES.items():
        args = {key: 1.5 if default is None else default for key, default in family.defaults.items()}
        if name == "LKJ":
            with pytest.raises(KeyError):
                encode(name, args)
        else:
            assert len(encode(name, Prior(name, **args).args)) == 4
    with pytest.raises(KeyError):
        encode("Weibull", {"alpha": 1.0})


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0, 7.5])
def test_lkj_of_one_correlation(eta):
    total = integrate.quad(lambda r: (1 - r * r) ** (eta - 1), -1, 1)[0]
    assert lkj_logconstant(2, eta) == pytest.approx(-math.log(total), rel=1e-8)
    assert lkj_logconstant(1, eta) == 0.0


@pytest.mark.parametrize("eta", [1.0, 2.0, 3.5])
def test_lkj_of_three_correlations_integrates_to_one(eta):
    nodes, weights = np.polynomial.legendre.leggauss(60)
    a, b = nodes[:, None, None], nodes[None, :, None]
    # Given two correlations, the third is ab + sqrt((1 - a²)(1 - b²)) t with |t| < 1.
    spread = np.sqrt((1 - a**2) * (1 - b**2))
    c = a * b + spread * nodes
    det = 1 + 2 * a * b * c - a**2 - b**2 - c**2
    total = np.einsum("ijk,i,j,k->", det ** (eta - 1) * spread, weights, weights, weights)
    # 1e-5: Gauss–Legendre with a square root at the ends of the interval.
    assert math.log(total) + lkj_logconstant(3, eta) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("k", [2, 3, 4, 6, 10])
@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0, 40.0])
def test_lkj_is_the_published_constant(k, eta):
    # Lewandowski, Kurowicka and Joe (2009), equations 16 and 17.
    steps = [(i, eta + (k - i - 1) / 2) for i in range(1, k)]
    published = sum((2 * eta - 2 + k - i) * (k - i) * math.log(2) + (k - i) * betaln(a, a) for i, a in steps)
    assert lkj_logconstant(k, eta) == pytest.approx(-published, rel=1e-11)


def test_an_invalid_prior_never_reaches_a_code():
    with pytest.raises(PriorError):
        encode("Normal", Prior("Normal", sigma=-1).args)


def test_values_are_pymcs():
    import pymc as pm
    import pytensor

    points = np.array([1e-3, 0.4, 1.0, 3.7, 60.0])
    # PyTensor makes a Python float that float32 can hold a float32, and takes its logarithm as one; not so NumPy's.
    args = [{key: np.float64(number) for key, number in prior.args.items()} for prior in PRIORS]
    graph = [pm.logp(getattr(pm, p.name).dist(**a), points) for p, a in zip(PRIORS, args, strict=True)]
    theirs = pytensor.function([], graph, mode="FAST_COMPILE")()
    for prior, expected in zip(PRIORS, theirs, strict=True):
        got = [value(prior, x) for x in points]
        # PyMC's log 2 in these two is a float32, and its difference of two log Gammas cancels at nu = 1e9.
        tolerance = 3e-9 if prior.name in ("HalfCauchy", "HalfStudentT") else 1e-12
        tolerance = 1e-6 if prior.args.get("nu") == 1e9 else tolerance
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=str(prior))
