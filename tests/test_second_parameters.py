"""Densities with a second parameter of each row, t responses and ordered categories: values, derivatives, extremes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import special, stats

from bayeslmm import thresholds
from bayeslmm.errors import DataError
from bayeslmm.exact.ordinal import category
from bayeslmm.exact.student import log_gamma_step, student_t
from bayeslmm.family import LINKS, family_of

STEP = 1e-5
# mpmath, 300 digits: log P and its derivatives by η (three), τ, ητ, ηητ, λ, ηλ, ηηλ at (link, η, τ, λ).
EXTREMES = {
    ("logit", 30, 1.0, -1.0): (-29.145413457869147, -0.9999999999997112, -2.8879133582226026e-13, 2.887913358221285e-13, 1.1565176427494113, 2.543665647375629e-13, -2.543665647374335e-13, -0.15651764274970006, 3.4424771084697395e-14, -3.442477108469502e-14),
    ("logit", -30, 0.5, 0.25): (-31.758691549446162, 0.9999999999998703, -1.2963409328450708e-13, -1.2963409328449001e-13, 3.520811664187855, 5.6756852326320784e-14, 5.675685232631434e-14, -4.520811664187725, 7.287724095818631e-14, 7.287724095817568e-14),
    ("logit", 0.5, 0.3000009536743164, 0.3): (-15.259221302436762, -0.09966775857474633, -0.4950331689503152, 0.049338846369426065, 1048576.0498338407, 0.24751659623845523, -0.024669365930792924, -1048575.9501660821, 0.24751657271185995, -0.024669480438633144),
    ("probit", 30, 1.0, -1.0): (-424.78741990973015, -29.034401237736326, -0.9988193395112325, -8.085119774858829e-05, 29.034401237736326, 0.9988193395112325, 8.085119774858829e-05, -2.542400469266873e-25, 4.997339215569551e-25, -9.819762064954544e-25),
    ("probit", -30, 0.5, 0.25): (-461.86127416444543, 30.282861194815197, -0.9989454515228272, 6.353076759827622e-05, 0.015257800953896467, 0.0033130606688766455, 0.000703303944383706, -30.29811899576909, 0.9956323908539505, -0.0007668347119819823),
    ("probit", 0.5, 0.3000009536743164, 0.3): (-14.801882049036298, -0.19999952316282665, -0.9999999999999242, -1.3786310673344844e-27, 1048576.0999996853, 0.5000000317890302, 1.5894571940103144e-07, -1048575.9000001621, 0.49999996821089404, -1.5894571940103144e-07),
    ("probit", 6.0, 0.3000009536743164, 0.3): (-31.026879426430696, -5.699999523162409, -0.9999999999999242, -3.929107580925283e-26, 1048578.8500022641, 0.5000009059904869, 1.5894571940056234e-07, -1048573.150002741, 0.4999990940094373, -1.5894571940056234e-07),
    ("cloglog", 30, 1.0, -1.0): (-29.145413457869005, -0.9999999999998556, -1.4439566791118796e-13, 1.443956679111799e-13, 1.1565176427495385, 1.2718328236883682e-13, -1.271832823688275e-13, -0.15651764274968286, 1.7212385542351143e-14, -1.7212385542352405e-14),
    ("cloglog", -2.0, 0.5, 0.25): (-9.557684936966814, 9.292490928982309, -9.856749303227694, 9.24438906545945, 0.882665454639669, 1.6682403852645147, 1.100124920322977, -10.175156383621978, 8.18850891796318, -10.344513985782427),
    ("cloglog", 0.5, 0.3000009536743164, 0.3): (-14.881674277841098, -0.18126885652063718, -0.8187311434793121, 0.8187311434792104, 1048576.0906343658, 0.4093656603957683, -0.409365553851114, -1048575.9093655093, 0.4093654830835437, -0.40936558962809644),
}  # fmt: skip
CUTS = np.array([-1.3, -0.2, -0.19, 2.0])
FORWARD = {"logit": special.expit, "probit": special.ndtr, "cloglog": lambda x: -np.expm1(-np.exp(x))}


def listed(whole) -> list[float]:
    """The ten derivatives in the order of EXTREMES."""
    at = whole.density
    return [
        at.value, at.first, at.second, at.third, at.value_aux, at.first_aux, at.second_aux,
        whole.value_zero, whole.first_zero, whole.second_zero,
    ]  # fmt: skip


def check_by_differences(density, eta: float, a: float, zeta: float, tolerance: float) -> None:
    """Central differences of the next lower derivative."""
    here, h = density(eta, a, zeta), STEP
    up, down = density(eta + h, a, zeta).density, density(eta - h, a, zeta).density
    pairs = [
        (here.density.first, up.value - down.value), (here.density.second, up.first - down.first),
        (here.density.third, up.second - down.second),
    ]  # fmt: skip
    if np.isfinite(a):
        more, less = density(eta, a + h, zeta).density, density(eta, a - h, zeta).density
        pairs += [
            (here.density.value_aux, more.value - less.value), (here.density.first_aux, more.first - less.first),
            (here.density.second_aux, more.second - less.second),
        ]  # fmt: skip
    if np.isfinite(zeta):
        more, less = density(eta, a, zeta + h).density, density(eta, a, zeta - h).density
        pairs += [
            (here.value_zero, more.value - less.value), (here.first_zero, more.first - less.first),
            (here.second_zero, more.second - less.second),
        ]  # fmt: skip
    for exact, difference in pairs:
        assert exact == pytest.approx(difference / (2 * h), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("nu", [0.7, 1.5, 4.0, 60.0, 1e4, 1e9])
@pytest.mark.parametrize("y", [-30.0, 0.9, 1.1, 25.0])
def test_t_density_is_scipys_and_its_derivatives_those_of_it(y: float, nu: float) -> None:
    """Values to rounding of the largest term; differences of step 1e-5 lose h² times a fifth derivative, at most 1e4."""
    for a in (-0.8, 0.6):
        value = student_t(y, 1.0, a, math.log(nu)).density.value
        assert value == pytest.approx(stats.t.logpdf(y, nu, 1.0, math.exp(a)), rel=1e-9)  # SciPy's own at 1e9
        check_by_differences(lambda eta, a, zeta: student_t(y, eta, a, zeta), 1.0, a, math.log(nu), 1e-5)


def test_t_density_is_the_normal_one_where_nu_is_endless() -> None:
    """What is left is of order 1/ν."""
    for y in (-3.0, 0.2):
        at = student_t(y, 0.5, 0.3, math.log(1e12))
        assert at.density.value == pytest.approx(stats.norm.logpdf(y, 0.5, math.exp(0.3)), abs=1e-10)
        assert at.density.second == pytest.approx(-math.exp(-0.6), abs=1e-10)
        assert abs(at.value_zero) < 1e-10


def test_steps_of_the_log_gamma_function() -> None:
    """Against SciPy where lgamma keeps its digits, and continuous where the series takes over (at 12)."""
    for x in (0.2, 1.0, 7.0, 11.0):
        value, slope = log_gamma_step(x)
        assert value == pytest.approx(special.gammaln(x + 0.5) - special.gammaln(x) - 0.5 * math.log(x), abs=1e-13)
        assert slope == pytest.approx(x * (special.digamma(x + 0.5) - special.digamma(x)) - 0.5, abs=1e-12)
    np.testing.assert_allclose(log_gamma_step(12.0), log_gamma_step(12.0 - 1e-12), atol=2e-13)


@pytest.mark.parametrize("nu", [1.5, 5.0, 300.0])
def test_information_of_a_t_response_is_the_variance_of_its_score(nu: float) -> None:
    from scipy import integrate

    a, zeta, h = 0.4, math.log(nu), 1e-6

    def square(y: float) -> float:
        at = student_t(y, 0.3, a, zeta).density
        return at.first**2 * math.exp(at.value)

    want = integrate.quad(square, -np.inf, np.inf, epsabs=1e-12)[0]
    here = student_t(0.0, 0.3, a, zeta)
    assert here.density.information == pytest.approx(want, rel=1e-8)  # quadrature's own error
    up, down = (student_t(0.0, 0.3, a, zeta + s * h).density.information for s in (1, -1))
    assert here.information_zero == pytest.approx((up - down) / (2 * h), rel=1e-7)
    up, down = (student_t(0.0, 0.3, a + s * h, zeta).density.information for s in (1, -1))
    assert here.density.information_aux == pytest.approx((up - down) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("link", FORWARD)
def test_categories_have_their_probabilities(link: str) -> None:
    """Differences of the distribution function, which lose 1e-16 of 1; all of them sum to one."""
    eta = np.array([-2.5, -0.3, 0.0, 1.7])
    found = thresholds.probabilities(link, eta, CUTS)
    below = FORWARD[link](np.column_stack([np.full(4, -np.inf), CUTS - eta[:, None], np.full(4, np.inf)]))
    np.testing.assert_allclose(found, np.diff(below, axis=1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("link", FORWARD)
@pytest.mark.parametrize("eta", [-2.0, 0.4, 3.0])
def test_derivatives_of_categories_are_those_of_the_density(link: str, eta: float) -> None:
    bounds = np.concatenate([[-np.inf], CUTS, [np.inf]])
    for lower, upper in pairwise(bounds):
        wide = not upper - lower < 0.1  # 1/δ³ = 1e6 in the differences' error of a category of width 0.01
        check_by_differences(
            lambda e, upper, lower: category(LINKS[link], e, upper, lower), eta, upper, lower, 1e-5 if wide else 1e-3
        )


@pytest.mark.parametrize("case", EXTREMES, ids=str)
def test_categories_far_out_and_narrow_keep_their_digits(case: tuple[str, float, float, float]) -> None:
    """To 1e-11 of the value or of 1: at |η| = 30 the rows' own A and B are rounded to 4e-15, times second derivatives of 900."""
    link, eta, upper, lower = case
    found = listed(category(LINKS[link], float(eta), upper, lower))
    np.testing.assert_allclose(found, EXTREMES[case], rtol=1e-11, atol=2e-11)


