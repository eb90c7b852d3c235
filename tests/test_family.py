"""Families and links: densities against SciPy, derivatives against differences, information and moments by summation."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from bayeslmm.errors import DataError, NotSupportedError
from bayeslmm.exact import densities as d
from bayeslmm.exact.special import counted_rises, digamma, log_normal_cdf, mills, rise, tetragamma, trigamma
from bayeslmm.exact.zeros import HURDLE, INFLATED, zeroed, zeroed_slopes
from bayeslmm.family import FAMILIES, LINKS, family_of, linked

# Every family with every link that it offers, η inside the link's range, and some responses.
BINARY, COUNTS, POSITIVE = (0.0, 1.0), (0.0, 1.0, 6.0), (0.2, 3.0)
RANGE = {"log": (-2.0, 0.3, 2.0), "sqrt": (0.5, 1.7), "identity": (0.4, 2.5), "inverse": (0.4, 2.0)}
RANGE |= {"inverse_squared": (0.4, 2.0)} | dict.fromkeys(("logit", "probit", "cloglog", "cauchit"), (-2.1, 0.4, 1.3))
RESPONSES = {
    "gaussian": (-0.7, 1.2), "bernoulli": BINARY, "binomial": (0.0, 3.0, 7.0), "poisson": COUNTS, "negativebinomial": COUNTS,
    "gamma": POSITIVE, "wald": POSITIVE, "beta": (0.15, 0.7), "betabinomial": (0.0, 3.0, 7.0), "negativebinomial1": COUNTS,
}  # fmt: skip
PLAIN = [family for family in FAMILIES.values() if family.name == family.plain and not family.second]
PAIRS = [(family, link) for family in PLAIN for link in family.links]
NAMES = [f"{family.name}-{link}" for family, link in PAIRS]
TRIALS = 7.0


def reference(name: str, y: float, mu: float, phi: float) -> float:
    """SciPy's log density."""
    match name:
        case "gaussian":
            return stats.norm.logpdf(y, mu, phi)
        case "bernoulli":
            return stats.bernoulli.logpmf(y, mu)
        case "binomial":
            return stats.binom.logpmf(y, TRIALS, mu)
        case "poisson":
            return stats.poisson.logpmf(y, mu)
        case "negativebinomial":
            return stats.nbinom.logpmf(y, phi, phi / (phi + mu))
        case "betabinomial":
            return stats.betabinom.logpmf(y, TRIALS, mu * phi, (1 - mu) * phi)
        case "negativebinomial1":
            return stats.nbinom.logpmf(y, mu / phi, 1 / (1 + phi))
        case "gamma":
            return stats.gamma.logpdf(y, phi, scale=mu / phi)
        case "wald":
            return stats.invgauss.logpdf(y, mu / phi, scale=phi)
    return stats.beta.logpdf(y, mu * phi, (1 - mu) * phi)


def at(family, link: str, y: float, eta: float, a: float) -> d.Density:
    return d.density(family.code, LINKS[link], y, TRIALS if family.of_trials else 1.0, eta, a)


@pytest.mark.parametrize(("family", "link"), PAIRS, ids=NAMES)
def test_density_is_scipys(family, link: str) -> None:
    for eta in RANGE[link]:
        mu = d.mean(LINKS[link], eta).value
        for y in RESPONSES[family.name]:
            for a in (-0.6, 0.9):
                # 1e-10: SciPy's own rounding in the tails of its gamma functions
                np.testing.assert_allclose(
                    at(family, link, y, eta, a).value,
                    reference(family.name, y, mu, math.exp(a)),
                    rtol=1e-10,
                    atol=1e-12,
                )


