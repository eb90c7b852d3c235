# %% [markdown]
# # How good are the approximations?
#
# Tests and intervals of a mixed model are exact in few designs. Here responses are simulated from known parameters,
# refitted, and counted: how often a test of 5 % rejects what is true, how often an interval of 95 % covers it.
#
# `python examples/size_and_coverage.py FOLDER NSIM` writes tables and a figure to FOLDER; `docs/coverage.md` shows NSIM = 800.

# %%
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import chi2

import bayeslmm as bl
from bayeslmm.nesting import mixture_p
from bayeslmm.plot.style import COLOURS, GREY, blank, style
from bayeslmm.refits import Refits, bar

ARGUMENTS = [argument for argument in sys.argv[1:] if not argument.startswith("-") and not argument.endswith(".json")]
FOLDER = Path(ARGUMENTS[0] if ARGUMENTS else "out/coverage")
NSIM = int(ARGUMENTS[1]) if len(ARGUMENTS) > 1 else 10
RULES = ("asymptotic", "containment", "satterthwaite", "kenward-roger")
COEFFICIENTS = {"between": "z", "within": "x"}
SIZES = {"balanced": [6, 6, 6, 6], "unbalanced": [2, 2, 4, 16]}
CUT = chi2.ppf(0.95, 1)


# %% [markdown]
# ## The designs
#
# y = u_group + e with σ = 1: neither z, constant within groups, nor x, which varies within, has an effect. What is
# counted does not depend on the true coefficients.


# %%
def table(groups, kind):
    """A design's columns: z is 0 and 1 in turn; x is the same in every group if balanced, else drawn once."""
    sizes = np.resize(SIZES[kind], groups)
    code = np.repeat(np.arange(groups), sizes)
    y, drawn = np.random.default_rng(groups).normal(size=(2, len(code)))
    x = np.tile(np.linspace(-1.5, 1.5, 6), groups) if kind == "balanced" else drawn
    return {"y": y, "z": code % 2.0, "x": x, "g": np.char.add("g", code.astype(str))}, code


class Simulation:
    """One design and the smaller ones that its tests need; each refit reuses their cross-products."""

    def __init__(self, groups, kind, sd, seed):
        columns, self.code = table(groups, kind)
        self.sd, self.rng = sd, np.random.default_rng([seed, groups, int(10 * sd), len(kind)])
        formulas = {"all": "z + x + (1 | g)", "between": "x + (1 | g)", "within": "z + (1 | g)", "groups": "z + x"}
        self.designs = {name: Refits(bl.Model(f"y ~ {text}", columns)) for name, text in formulas.items()}

    def response(self, sd, sigma=1.0):
        u = self.rng.normal(size=self.code.max() + 1)
        return sd * u[self.code] + sigma * self.rng.normal(size=len(self.code))

    def fit(self, y, without="all", method="ML", **options):
        return bl.fit(self.designs[without].model(y), method, **options)

    def once(self):
        """What one simulated response says, as True, False or a number."""
        y = self.response(self.sd)
        reml, ml = self.fit(y, method="REML"), self.fit(y)
        return self.tests(y, reml) | self.ratios(y, ml) | self.intervals(y, reml, ml)

    def tests(self, y, reml):
        found = {}
        for df in RULES:
            p = bl.coefficients(reml, df)["p"]
            found |= {("size", where, df): p[name] < 0.05 for where, name in COEFFICIENTS.items()}
        if self.sd == 0:
            statistic = max(0.0, 2.0 * (reml.loglik - self.fit(y, "groups", "REML").loglik))
            found["size", "variance", "chi2"] = statistic > CUT
            found["size", "variance", "mixture"] = mixture_p(statistic, (0, 1)) < 0.05
        return found

    def ratios(self, y, ml):
        """The coefficients' likelihood ratios, and that of one response simulated from the fit without z."""
        null = self.fit(y, "between")
        again = self.response(float(null.group_sd["g"][0]), null.sigma)
        return {
            ("size", "within", "lr chi2"): 2.0 * (ml.loglik - self.fit(y, "within").loglik) > CUT,
            ("size", "between", "lr chi2"): 2.0 * (ml.loglik - null.loglik) > CUT,
            ("ratio", "between", "data"): 2.0 * (ml.loglik - null.loglik),
            ("ratio", "between", "bootstrap"): 2.0 * (self.fit(again).loglik - self.fit(again, "between").loglik),
        }

    def intervals(self, y, reml, ml):
        """A profile interval covers a value if the profile's rise there is below the χ² quantile: one refit instead."""
        held = {"sd_g": self.fit(y, fixed={"sd_g": self.sd}) if self.sd else self.fit(y, "groups")}
        held["sigma"] = self.fit(y, fixed={"sigma": 1.0})
        wald = bl.confint(reml, parameters=["sd_g", "sigma"]).set_axis(["sd_g", "sigma"])
        found = {("cover", "sd_g", "undefined"): bool(np.isnan(wald.loc["sd_g", "lower"]))}
        for name, true in (("sd_g", self.sd), ("sigma", 1.0)):
            low, high = wald.loc[name, ["lower", "upper"]]
            found["cover", name, "wald"] = low <= true <= high if true else np.nan
            found["cover", name, "profile"] = 2.0 * (ml.loglik - held[name].loglik) <= CUT
        return found


