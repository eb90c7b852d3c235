"""A model and a distribution of its parameters → assurance: power expected over what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bayeslmm.degrees import contrast_degrees
from bayeslmm.errors import MethodError
from bayeslmm.estimates import parameter_names, posterior_draws
from bayeslmm.growth import studies
from bayeslmm.hypotheses import FTest, Hypothesis
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.power import Extra, Plan, Power, Test, sizes
from bayeslmm.priors import Priors
from bayeslmm.refits import Outcome, Task, entropy_of
from bayeslmm.result import PointFit
from bayeslmm.sample import sample
from bayeslmm.truths import mixed_draws, prior_draws

Array = NDArray[np.float64]
Width = Literal["approximate", "posterior"]
# Posteriors of width="posterior": draws and warm-up of one chain.
DRAWS, TUNE = 500, 300


def assurance(
    model: Model | Posterior | str,
    parameters: Posterior | Mapping[str, Any] | Literal["prior"],
    term: str,
    *,
    data: Any = None,
    n_groups: int | Sequence[int] | None = None,
    n_per_group: int | Sequence[int] | None = None,
    group: str | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    test: Test | None = None,
    width: Width = "approximate",
    seed: Any,
    progress: bool = True,
    cores: int | None = None,
) -> Power:
    """Find the assurance of a study: its power, averaged over a distribution of the parameters (O'Hagan et al. 2005).

    Each simulation draws its own parameters, then effects and errors, refits and tests, as in `power`. Where the
    distribution allows an effect of the other sign or none, assurance has a ceiling below 1.

    Parameters
    ----------
    model : Model, Posterior or str
        As for `power`; of a posterior, its model.
    parameters : Posterior, mapping or "prior"
        A posterior, whose draws are taken; ``"prior"``, the model's own priors; or a mapping of public names to numbers
        and `Prior`s: ``{"fixef[Intercept]": 250, "fixef[Days]": bl.Prior("Normal", mu=10, sigma=3), ...}``.
    term, data, n_groups, n_per_group, group, nsim, alpha, test, seed, progress, cores
        As for `power`.
    width : {"approximate", "posterior"}
        What the column ``width`` is the mean of: for a coefficient the width of the 95 % interval β̂ ± t se of the
        simulated fit, t with Satterthwaite's degrees of freedom (NaN for terms that are not one coefficient); or, for one
        coefficient or standard deviation, of the 95 % equal-tailed interval of a posterior sampled for each simulation
        under the model's priors, some tenths of a second each.

    Returns
    -------
    Power
        Its frame has ``assurance`` in place of power, and ``width``.

    Raises
    ------
    MethodError
        As for `power`, or the parameters are no distribution.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> belief = {"fixef": [0, 0], "fixef[x]": bl.Prior("Normal", mu=1, sigma=0.5), "sd_g": 1, "sigma": 1}
    >>> found = bl.assurance("y ~ x + (1 | g)", belief, "x", data={"x": [0, 1]}, n_groups=20, nsim=200, seed=1,
    ...                      progress=False)
    >>> bool(0.6 < found.frame["assurance"][0] < 0.8)
    True
    """
    source = model.model if isinstance(model, Posterior) else model
    if not isinstance(source, Model | str):
        raise MethodError(f"assurance takes a Model, a Posterior or a formula; got {type(model).__name__}")
    designs = studies(source, data, sizes(n_groups), sizes(n_per_group), group)
    plan = Plan(designs, term, test, alpha, nsim, entropy_of(seed))
    truths = [
        partial(_rows, _drawn(source, parameters, study.model, nsim, np.random.default_rng([plan.entropy, at])))
        for at, study in enumerate(designs)
    ]
    outcomes = plan.simulate(truths, _extra(width, source, term, plan.tests[0]), progress, cores)
    found = plan.result("assurance", outcomes, None)
    found.frame.insert(3, "width", [_mean_width(own) for own in outcomes])
    return found


def _rows(values: Array, task: Task) -> Array:
    return values[task.start : task.start + task.size]


def _drawn(source: Model | str, parameters: Any, design: Model, nsim: int, rng: np.random.Generator) -> Array:
    """Parameters (nsim, m) of one design."""
    if isinstance(parameters, Mapping):
        return mixed_draws(design, parameters, nsim, rng)
    if isinstance(parameters, Posterior):
        if parameter_names(parameters.model) != parameter_names(design):
            raise MethodError(
                f"the posterior has the parameters {', '.join(parameter_names(parameters.model))}, the design "
                f"{', '.join(parameter_names(design))}"
            )
        draws = posterior_draws(parameters)
        flat = draws.reshape(-1, draws.shape[-1])
        return np.asarray(flat[rng.choice(len(flat), nsim, replace=nsim > len(flat))])
    if parameters == "prior" and isinstance(source, Model):
        return prior_draws(source, nsim, rng)
    if parameters == "prior":
        raise MethodError('parameters="prior" needs a Model, whose priors are drawn from; a formula has none')
    raise MethodError(
        "parameters must be a Posterior, a mapping of public names to numbers and priors, or "
        f'"prior"; got {type(parameters).__name__}. For fixed parameters use bl.power'
    )


def _extra(width: str, source: Model | str, term: str, test: Hypothesis) -> Extra:
    if width == "approximate":
        return _approximate
    if width != "posterior":
        raise MethodError(f'width={width!r} is not known; use "approximate" or "posterior"')
    if not isinstance(source, Model):
        raise MethodError(
            'width="posterior" needs a Model, under whose priors posteriors are sampled; a formula has none'
        )
    names = [n for n in parameter_names(test.model) if n in (term, f"fixef[{term}]") or n.startswith(f"{term}[")]
    if len(names) != 1:
        raise MethodError(
            f'width="posterior" is of one parameter; term={term!r} names {", ".join(names) or "a factor"}'
        )
    return partial(_sampled, source.priors, parameter_names(test.model).index(names[0]))


def _approximate(fit: PointFit, test: Hypothesis) -> tuple[float]:
    """Width of β̂ ± t se of a single coefficient."""
    if not isinstance(test, FTest) or len(test.rows) != 1:
        return (np.nan,)
    found = contrast_degrees(fit, test.rows, "satterthwaite")
    return (float(2.0 * stdtrit(found.denominator_df, 0.975) * np.sqrt(found.covariance[0, 0])),)


def _sampled(priors: Priors, at: int, fit: PointFit, test: Hypothesis) -> tuple[float]:
    """Width of a posterior's 95 % interval, under the priors of the planned analysis."""
    model = object.__new__(Model)
    model.__dict__.update(vars(fit.model) | {"priors": priors})
    seed = crc32(fit.model.design.y.tobytes())  # the response's own, so that it does not depend on cores
    draws = posterior_draws(sample(model, draws=DRAWS, tune=TUNE, chains=1, cores=1, seed=seed, progress=False))
    lower, upper = np.quantile(draws[..., at], [0.025, 0.975])
    return (float(upper - lower),)


def _mean_width(outcomes: Sequence[Outcome]) -> float:
    widths = np.array([np.asarray(o.values, float)[1] for o in outcomes if o.values is not None])
    return float(np.nanmean(widths)) if np.isfinite(widths).any() else np.nan
