"""Power against noncentral t and F, the exact power of a variance's likelihood ratio, and assurance against quadrature."""

import numpy as np
import pytest
from scipy import optimize, stats

import bayeslmm as bl
from bayeslmm.errors import ExactFitError, MethodError
from bayeslmm.hypotheses import FTest, hypothesis
from bayeslmm.power import _crossing

# A simulated share may differ from its expectation by this many binomial standard errors: a false alarm in 2,000 checks.
SURE = 3.5
PAIRED = {"treat": ["a", "b"]}


def error(share, nsim):
    return np.sqrt(share * (1 - share) / nsim)


def t_power(ncp, df, alpha=0.05):
    c = stats.t.ppf(1 - alpha / 2, df)
    return stats.nct.sf(c, df, ncp) + stats.nct.cdf(-c, df, ncp)


def paired_power(groups, effect, sigma=1.0, alpha=0.05):
    return t_power(effect / (sigma * np.sqrt(2 / groups)), groups - 1, alpha)


def paired(n_groups, effect, **options):
    # sd_g = 3 sigma: an estimate of 0, where the paired t test is not the REML test, is not among 10⁴ data sets
    truth = {"fixef": [1.0, effect], "sd_g": 3.0, "sigma": 1.0}
    settings = {"data": PAIRED, "n_groups": n_groups, "nsim": 800, "seed": 3, "progress": False} | options
    return bl.power("y ~ treat + (1 | g)", truth, "treat[b]", **settings)


@pytest.fixture(scope="module")
def curve():
    return paired([8, 12, 20], 0.8, nsim=500)


def test_paired_design_has_the_power_of_the_paired_t_test(curve):
    frame = curve.frame
    exact = np.array([paired_power(n, 0.8) for n in frame["n_groups"]])
    assert (np.abs(frame["power"] - exact) < SURE * error(exact, 500)).all()
    assert (frame["failed"] == 0).all()
    assert (frame["n_per_group"] == 2).all()


def test_without_an_effect_the_power_is_the_size():
    found = paired(10, 0.0)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert abs((found.p_values < alpha).mean() - alpha) < SURE * error(alpha, 800)
    assert paired(10, 0.0, nsim=100, alpha=0.5).frame["power"][0] > 0.3  # alpha is used


def test_arms_of_whole_groups_have_the_power_of_the_t_test_of_means():
    """Group means of 3 rows: variance sd² + σ²/3 = 4 + 1/3, J − 2 degrees of freedom."""
    design = {"arm": ["a"] * 3 + ["b"] * 3, "g": [1, 1, 1, 2, 2, 2]}
    truth = {"fixef": [0.0, 2.5], "sd_g": 2.0, "sigma": 1.0}
    found = bl.power("y ~ arm + (1 | g)", truth, "arm", data=design, n_groups=20, nsim=800, seed=1, progress=False)
    exact = t_power(2.5 / np.sqrt((4 + 1 / 3) * (2 / 10)), 18)
    assert abs(found.frame["power"][0] - exact) < SURE * error(exact, 800)


def test_a_factor_in_blocks_has_the_power_of_F():
    """Three treatments in 8 blocks: F(2, 14) with noncentrality 8 Σ(μ − μ̄)²/σ²."""
    truth = {"fixef": [0.0, 0.9, 1.2], "sd_g": 3.0, "sigma": 1.0}
    options = {"data": {"treat": ["a", "b", "c"]}, "n_groups": 8, "nsim": 800, "seed": 5, "progress": False}
    found = bl.power("y ~ treat + (1 | g)", truth, "treat", **options)
    means = np.array([0.0, 0.9, 1.2])
    exact = stats.ncf.sf(stats.f.ppf(0.95, 2, 14), 2, 14, 8 * np.sum((means - means.mean()) ** 2))
    assert abs(found.frame["power"][0] - exact) < SURE * error(exact, 800)


def variance_power(groups, rows, ratio):
    """P(LR > the 0.95 quantile of ½χ²(0) + ½χ²(1)), LR the REML ratio, a function of F = MSA/MSE ~ (1 + rows ratio) F(J − 1, n − J)."""
    a, e = groups - 1, groups * (rows - 1)

    def excess(F):
        return (a + e) * np.log((a * F + e) / (a + e)) - a * np.log(F) - stats.chi2.ppf(0.9, 1)

    critical = optimize.brentq(excess, 1.0 + 1e-9, 1e3)
    return stats.f.sf(critical / (1 + rows * ratio), a, e)


def test_a_variance_has_the_exact_power_of_its_restricted_likelihood_ratio():
    """One-way layouts, at a true variance and at variance 0, where the exact size is below 0.05."""
    for sd in (0.0, 0.6):
        truth = {"fixef": 5.0, "sd_g": sd, "sigma": 1.0}
        found = bl.power("y ~ 1 + (1 | g)", truth, "sd_g", n_groups=10, n_per_group=4, nsim=600, seed=2, progress=False)
        exact = variance_power(10, 4, sd**2)
        assert abs(found.frame["power"][0] - exact) < SURE * error(exact, 600), sd
        assert "½χ²(0) + ½χ²(1)" in found.hypothesis
    assert variance_power(10, 4, 0.0) < 0.05