# %% [markdown]
# ## The counts
#
# The parametric bootstrap would refit each response hundreds of times. Instead each response is given one bootstrap
# response, and the 95 % quantile of all of these is the critical value (Giacomini, Politis and White 2013, "warp speed").


# %%
def counted(draws):
    """Shares of the simulations, in per cent."""
    shares = draws.drop(columns="ratio", level=0).astype(float).mean()
    data, bootstrap = (draws["ratio", "between", kind].to_numpy(float) for kind in ("data", "bootstrap"))
    shares["size", "between", "lr bootstrap"] = np.mean(data > np.quantile(bootstrap, 0.95))
    return 100.0 * shares


def simulated(groups, kind, sd, nsim, seed=1):
    """The counts of one design."""
    simulation = Simulation(groups, kind, sd, seed)
    draws = pd.DataFrame([simulation.once() for _ in range(nsim)])
    draws.columns = pd.MultiIndex.from_tuples(draws.columns)
    return counted(draws)


def shown(results, names):
    """Some of the counts as a Markdown table, with the Monte Carlo error of each in brackets."""
    rows = results[list(names)].set_axis(list(names.values()), axis=1)
    error = 100.0 * np.sqrt(rows / 100.0 * (1.0 - rows / 100.0) / NSIM)
    if "lr bootstrap" in error:
        error["lr bootstrap"] *= np.sqrt(2.0)  # its critical value is simulated as well
    cells = rows.round(1).astype(str) + " (" + error.round(1).astype(str) + ")"
    cells = cells.where(rows.notna(), "")
    head = ["groups", "", "sd", *cells.columns]
    lines = [head, [":--", ":--", "--:", *["--:"] * cells.shape[1]]]
    lines += [[*map(str, key), *row] for key, row in zip(cells.index, cells.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    designs = list(product((4, 6, 10, 30), SIZES, (0.0, 0.5, 2.0)))
    with bar(sys.stdout.isatty(), len(designs), "designs") as advance:
        found = {}
        for design in designs:
            found[design] = simulated(*design, NSIM)
            advance(1)
    results = pd.DataFrame(found).T
    results.index.names = ["groups", "sizes", "sd"]
    results.to_csv(FOLDER / "coverage.csv")
    for where in COEFFICIENTS:
        rules = (*RULES, "lr chi2", *(["lr bootstrap"] if where == "between" else []))
        names = {("size", where, rule): rule for rule in rules}
        print(f"\nTest of the {where}-group coefficient, % rejected\n\n{shown(results, names)}")
    names = {("cover", p, m): f"{p} {m}" for p in ("sd_g", "sigma") for m in ("wald", "profile")}
    print(f"\nIntervals, % covered\n\n{shown(results, names | {('cover', 'sd_g', 'undefined'): 'no wald for sd_g'})}")
    zero = results[results.index.get_level_values("sd") == 0]
    print(
        f"\nTest of the variance, % rejected\n\n{shown(zero, {('size', 'variance', k): k for k in ('chi2', 'mixture')})}"
    )
    draw(results).savefig(FOLDER / "coverage.png", dpi=100)


# %%
def draw(results):
    """Size of the test of the between-group coefficient over the number of groups, balanced, sd 0.5."""
    rows = results.xs(("balanced", 0.5), level=("sizes", "sd"))
    with style():
        figure = blank(5.0, 3.4)
        axes = figure.subplots()
        for rule, colour in zip((*RULES, "lr chi2", "lr bootstrap"), COLOURS, strict=True):
            axes.plot(range(len(rows)), rows["size", "between", rule], marker="o", color=colour, label=rule)
        axes.axhline(5.0, color=GREY, linewidth=0.8)
        axes.set(xticks=range(len(rows)), xticklabels=rows.index, xlabel="groups", ylabel="% rejected at 5 %")
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