@pytest.mark.parametrize("link", FORWARD)
@pytest.mark.parametrize("eta", [-30.0, 30.0])
def test_nothing_is_lost_at_the_ends(link: str, eta: float) -> None:
    """The first and last category against SciPy's log distribution functions."""
    low = {"logit": stats.logistic.logcdf, "probit": stats.norm.logcdf, "cloglog": stats.gumbel_l.logcdf}[link]
    high = {"logit": stats.logistic.logsf, "probit": stats.norm.logsf, "cloglog": stats.gumbel_l.logsf}[link]
    first, last = category(LINKS[link], eta, 0.5, -np.inf), category(LINKS[link], eta, np.inf, 0.5)
    np.testing.assert_allclose(first.density.value, low(0.5 - eta), rtol=1e-12)
    np.testing.assert_allclose(last.density.value, high(0.5 - eta), rtol=1e-12)
    assert np.isfinite(listed(first)).all()
    assert np.isfinite(listed(last)).all()
    assert listed(first)[7:] == [0.0, 0.0, 0.0]
    assert listed(last)[4:7] == [0.0, 0.0, 0.0]


def test_thresholds_and_their_free_numbers() -> None:
    free, h = thresholds.free_of(CUTS), 1e-6
    np.testing.assert_allclose(thresholds.increasing(free), CUTS, rtol=1e-14)
    ends = [
        [thresholds.increasing(free + side * h * unit) for side in (1, -1)] for unit in np.eye(len(free))
    ]  # central differences, error h²
    differences = np.column_stack([(up - down) / (2 * h) for up, down in ends])
    np.testing.assert_allclose(thresholds.slopes(free), differences, atol=1e-8)
    y = np.array([0.0, 2.0, 4.0, 2.0])
    upper, lower = thresholds.bounds(y, CUTS)
    np.testing.assert_array_equal(upper, [-1.3, -0.19, np.inf, -0.19])
    np.testing.assert_array_equal(lower, [-np.inf, -0.2, 2.0, -0.2])
    with pytest.raises(DataError, match="thresholds must increase; got 1, 0"):
        thresholds.checked(np.array([1.0, 0.0]))