def test_balanced_tests_agree_between_methods():
    """In a balanced design Kenward–Roger and Satterthwaite are both the paired t test, draw by draw."""
    one, two = (paired(9, 0.8, nsim=50, test=test) for test in ("satterthwaite", "kenward-roger"))
    # Satterthwaite's degrees of freedom come from differences, good to 1e-4
    np.testing.assert_allclose(one.p_values, two.p_values, rtol=1e-3)


@pytest.mark.parametrize(
    ("term", "test", "small"),
    [
        ("Days", "lrt", "Reaction ~ 1 + (Days | Subject)"),
        ("sd_Subject[Days]", "lrt", "Reaction ~ Days + (1 | Subject)"),
        ("sd_Subject", "lrt", "Reaction ~ Days"),
    ],
)
def test_likelihood_ratios_are_those_of_anova(term, test, small):
    model = bl.load("models/sleepstudy")
    method = "ML" if term == "Days" else "REML"
    tested = hypothesis(model, term, test)
    frame = bl.anova(bl.fit(model.update(small), method), bl.fit(model, method), refit=False).table
    last = frame.iloc[-1]
    expected = last["p"] if np.isnan(last["p_mixture"]) else last["p_mixture"]
    assert tested.test(model.design.y)[0] == pytest.approx(expected, rel=1e-5)  # two searches for the same maxima
    assert bool(tested.note) == (term == "sd_Subject")


def test_coefficients_and_terms_are_those_of_the_table_of_coefficients():
    model = bl.load("models/penicillin_blocks")
    fit = bl.fit(model)
    for name in ("treat[B]", "fixef[treat[B]]"):
        p = hypothesis(model, name, None).test(model.design.y)[0]
        assert p == pytest.approx(bl.coefficients(fit).loc["treat[B]", "p"], rel=1e-6)
    rows = hypothesis(model.update(contrasts={"treat": "sum"}), "treat", None).rows
    np.testing.assert_array_equal(rows, np.eye(4)[1:])


def test_the_same_seed_gives_the_same_numbers_whatever_the_threads():
    one, two, other = (paired([8, 12], 0.8, nsim=60, **o) for o in ({}, {"cores": 2}, {"seed": 4}))
    np.testing.assert_array_equal(one.p_values, two.p_values)
    assert not np.array_equal(one.p_values, other.p_values)


def test_a_fit_lends_its_estimates_for_what_is_left_out():
    fit = bl.fit(bl.load("models/sleepstudy"))
    found = bl.power(fit, {"fixef[Days]": 4.0}, "Days", nsim=1, seed=1, progress=False).parameters
    assert found["fixef[Days]"] == 4.0
    assert found["sigma"] == fit.sigma
    same = bl.power(fit.model, fit, "Days", nsim=1, seed=1, progress=False).parameters
    assert same["sd_Subject[Days]"] == pytest.approx(fit.sd["Subject"]["Days"], rel=1e-12)


def test_the_size_for_a_power_is_interpolated_with_its_uncertainty(curve):
    exact = optimize.brentq(lambda n: paired_power(n, 0.8) - 0.5, 4, 60)
    n, lower, upper = curve.n_groups_for(0.5).loc[2]
    assert lower < n < upper
    assert abs(n - exact) < SURE * (upper - lower) / (2 * stats.norm.ppf(0.975))


def test_a_probit_curve_is_found_back():
    """Counts on Φ(−2 + 0.6 √n): the crossing is exact, and its interval half as wide at four times the simulations."""
    n = np.array([4.0, 9.0, 16.0, 25.0])
    share = stats.norm.cdf(-2 + 0.6 * np.sqrt(n))
    widths = []
    for nsim in (10_000, 40_000):
        at, lower, upper = _crossing(np.sqrt(n), share * nsim, nsim, 0.8)
        assert at == pytest.approx(((stats.norm.ppf(0.8) + 2) / 0.6) ** 2, rel=1e-6)  # the search's own tolerance
        widths.append(upper - lower)
    assert widths[1] / widths[0] == pytest.approx(0.5, rel=0.01)  # Fieller's set is not quite symmetric


def test_a_band_is_that_of_clopper_and_pearson(curve):
    for _, row in curve.frame.iterrows():
        interval = stats.binomtest(round(row["power"] * 500), 500).proportion_ci(0.95, "exact")
        assert (row["lower"], row["upper"]) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_refits_that_fail_count_as_not_rejecting(monkeypatch):
    monkeypatch.setattr(FTest, "test", lambda self, y: (_ for _ in ()).throw(ExactFitError("no residual")))
    found = paired(8, 0.8, nsim=30)
    assert found.frame[["power", "failed"]].iloc[0].tolist() == [0.0, 30.0]
    assert "30 of 30 refits failed and count as not rejecting: ExactFitError: no residual" in found.notes[0]