@pytest.mark.parametrize(("family", "link"), PAIRS, ids=NAMES)
def test_derivatives_are_those_of_the_density(family, link: str) -> None:
    """Central differences of the next lower derivative: error h² times the derivative two orders up, up to 1e4 here."""
    h = 1e-5
    for eta in RANGE[link]:
        for y in RESPONSES[family.name]:
            for a in (-0.6, 0.9):
                up, down = at(family, link, y, eta + h, a), at(family, link, y, eta - h, a)
                more, less = at(family, link, y, eta, a + h), at(family, link, y, eta, a - h)
                here = at(family, link, y, eta, a)
                pairs = [
                    (here.first, up.value - down.value), (here.second, up.first - down.first),
                    (here.third, up.second - down.second), (here.value_aux, more.value - less.value),
                    (here.first_aux, more.first - less.first), (here.second_aux, more.second - less.second),
                ]  # fmt: skip
                if family.has_information:
                    pairs += [
                        (here.information_eta, up.information - down.information),
                        (here.information_aux, more.information - less.information),
                    ]
                for exact, difference in pairs:
                    assert exact == pytest.approx(difference / (2 * h), rel=2e-6, abs=2e-6)


@pytest.mark.parametrize(("family", "link"), PAIRS, ids=NAMES)
def test_scores_have_mean_zero_and_the_information_as_variance(family, link: str) -> None:
    eta, a = RANGE[link][1], 0.9
    mu, phi = d.mean(LINKS[link], eta).value, math.exp(a)
    here = at(family, link, RESPONSES[family.name][1], eta, a)
    if family.name in ("gaussian", "gamma", "wald", "beta"):
        low, high = {"gaussian": (mu - 12 * phi, mu + 12 * phi), "beta": (0.0, 1.0)}.get(family.name, (0.0, np.inf))

        def expectation(power: int) -> float:
            def integrand(y: float) -> float:
                point = at(family, link, y, eta, a)
                return point.first**power * math.exp(point.value)

            return integrate.quad(integrand, low, high, limit=400, epsabs=1e-9)[0]
    else:
        top = 1 if family.name == "bernoulli" else int(TRIALS) if family.of_trials else 400

        def expectation(power: int) -> float:
            points = [at(family, link, float(y), eta, a) for y in range(top + 1)]
            return sum(p.first**power * math.exp(p.value) for p in points)

    assert expectation(1) == pytest.approx(0.0, abs=1e-7)  # quadrature's own error
    if family.has_information:
        assert expectation(2) == pytest.approx(here.information, rel=1e-6)


@pytest.mark.parametrize("family", PLAIN, ids=[family.name for family in PLAIN])
def test_draws_have_the_moments_of_the_family(family) -> None:
    rng = np.random.default_rng(3)
    n, mu, phi = 200_000, 0.4, 2.5
    trials = TRIALS if family.of_trials else 1.0
    y = family.draws(rng, np.full(n, mu), phi, trials) / trials
    variance = float(family.variance(np.array([mu]), phi, trials)[0])
    assert abs(y.mean() - mu) < 5 * math.sqrt(variance / n)  # five standard errors
    spread = np.var((y - mu) ** 2) / n
    assert abs(np.mean((y - mu) ** 2) - variance) < 5 * math.sqrt(spread)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
@pytest.mark.parametrize("eta", [-40.0, -12.0, 12.0, 40.0])
def test_tails_of_a_binary_response_keep_their_digits(link: str, eta: float) -> None:
    """log μ, log(1 − μ) far out, against asymptotics or exact expressions in extended form."""
    family = family_of("bernoulli")
    one, none = at(family, link, 1.0, eta, 0.0), at(family, link, 0.0, eta, 0.0)
    match link:
        case "logit":
            want = (-np.log1p(np.exp(-eta)), -np.log1p(np.exp(eta)))
        case "probit":
            want = (stats.norm.logcdf(eta), stats.norm.logsf(eta))
        case "cloglog":
            t = np.exp(eta)
            want = (np.log(-np.expm1(-t)), -t)
        case _:
            want = (stats.cauchy.logcdf(eta), stats.cauchy.logsf(eta))
    np.testing.assert_allclose([one.value, none.value], want, rtol=1e-12)
    assert all(np.isfinite([*one, *none]))
    assert one.second <= 0 or link == "cauchit"


