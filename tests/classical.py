"""Analyses without random effects that a lecture sets beside a mixed model, by statsmodels and SciPy."""

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import gee, ols
from statsmodels.stats.anova import anova_lm


def anova(formula, data):
    table = anova_lm(ols(formula, data).fit(), typ=1)
    table.index = ["Residuals" if row == "Residual" else row.replace("C(", "").replace(")", "") for row in table.index]
    tested = table.dropna()
    return {
        "ss": dict(table["sum_sq"]),
        "df": dict(table["df"]),
        "ms": dict(table["sum_sq"] / table["df"]),
        "F": dict(tested["F"]),
        "p": dict(tested["PR(>F)"]),
    }


def mean_of(values):
    values = np.asarray(values, float)
    found = stats.ttest_1samp(values, 0)
    interval = found.confidence_interval(0.95)
    return {
        "mean": values.mean(),
        "var": values.var(ddof=1),
        "sd": values.std(ddof=1),
        "se": values.std(ddof=1) / np.sqrt(len(values)),
        "t": found.statistic,
        "df": found.df,
        "p": found.pvalue,
        "interval": [interval.low, interval.high],
    }


def overall(formula, data):
    fit = ols(formula, data).fit()
    return {
        "sigma": np.sqrt(fit.scale),
        "df": [fit.df_model, fit.df_resid],
        "r2": fit.rsquared,
        "adjusted_r2": fit.rsquared_adj,
        "F": fit.fvalue,
        "p": fit.f_pvalue,
    }


def bale_means(data):
    means = data.groupby("bale", observed=True)["y"].mean()
    return {
        "mean": {str(bale): mean for bale, mean in means.items()},
        "total_ss": ((data["y"] - data["y"].mean()) ** 2).sum(),
    }


def least_squares_means(data):
    """Means of the methods over all tablets, and their difference."""
    fit = ols("y ~ C(tablet) + C(method)", data).fit()
    tablets = list(data["tablet"].cat.categories)

    def over(method):
        row = pd.Series(0.0, index=fit.params.index)
        row["Intercept"] = 1.0
        for column in (f"C(method)[T.{method}]", *(f"C(tablet)[T.{tablet}]" for tablet in tablets)):
            if column in row:
                row[column] = 1.0 if "method" in column else 1.0 / len(tablets)
        return row.to_numpy()

    rows = {"hplc": over("hplc"), "nir": over("nir")}
    rows["difference"] = rows["hplc"] - rows["nir"]
    tests = {name: fit.t_test(row) for name, row in rows.items()}
    intervals = {name: test.conf_int(0.05)[0] for name, test in tests.items()}
    return {
        "mean": {name: test.effect[0] for name, test in tests.items()},
        "se": {name: test.sd.item() for name, test in tests.items()},
        "t": {name: test.tvalue.item() for name, test in tests.items()},
        "df": fit.df_resid,
        "p": {name: float(test.pvalue) for name, test in tests.items()},
        "lower": {name: bounds[0] for name, bounds in intervals.items()},
        "upper": {name: bounds[1] for name, bounds in intervals.items()},
    }


def autoregressive(formula, data, correlation):
    """GEE of binomial shares, at a given working correlation: its estimate differs between programs."""
    working = sm.cov_struct.Autoregressive(grid=True)
    working.dep_params = correlation
    shares = data.assign(share=data["carriers"] / data["flies"])
    model = gee(
        formula, "population", shares, time=data["sample"], family=sm.families.Binomial(), cov_struct=working,
        update_dep=False,
    )  # fmt: skip
    fit = model.fit(maxiter=100, ctol=1e-12)
    names = {"Intercept": "Intercept", "season[T.autumn]": "season[autumn]"}
    return {
        "fixef": {new: fit.params[old] for old, new in names.items()},
        "se": {new: fit.bse[old] for old, new in names.items()},
        "correlation": working.dep_params,
    }


def _by(data, method):
    return data[data["method"] == method].set_index("tablet")["y"].astype(float)


ANALYSES = {
    ("wool", "anova"): lambda d: anova("y ~ C(bale)", d),
    ("wool", "means"): bale_means,
    ("penicillin_blocks", "anova"): lambda d: anova("Q('yield') ~ treat + blend", d),
    ("penicillin_blocks", "ols"): lambda d: overall("Q('yield') ~ treat + blend", d),
    ("tablets", "paired"): lambda d: mean_of(_by(d, "hplc") - _by(d, "nir")),
    ("tablets", "anova"): lambda d: anova("y ~ method + C(tablet)", d),
    ("tablets", "nir"): lambda d: mean_of(_by(d, "nir")),
    ("tablets_missing", "anova"): lambda d: anova("y ~ C(tablet) + method", d),
    ("tablets_missing", "means"): least_squares_means,
    ("planks", "anova"): lambda d: anova(
        "humidity ~ plank + width + depth + plank:width + plank:depth + width:depth", d
    ),
    ("patents", "applicant_first"): lambda d: anova("share ~ applicant + examiner + technology", d),
    ("patents", "technology_first"): lambda d: anova("share ~ technology + examiner + applicant", d),
    ("seasonal", "gee"): lambda d: autoregressive("share ~ season", d, 0.929522329069199),
    ("seasonal", "gee_population"): lambda d: autoregressive("share ~ season + population", d, -0.17554012976337),
}


def classical(name, analysis, data):
    """Every number of an analysis of a catalogue's data, by the quantity's name in reference.json."""
    return ANALYSES[name, analysis](data)
