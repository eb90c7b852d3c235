"""Every worked model against its reference: a test for each entry of models/*/reference.json."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from classical import classical
from reference import make_data
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import DataError
from bayeslmm.quasi import fit_quasi
from bayeslmm.refits import Refits
from bayeslmm.spec import read, table

MODELS = Path(__file__).resolve().parent.parent / "models"
ELSEWHERE = MODELS.parents[1] / "shared" / "data"  # data that may not be shipped, where somebody has them
NAMES = sorted(path.parent.name for path in MODELS.glob("*/reference.json"))
ATTRIBUTES = ("loglik", "deviance", "aic", "bic", "df", "nobs", "sigma", "singular", "dispersion")


def data_file(name):
    """None where the folder holds its data, else the file of the same name elsewhere."""
    path = read(MODELS / name).data_path
    if path.is_file():
        return None
    if not (ELSEWHERE / path.name).is_file():
        pytest.skip(f"the data of {name} may not be shipped, and {ELSEWHERE / path.name} is not there")
    return ELSEWHERE / path.name


@cache
def model_of(name, variant):
    return bl.load(MODELS / name, variant=variant, data=data_file(name))


@cache
def fit_of(name, variant, method, options=()):
    model = model_of(name, variant)
    if method == "PQL" and options:
        return fit_quasi(model, **dict(options))  # bl.fit has MASS's rule only
    return bl.fit(model, method=method, **dict(options))


@cache
def data_of(name):
    return table(read(MODELS / name), data_file(name))


@cache
def classical_of(name, analysis):
    return classical(name, analysis, data_of(name))


def dense_deviance(model, theta, method):
    """The criterion from the n x n marginal covariance, by public matrices only (no weights, no offset)."""
    X, y = model.X, model.design.y
    factor = model.Z @ model.Lambda(np.asarray(theta, float))
    V = np.eye(len(y)) + (factor @ factor.T).toarray()
    root = np.linalg.cholesky(V)
    X, y = np.linalg.solve(root, X), np.linalg.solve(root, y)
    beta, *_ = np.linalg.lstsq(X, y, rcond=None)
    logdet = 2 * np.log(np.diag(root)).sum()
    if method == "REML":
        logdet += np.linalg.slogdet(X.T @ X)[1]
    m = len(y) - (X.shape[1] if method == "REML" else 0)
    return logdet + m * (1 + np.log(2 * np.pi * np.sum((y - X @ beta) ** 2) / m))


def fixef_corr(fit):
    names, spread = list(fit.vcov.columns), np.sqrt(np.diag(fit.vcov))
    corr = fit.vcov.to_numpy() / np.outer(spread, spread)
    return {f"{a}, {b}": corr[i, j] for i, a in enumerate(names) for j, b in enumerate(names) if i < j}


def corr(fit, group):
    frame = fit.corr[group]
    names = list(frame.columns)
    return {f"{a}, {b}": frame.loc[a, b] for i, a in enumerate(names) for b in names[i + 1 :]}


def sequential_F(fit):
    """F of each one-column term given those before it: the squared rows of Lᵀβ, with LLᵀ = vcov⁻¹."""
    values = np.linalg.cholesky(np.linalg.inv(fit.vcov.to_numpy())).T @ fit.fixef.to_numpy()
    return dict(zip(fit.fixef.index, values**2, strict=True))


def mean_by(values, groups):
    return {str(level): np.asarray(values)[groups == level].mean() for level in np.unique(groups)}


def variance_ratio(fit, group):
    return fit.sd[group].iloc[0] ** 2 / fit.sigma**2


def overparametrised(model):
    """The matrix with a column for every level of every fixed factor, as lectures write it, from the cell means of each."""
    factors = ("treat",) if model.formula.random else ("treat", "block")
    data = model.arguments["data"]
    return np.hstack([model.X[:, :1], *(bl.Model(f"y ~ 0 + {name}", data).X for name in factors)])


def marginal_covariance(model, sigma, theta):
    factor = (model.Z @ model.Lambda(np.asarray(theta, float))).toarray()
    return sigma**2 * (np.eye(len(factor)) + factor @ factor.T)


def squared_error(name, values, column):
    """Sum of squared errors of reconstructed effects, from a column that holds the true ones."""
    data = data_of(name)
    truth = data.groupby("individual", observed=True)[column].first()
    return float(((values - truth) ** 2).sum())


def centred_means(case):
    data = data_of(case[0])
    return data.groupby("individual", observed=True)["y"].mean() - data["y"].mean()


def lrt(case, fit, null):
    return 2 * (fit.loglik - fit_of(case[0], null, case[2]).loglik)


def as_lme(fit):
    """A quasi-likelihood fit's coefficients as nlme's summary shows them: standard errors × √(n / (n − p))."""
    frame = bl.coefficients(fit.last, "containment")
    se = frame["se"] * np.sqrt(fit.nobs / (fit.nobs - len(frame)))
    t = frame["estimate"] / se
    return pd.DataFrame({"se": se, "t": t, "p": 2 * stats.t.sf(np.abs(t), frame["df"])}, index=frame.index)


def resolve(case, quantity):
    """What the package gives for a quantity of a reference file."""
    fit, model = fit_of(*case), model_of(*case[:2])
    if quantity in ATTRIBUTES:
        return getattr(fit, quantity)
    plain = {
        "theta": lambda: list(fit.theta),
        "fixef": lambda: dict(fit.fixef),
        "se": lambda: dict(fit.se),
        "t": lambda: dict(fit.fixef / fit.se),
        "thresholds": lambda: dict(fit.thresholds["estimate"]),
        "fitted": lambda: list(fit.fitted),
        "population": lambda: list(model.X @ fit.fixef.to_numpy()),
        "fixef_corr": lambda: fixef_corr(fit),
        "sequential_F": lambda: sequential_F(fit),
        "var_residual": lambda: fit.sigma**2,
        "containment_df": lambda: dict(bl.coefficients(getattr(fit, "last", fit), "containment")["df"]),
        "containment_p": lambda: dict(bl.coefficients(fit, "containment")["p"]),
        "X": lambda: model.X,
        "Z": lambda: model.Z.toarray(),
        "overparametrised_X": lambda: overparametrised(model),
        "rank_X": lambda: np.linalg.matrix_rank(overparametrised(model)),
        "zero": lambda: dict(fit.further_fixef["zero"]["estimate"]),
        "zero_se": lambda: dict(fit.further_fixef["zero"]["se"]),
        "log_dispersion": lambda: dict(fit.further_fixef["dispersion"]["estimate"]),
        "log_dispersion_se": lambda: dict(fit.further_fixef["dispersion"]["se"]),
        "V[sigma=2, sd_block=3]": lambda: marginal_covariance(model, 2.0, [1.5]),
        "kept_individual": lambda: 1 - 1 / (1 + 3 * variance_ratio(fit, "individual")),
        "squared_error_ranef[U]": lambda: squared_error(case[0], fit.ranef["individual"]["Intercept"], "U"),
        "squared_error_means[U]": lambda: squared_error(case[0], centred_means(case), "U"),
        "marginal_block_bale": lambda: marginal_covariance(model, fit.sigma, fit.theta)[:4, :4],
    }
    if quantity in plain:
        return plain[quantity]()
    if quantity.startswith("lme_"):
        return dict(as_lme(fit)[quantity.removeprefix("lme_")])
    head, _, rest = quantity.partition("_")
    name, inside = re.fullmatch(r"([^\[]*)(?:\[(.*)\])?", rest).groups()
    if head == "ranef" and name.startswith("var_"):
        group = name.removeprefix("var_")
        column = list(fit.ranef[group].columns).index(inside)
        blocks = np.asarray(fit.ranef_cov[group])
        return dict(zip(fit.ranef[group].index, blocks[:, column, column], strict=True))
    indexed = {
        "sd": lambda: dict(fit.sd[name]),
        "var": lambda: dict(fit.sd[name] ** 2),
        "corr": lambda: corr(fit, name),
        "ranef": lambda: dict(fit.ranef[name][inside]),
        "gamma": lambda: variance_ratio(fit, name),
        "icc": lambda: variance_ratio(fit, name) / (1 + variance_ratio(fit, name)),
        "weight": lambda: 1 / (1 + fit.nobs / fit.ngroups[name] * variance_ratio(fit, name)),
        "deviance": lambda: dense_deviance(model, fit.theta, name),
        "fitted": lambda: mean_by(fit.fitted, data_of(case[0])[inside].to_numpy()),
        "population": lambda: mean_by(model.X @ fit.fixef.to_numpy(), data_of(case[0])[inside].to_numpy()),
        "observed": lambda: mean_by(model.design.y, data_of(case[0])[inside].to_numpy()),
    }
    return indexed[head]()


def lecture_test(case, quantity):
    if quantity.startswith("bootstrap"):
        null = fit_of(case[0], quantity.split("[")[1].rstrip("]"), case[2])
        return bl.bootstrap_test(null, fit_of(*case), nsim=1000, seed=1, progress=False).p
    statistic = lrt(case, fit_of(*case), quantity.split("[")[1].rstrip("]"))
    if not quantity.startswith("lrt_p"):
        return statistic
    null = fit_of(case[0], quantity.split("[")[1].rstrip("]"), case[2])
    return stats.chi2.sf(statistic, fit_of(*case).df - null.df)


def entries():
    for name in NAMES:
        for entry in json.loads((MODELS / name / "reference.json").read_text(encoding="utf-8"))["entries"]:
            case = (name, entry["variant"], entry["method"], tuple(entry.get("options", {}).items()))
            options = [f"{key}={value}" for key, value in case[3]]
            at = f"@{entry['theta']}" if "theta" in entry else ""
            yield pytest.param(case, entry, id="-".join([*case[:3], *options, entry["quantity"] + at]))


ALL = list(entries())
FITTED = [row for row in ALL if "theta" not in row.values[1]]
FIXED = [row for row in ALL if "theta" in row.values[1]]


def aligned(got, expected):
    """Both as arrays; labels must agree, in order."""
    if isinstance(expected, dict):
        assert [str(key) for key in got] == list(expected)
        return np.array(list(got.values()), float), np.array(list(expected.values()), float)
    return np.asarray(got, float), np.asarray(expected, float)


@pytest.mark.parametrize(("case", "entry"), FITTED)
def test_fit_gives_the_reference_value(case, entry):
    quantity, tolerance = entry["quantity"], entry["tolerance"]
    if case[2] == "classical":
        got = classical_of(*case[:2])[quantity]
    else:
        got = lecture_test(case, quantity) if quantity.startswith(("lrt", "bootstrap")) else resolve(case, quantity)
    got, expected = aligned(got, entry["value"])
    np.testing.assert_allclose(got, expected, rtol=tolerance.get("rel", 0), atol=tolerance.get("abs", 0))


@pytest.mark.parametrize(("case", "entry"), FIXED)
def test_criterion_at_a_fixed_theta(case, entry):
    model, theta, reml = model_of(*case[:2]), np.array(entry["theta"], float), case[2] == "REML"
    expected = pytest.approx(entry["value"], rel=entry["tolerance"]["rel"], abs=0)
    assert dense_deviance(model, theta, case[2]) == expected
    assert model.gaussian.deviance(theta, reml=reml) == expected


def printed_numbers(entry):
    """(value, printed, within) of each number that the lecture prints."""
    printed, within, value = entry["printed"], entry["printed_within"], entry["value"]
    if not isinstance(printed, dict):
        return [(value, printed, within)]
    at = (lambda key: value[int(key)]) if isinstance(value, list) else value.__getitem__
    return [(at(key), printed[key], within[key]) for key in printed]


@pytest.mark.parametrize(("case", "entry"), [row for row in ALL if "printed" in row.values[1]])
def test_reference_value_rounds_to_what_the_lecture_prints(case, entry):
    half_digit = all(within <= 0.5000001 * 10 ** -decimals(number) for _, number, within in printed_numbers(entry))
    assert half_digit or "why" in entry
    assert all(abs(value - number) <= within for value, number, within in printed_numbers(entry))


def decimals(number):
    """Decimals of a number as JSON keeps it; trailing zeros are lost, so this is at most what was printed."""
    return len(repr(float(number)).split(".")[1].rstrip("0"))


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in MODELS.glob("*/model.toml")), ids=lambda path: path.name
)
def test_every_folder_says_what_it_is(folder):
    spec = read(folder)
    assert spec.title
    assert spec.description
    assert spec.source
    assert spec.licence
    assert (folder / "reference.json").is_file()


def test_a_zero_variance_is_exactly_zero():
    for method in ("REML", "ML"):
        fit = fit_of("dyestuff2", "main", method)
        assert fit.singular
        assert fit.sd["Batch"].iloc[0] == 0.0
        assert not fit.ranef["Batch"].to_numpy().any()


BALANCED = [
    # model, variant, group, its mean square's row, the rows subtracted and added, observations in a level
    ("wool", "main", "bale", "bale", ["Residuals"], [], 4),
    ("tablets", "main", "tablet", "tablet", ["Residuals"], [], 2),
    ("penicillin_blocks", "main", "blend", "blend", ["Residuals"], [], 4),
    ("planks", "interactions", "plank:width", "plank:width", ["Residuals"], [], 5),
    ("planks", "interactions", "plank:depth", "plank:depth", ["Residuals"], [], 3),
    ("planks", "interactions", "plank", "plank", ["plank:width", "plank:depth"], ["Residuals"], 15),
]


@pytest.mark.parametrize(("name", "variant", "group", "row", "less", "more", "size"), BALANCED)
def test_reml_of_balanced_data_is_the_anova_estimator(name, variant, group, row, less, more, size):
    ms = classical_of(name, "anova")["ms"]
    expected = (ms[row] - sum(ms[other] for other in less) + sum(ms[other] for other in more)) / size
    fit = fit_of(name, variant, "REML")
    assert fit.sd[group].iloc[0] ** 2 == pytest.approx(expected, rel=2e-6)  # twice the sd's relative tolerance
    assert fit.sigma**2 == pytest.approx(ms["Residuals"], rel=2e-6)


@pytest.mark.parametrize("name", sorted(make_data.TABLES))
def test_simulated_data_are_what_their_generator_writes(name):
    written, generated = pd.read_csv(MODELS / name / "data.csv"), make_data.TABLES[name]()
    pd.testing.assert_frame_equal(written, generated, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize(("case", "truth"), make_data.TRUTH.items(), ids="-".join)
def test_fits_find_what_the_data_were_simulated_from(case, truth):
    """Each true value lies in its 99 % interval (profile, or Wald's of another family); the files are fixed, so this cannot
    fail by chance."""
    gaussian = "sigma" in truth
    fit = fit_of(*case, "REML" if gaussian else "AGHQ")
    intervals = bl.confint(fit, method="profile" if gaussian else "wald", level=0.99)
    flat = {
        f"{kind}[{effect}]": value for kind, part in truth.items() if kind != "sigma" for effect, value in part.items()
    }
    flat |= {"sigma": truth["sigma"]} if gaussian else {}
    assert set(flat) == set(intervals.index)
    for name, value in flat.items():
        assert intervals.loc[name, "lower"] < value < intervals.loc[name, "upper"], name


def test_the_order_of_crossed_terms_changes_an_anova_and_not_the_mixed_model():
    one, other = fit_of("patents", "main", "REML"), fit_of("patents", "reversed", "REML")
    assert other.loglik == pytest.approx(one.loglik, abs=1e-8)
    for group, sd in one.sd.items():
        assert other.sd[group].iloc[0] == pytest.approx(sd.iloc[0], rel=1e-6)
    first, last = classical_of("patents", "applicant_first")["ss"], classical_of("patents", "technology_first")["ss"]
    assert first["Residuals"] == pytest.approx(last["Residuals"], rel=1e-9)
    assert first["technology"] < 0.5 * last["technology"]


def test_random_effects_reconstruct_better_than_fixed_ones():
    """Futschik's simulation 400 times: E Σ(ȳ_i − ȳ − U_i)² = 9·20²/3 + 10·10²/10 = 1300, and with the variances known the
    best linear prediction of the U_i about an unknown mean leaves 9·κ·20²/3 + 100, κ = 3·10²/(3·10² + 20²), that is 614."""
    rng, model = np.random.default_rng(2016), model_of("shrinkage_simulation", "main")
    refits, kept = Refits(model), []
    for _ in range(400):
        effects = rng.normal(0, 10, 10)
        y = np.repeat(effects, 3) + rng.normal(0, 20, 30)
        fit = bl.fit(refits.model(y), "ML")
        means = y.reshape(10, 3).mean(axis=1) - y.mean()
        kept.append([np.sum((means - effects) ** 2), np.sum((fit.ranef["individual"]["Intercept"] - effects) ** 2)])
    fixed, random = np.array(kept).T
    standard_error = [values.std() / np.sqrt(len(values)) for values in (fixed, random)]
    assert abs(fixed.mean() - 1300) < 4 * standard_error[0]
    assert 614 - 4 * standard_error[1] < random.mean() < 0.7 * fixed.mean()


def test_data_that_may_not_be_shipped_are_asked_for(tmp_path):
    (tmp_path / "model.toml").write_text(
        (MODELS / "planks" / "model.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"planks\.csv: put it there, or give the data with data=.*Royal Veterinary"):
        bl.load(tmp_path)


def test_rescaling_a_random_slope_changes_nothing_else():
    plain, tens = fit_of("sleepstudy", "uncorrelated", "REML"), fit_of("sleepstudy", "tens", "REML")
    assert tens.loglik == pytest.approx(plain.loglik, abs=1e-8)
    assert tens.sd["Subject"].iloc[1] == pytest.approx(10 * plain.sd["Subject"].iloc[1], rel=1e-6)
    np.testing.assert_allclose(tens.fixef, plain.fixef, rtol=1e-8)


def test_two_stages_are_the_same_model_as_the_formula():
    written, staged = model_of("sleepstudy", "main"), model_of("sleepstudy", "stages")
    np.testing.assert_array_equal(staged.X, written.X)
    assert (staged.Z != written.Z).nnz == 0
    assert bl.fit(staged).loglik == fit_of("sleepstudy", "main", "REML").loglik