def test_special_functions() -> None:
    from scipy import special

    x = np.array([1e-3, 0.2, 1.0, 3.7, 11.9, 12.1, 250.0])
    np.testing.assert_allclose([digamma(v) for v in x], special.digamma(x), rtol=1e-13)
    np.testing.assert_allclose([trigamma(v) for v in x], special.polygamma(1, x), rtol=1e-13)
    np.testing.assert_allclose([tetragamma(v) for v in x], special.polygamma(2, x), rtol=1e-13)
    eta = np.array([-60.0, -8.0, -5.1, -4.9, 0.0, 3.0, 9.0])
    np.testing.assert_allclose([log_normal_cdf(v) for v in eta], special.log_ndtr(eta), rtol=1e-12)
    np.testing.assert_allclose(
        [mills(v) for v in eta], np.exp(stats.norm.logpdf(eta) - special.log_ndtr(eta)), rtol=1e-12
    )


@pytest.mark.parametrize("x", [0.3, 49.0, 51.0, 1e4, 1e9, 1e15])
def test_rises_of_the_gamma_functions_are_sums(x: float) -> None:
    """Over whole steps they are Σ log(1 + j/x), Σ 1/(x + j), …, which lose no digits; 1e-12: of differences at x < 50."""
    j = np.arange(7.0)
    sums = [np.log1p(j / x).sum(), (1 / (x + j)).sum(), -(1 / (x + j) ** 2).sum(), (2 / (x + j) ** 3).sum()]
    np.testing.assert_allclose(rise(x, 7.0), sums, rtol=1e-12, atol=1e-14)
    assert rise(x, 0.0) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("x", [1e-3, 0.3, 49.0, 1e9, 1e15])
def test_rises_over_every_count_are_sums_in_any_order(x: float) -> None:
    """Against sums without rounding; 299 roundings of positive terms are below 1e-13 of them."""
    j = np.arange(299)
    log_gamma, psi = counted_rises(x, 300)
    assert (log_gamma[0], psi[0]) == (0.0, 0.0)
    assert log_gamma[-1] == pytest.approx(math.fsum(np.log1p(j / x)), rel=1e-13)
    assert psi[-1] == pytest.approx(math.fsum(1 / (x + j)), rel=1e-13)
    assert [log_gamma[7], psi[7]] == pytest.approx([rise(x, 7.0).log_gamma, rise(x, 7.0).digamma], rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("link", list(LINKS))
def test_links_are_inverse_to_their_means(link: str) -> None:
    for eta in RANGE[link]:
        assert float(linked(link, np.array([d.mean(LINKS[link], eta).value]))[0]) == pytest.approx(eta, rel=1e-12)


def test_responses_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match=r"poisson family needs whole numbers from 0; y is 1.5 in row 1"):
        family_of("poisson").check("y", np.array([1.0, 1.5]), None)
    with pytest.raises(DataError, match=r"p\(successes, trials\)"):
        family_of("binomial").check("y", np.array([1.0]), None)
    with pytest.raises(DataError, match="successes from 0 to the whole number of trials"):
        family_of("binomial").check("p(y, n)", np.array([3.0]), np.array([2.0]))
    with pytest.raises(NotSupportedError, match="the families are gaussian, bernoulli"):
        family_of("tweedie")
    with pytest.raises(NotSupportedError, match="it has log, sqrt, identity"):
        family_of("poisson").link("probit")


ZEROED = [
    (kind, family)
    for kind in (INFLATED, HURDLE)
    for family in ("poisson", "negativebinomial", "negativebinomial1", "binomial")
]


