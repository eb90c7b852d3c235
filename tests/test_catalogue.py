"""Every worked model against its reference: a test for each entry of models/*/reference.json."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.spec import read, table

MODELS = Path(__file__).resolve().parent.parent / "models"
NAMES = sorted(path.parent.name for path in MODELS.glob("*/reference.json"))
ATTRIBUTES = ("loglik", "deviance", "aic", "bic", "df", "nobs", "sigma", "singular")


@cache
def model_of(name, variant):
    return bl.load(MODELS / name, variant=variant)


@cache
def fit_of(name, variant, method):
    return bl.fit(model_of(name, variant), method=method)


@cache
def data_of(name):
    return table(read(MODELS / name))


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


def lrt(case, fit, null):
    return 2 * (fit.loglik - fit_of(case[0], null, case[2]).loglik)


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
        "fitted": lambda: list(fit.fitted),
        "population": lambda: list(model.X @ fit.fixef.to_numpy()),
        "fixef_corr": lambda: fixef_corr(fit),
        "sequential_F": lambda: sequential_F(fit),
    }
    if quantity in plain:
        return plain[quantity]()
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
    statistic = lrt(case, fit_of(*case), quantity.split("[")[1].rstrip("]"))
    if not quantity.startswith("lrt_p"):
        return statistic
    null = fit_of(case[0], quantity.split("[")[1].rstrip("]"), case[2])
    return stats.chi2.sf(statistic, fit_of(*case).df - null.df)


def entries():
    for name in NAMES:
        for entry in json.loads((MODELS / name / "reference.json").read_text(encoding="utf-8"))["entries"]:
            case = (name, entry["variant"], entry["method"])
            at = f"@{entry['theta']}" if "theta" in entry else ""
            yield pytest.param(case, entry, id="-".join([*case, entry["quantity"] + at]))


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
    got = lecture_test(case, quantity) if quantity.startswith("lrt") else resolve(case, quantity)
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