def test_assurance_is_power_averaged_over_the_parameters():
    """Paired design, effect ~ N(1.1, 0.5²): the paired power by quadrature; the width's mean from E[s]."""
    belief = {
        "fixef[Intercept]": 0.0,
        "fixef[treat[b]]": bl.Prior("Normal", mu=1.1, sigma=0.5),
        "sd_g": 3.0,
        "sigma": 1.0,
    }
    options = {"data": PAIRED, "n_groups": 15, "nsim": 800, "seed": 6, "progress": False}
    found = bl.assurance("y ~ treat + (1 | g)", belief, "treat[b]", **options).frame.iloc[0]
    points = stats.norm(1.1, 0.5).ppf((np.arange(400) + 0.5) / 400)
    exact = np.mean([paired_power(15, effect) for effect in points])
    assert abs(found["assurance"] - exact) < SURE * error(exact, 800)
    assert exact < paired_power(15, 1.1)
    s = stats.chi(14).mean() / np.sqrt(14)
    spread = stats.chi(14).std() / np.sqrt(14) / s / np.sqrt(800)  # relative Monte Carlo error of the mean width
    assert found["width"] == pytest.approx(2 * stats.t.ppf(0.975, 14) * np.sqrt(2 / 15) * s, rel=SURE * spread)


def test_assurance_from_a_posterior_and_from_priors():
    model = bl.load("models/sleepstudy")
    post = bl.sample(model, draws=100, tune=200, chains=1, seed=1, progress=False)
    options = {"n_groups": 9, "nsim": 60, "seed": 1, "progress": False}
    strong = bl.assurance(post, post, "Days", **options).frame["assurance"][0]
    weak = bl.assurance(model, "prior", "Days", **options).frame
    assert strong > 0.7
    assert weak["width"][0] > 20  # sds of the default priors are several times those of the data
    sampled = bl.assurance(post, post, "Days", width="posterior", **options | {"nsim": 8}).frame["width"][0]
    assert 6 < sampled < 16  # 9 subjects: √2 times the width of the interval from 18, which is 6.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: bl.power(fit, None, "days", seed=1), "term='days' is not in the model; it has Intercept, Days"),
        (lambda fit: bl.power(fit, None, "Days", seed=1, test="wald"), "test='wald' is not known"),
        (lambda fit: bl.power(fit, None, "sd_Subject", seed=1, test="satterthwaite"), 'is tested by test="lrt"'),
        (lambda fit: bl.power(fit, None, "Days", seed=1, alpha=5), "alpha=5 must lie between 0 and 1"),
        (lambda fit: bl.power(fit, None, "Days", seed=1, nsim=0), "nsim=0"),
        (lambda fit: bl.power(fit, {"sd_subject": 3}, "Days", seed=1), "no parameter 'sd_subject'"),
        (lambda fit: bl.power(fit, {"sd_Subject": 3}, "Days", seed=1), "sd_Subject takes 2 numbers"),
        (lambda fit: bl.power(fit, {"sigma": -1}, "Days", seed=1, nsim=2, progress=False), "sigma is -1"),
        (lambda fit: bl.power(fit.model, {"sigma": 3}, "Days", seed=1), "parameters= lacks fixef\\[Intercept\\]"),
        (lambda fit: bl.power(fit.model, None, "Days", seed=1), "for bl.assurance"),
        (lambda fit: bl.power(fit, None, "Days", seed=1, n_groups=[9, 9]), "a list of different ones"),
        (lambda fit: bl.power(3, None, "Days", seed=1), "power takes a Model"),
        (lambda fit: bl.assurance(fit.model, fit, "Days", seed=1), "use bl.power"),
        (lambda fit: bl.assurance(fit.model, "prior", "Days", seed=1, width="x"), "width='x' is not known"),
        (lambda fit: bl.assurance(fit.model, "prior", "sd_Subject", seed=1, width="posterior"), "is of one parameter"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_raises(call, message):
    with pytest.raises(MethodError, match=message):
        call(bl.fit(bl.load("models/sleepstudy")))


def test_a_power_outside_the_simulated_sizes_is_not_extrapolated(curve):
    with pytest.raises(MethodError, match="lies outside what was simulated"):
        curve.n_groups_for(0.999)
    with pytest.raises(MethodError, match="one size cannot be interpolated"):
        paired(9, 0.8, nsim=20).n_groups_for(0.8)


def test_the_page_and_the_figure_say_what_was_simulated(curve):
    assert "treat[b] = 0 (F, Satterthwaite), α = 0.05" in str(curve)
    assert " 12 × 2 " in str(curve)
    assert "<table>" in curve._repr_html_()
    assert "3 designs" in repr(curve)
    ax = curve.plot().axes[0]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), curve.frame[["n_groups", "power"]].to_numpy())