@pytest.mark.parametrize("link", FORWARD)
def test_a_search_begins_at_the_shares(link: str) -> None:
    y = np.repeat([0.0, 1.0, 2.0], [20, 50, 30])
    tau = thresholds.increasing(thresholds.start(y, 3, link, np.ones(100)))
    np.testing.assert_allclose(thresholds.probabilities(link, np.zeros(1), tau)[0], [0.2, 0.5, 0.3], rtol=1e-12)


def test_draws_of_a_t_response_have_its_moments() -> None:
    rng, n, phi, nu = np.random.default_rng(5), 200_000, 1.5, 9.0
    family = family_of("t")
    y = family.draws(rng, np.full(n, 0.4), phi, 1.0, nu)
    mean, variance = (float(v[0]) for v in family.moments(np.array([0.4]), phi, 1.0, np.array([nu])))
    assert variance == pytest.approx(phi**2 * 9 / 7)
    assert abs(y.mean() - mean) < 5 * math.sqrt(variance / n)  # five standard errors
    assert abs(np.mean((y - mean) ** 2) - variance) < 5 * math.sqrt(np.var((y - mean) ** 2) / n)
    assert np.isinf(family.moments(np.zeros(1), phi, 1.0, np.array([1.5]))[1][0])
    assert np.isnan(family.moments(np.zeros(1), phi, 1.0, np.array([0.8]))[0][0])


def test_draws_of_categories_have_their_probabilities() -> None:
    rng, n = np.random.default_rng(6), 100_000
    want = thresholds.probabilities("probit", np.array([0.7]), CUTS)[0]
    shares = np.bincount(thresholds.draws(rng, "probit", np.full(n, 0.7), CUTS).astype(int), minlength=5) / n
    np.testing.assert_array_less(np.abs(shares - want), 5 * np.sqrt(want * (1 - want) / n))  # five standard errors