@pytest.mark.parametrize(("kind", "name"), ZEROED)
def test_zeros_of_their_own(kind: int, name: str) -> None:
    """Probabilities by their definition; derivatives by central differences, error h² times a fifth derivative."""
    family, h = FAMILIES[name], 1e-5
    link, trials = LINKS[family.links[0]], TRIALS

    def whole(y: float, eta: float, a: float, zeta: float):
        return zeroed(kind, family.code, link, y, trials, eta, a, zeta)

    for eta, a, zeta in ((0.3, -0.5, -1.2), (1.1, 0.7, 0.4)):
        share = 1 / (1 + math.exp(-zeta))
        plain = [math.exp(d.density(family.code, link, float(y), trials, eta, a).value) for y in range(8)]
        for y in range(8):
            if kind == INFLATED:
                want = (1 - share) * plain[y] + share * (y == 0)
            else:
                want = share if y == 0 else (1 - share) * plain[y] / (1 - plain[0])
            assert math.exp(whole(y, eta, a, zeta).density.value) == pytest.approx(want, rel=1e-12)
        for y in (0.0, 1.0, 4.0):
            here, at = whole(y, eta, a, zeta), whole(y, eta, a, zeta).density
            up, down = whole(y, eta + h, a, zeta), whole(y, eta - h, a, zeta)
            more, less = whole(y, eta, a + h, zeta), whole(y, eta, a - h, zeta)
            likely, rarely = whole(y, eta, a, zeta + h), whole(y, eta, a, zeta - h)
            pairs = [
                (at.first, up.density.value - down.density.value), (at.second, up.density.first - down.density.first),
                (at.third, up.density.second - down.density.second), (at.value_aux, more.density.value - less.density.value),
                (at.first_aux, more.density.first - less.density.first),
                (at.second_aux, more.density.second - less.density.second),
                (here.value_zero, likely.density.value - rarely.density.value),
                (here.first_zero, likely.density.first - rarely.density.first),
                (here.second_zero, likely.density.second - rarely.density.second),
            ]  # fmt: skip
            for exact, difference in pairs:
                assert exact == pytest.approx(difference / (2 * h), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", ["zero_inflated_poisson", "zero_inflated_binomial", "hurdle_negativebinomial"])
def test_draws_with_zeros_of_their_own_have_the_moments(name: str) -> None:
    rng, n, mu, phi, zero = np.random.default_rng(4), 200_000, 0.7, 1.5, 0.3
    family = FAMILIES[name]
    trials = TRIALS if family.of_trials else 1.0
    y = family.draws(rng, np.full(n, mu), phi, trials, zero) / trials
    mean, variance = (float(v[0]) for v in family.moments(np.array([mu]), phi, trials, np.array([zero])))
    assert abs(y.mean() - mean) < 5 * math.sqrt(variance / n)  # five standard errors
    assert abs(np.mean((y - mean) ** 2) - variance) < 5 * math.sqrt(np.var((y - mean) ** 2) / n)
    if family.zeros == HURDLE:
        assert abs((y == 0).mean() - zero) < 5 * math.sqrt(zero * (1 - zero) / n)


@pytest.mark.parametrize("name", [family.name for family in FAMILIES.values() if family.zeros] + ["gamma"])
def test_first_derivatives_alone_are_the_same(name: str) -> None:
    """The same formulas in another order: 1e-11 of numbers up to 1e2, where log Γ(y + α) − log Γ(α) leaves as much."""
    family = FAMILIES[name]
    link = LINKS["log" if "log" in family.links else "logit"]
    for y, eta, a, zeta in itertools.product((0.0, 1.0, 7.0), (-6.0, -0.3, 2.0), (-2.0, 0.4, 5.0), (-8.0, 0.2, 3.0)):
        if y == 0.0 and name == "gamma":
            continue
        whole = zeroed(family.zeros, family.code, link, y, 9.0, eta, a, zeta)
        want = (whole.density.value, whole.density.first, whole.density.value_aux, whole.value_zero)
        found = zeroed_slopes(family.zeros, family.code, link, y, 9.0, eta, a, zeta)
        np.testing.assert_allclose(found, want, rtol=1e-11, atol=1e-11)
