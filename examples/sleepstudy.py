# %% [markdown]
# # Sleep deprivation
#
# How fast do people slow down without sleep, and how much do they differ?
#
# Eighteen people, ten days, one reaction time a day. One model, written once; then REML and ML, the mixed model
# equations, the limit of a flat prior, the posterior, and all of them side by side. Run it as a script (figures go to
# the folder named on the command line, `out/example` without one) or cell by cell.

# %%
import sys
from pathlib import Path

import numpy as np

import bayeslmm as bl
from bayeslmm import plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "out/example")
folder.mkdir(parents=True, exist_ok=True)
catalogue = Path(globals().get("__file__", "sleepstudy.ipynb")).resolve().parents[1] / "models"


def show(figure, name):
    """Keep the figure as a file; at the end of a cell it is shown too."""
    figure.savefig(folder / name, dpi=100)
    return figure


# %% [markdown]
# ## The model: two stages, or one formula

# %%
model = bl.load(catalogue / "sleepstudy")
staged = bl.Model.from_stages(
    first="Reaction ~ 1 + Days",
    second={"Subject": {"1": "1", "Days": "1"}},
    data=model.arguments["data"],
)
print(staged)
print("\nthe same likelihood from both:", np.isclose(bl.fit(staged).loglik, bl.fit(model).loglik, rtol=1e-12))

# %% [markdown]
# ## REML and ML

# %%
reml = bl.fit(model)
ml = bl.fit(model, "ML")
print(f"\n{reml}\n")
print(f"sd by ML are smaller: {ml.sd['Subject'].round(2).to_dict()}, by REML {reml.sd['Subject'].round(2).to_dict()}")

intercepts = bl.fit(model.update("Reaction ~ Days + (1 | Subject)"), "ML")
print(f"2 log likelihood ratio for differing slopes: {2 * (ml.loglik - intercepts.loglik):.1f}")

# %%
show(plot.groups(reml), "groups.png")

# %%
show(plot.residuals(reml), "residuals.png")

# %%
show(plot.caterpillar(reml), "effects.png")

# %% [markdown]
# ## The mixed model equations
#
# Assembled and solved on their own from X, Z and the estimated variances: the same fixed and random effects.

# %%
equations = bl.solve(reml)
print(f"\n{equations}")
gap = (equations.ranef["Subject"] - reml.ranef["Subject"]).abs().to_numpy().max()
print(f"largest gap of a random effect to REML's: {gap:.1e} ms")
print(f"prediction error sd of person 308's slope: {np.sqrt(equations.pev['Subject'].loc['308', 'Days']):.2f} ms a day")

# %% [markdown]
# ## The limiting prior
#
# With a prior on the fixed effects that goes flat, the Bayesian answer tends to BLUE and BLUP in proportion to its
# precision.

# %%
limit = bl.limiting_prior(reml)
print(f"\n{limit}")
show(plot.limiting(limit), "limiting.png")

# %% [markdown]
# ## The posterior
#
# The random effects are integrated out while NUTS moves in two sds, one correlation and σ; they are drawn afterwards.

# %%
post = bl.sample(model, seed=1, progress=False)
print(f"\n{post}")
slopes = post.draws("ranef_Subject")[:, :, 1] + post.draws("fixef")[:, [1]]
print(f"people who speed up with probability above one half: {int(((slopes < 0).mean(axis=0) > 0.5).sum())} of 18")
show(plot.density(post, reml), "posterior.png")

# %% [markdown]
# ## Side by side

# %%
comparison = bl.compare(ml, reml, post)
print(f"\n{comparison}")
show(comparison.plot(), "compare.png")

# %% [markdown]
# ## A new person on day 12

# %%
new = {"Subject": ["new"], "Days": [12]}
for name, result in (("REML", reml), ("posterior", post)):
    row = bl.predict(result, new, unseen="new", kind="response", seed=1).iloc[0]
    print(f"{name:<9} {row['mean']:.0f} ms, 95 % from {row['lower']:.0f} to {row['upper']:.0f}")

# %%
path = bl.report(ml, reml, post, limiting=limit, path=folder / "report.html")
print(f"\n{path}")
