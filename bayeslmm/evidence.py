"""The evidence of a model, p(y), and Bayes factors: random effects, and a normal β, integrated out in closed form.

What is left, x = (log sd, correlations, log σ, and a β whose prior is not normal), is integrated by the trapezoidal
rule in up to three dimensions, or from draws by bridge sampling: Meng & Wong (1996), Statistica Sinica 6;
Meng & Schilling (2002), JCGS 11 (warp-III); Gronau et al. (2017), J. Math. Psych. 81; Frühwirth-Schnatter (2004),
Econometrics J. 7 (its error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit

from bayeslmm.bounds import Bounds
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.integration import bridge, quadrature
from bayeslmm.model import Model
from bayeslmm.nesting import check_same_response
from bayeslmm.posterior import Posterior
from bayeslmm.table import Page, frame_table
from bayeslmm.threads import THREADS_FROM, one_thread

Array = NDArray[np.float64]
Method = Literal["auto", "quadrature", "bridge"]
MOST_DIMENSIONS = 3  # of quadrature
FARTHEST = 300.0  # |coordinate| beyond which a density counts as 0


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """The log marginal likelihood of one model, log p(y).

    Parameters
    ----------
    log : float
        Its natural logarithm, every constant included.
    error : float
        Estimated standard error of `log` (quadrature: the rule's error).
    method : str
        "quadrature" or "bridge".
    model : Model
    notes : tuple of str
        What it depends on, and what to doubt.
    """

    log: float
    error: float
    method: str
    model: Model
    notes: tuple[str, ...]

    def page(self) -> Page:
        """The value and its error, to print or to show in a notebook."""
        line = f"log p(y) = {self.log:.{_places(self.error)}f} ± {self.error:.1e} ({self.method})"
        return Page("Evidence", (self.model.formula.text, line), (), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Evidence(log={self.log:.4f} ± {self.error:.1e}, {self.method})"

    def _repr_html_(self) -> str:
        return self.page().html


@dataclass(frozen=True, eq=False, repr=False)
class BayesFactor:
    """How much better the first of two models predicted the data than the second, on average over its prior.

    Parameters
    ----------
    first, second : Evidence
    """

    first: Evidence
    second: Evidence

    @property
    def log(self) -> float:
        """log p(y | first) − log p(y | second)."""
        return self.first.log - self.second.log

    @property
    def error(self) -> float:
        """Standard error of `log`."""
        return float(np.hypot(self.first.error, self.second.error))

    @property
    def value(self) -> float:
        """The Bayes factor; inf beyond 1e308."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.log))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the two evidences depend on, and the priors that only one of the models has."""
        own = [
            _described(one) - _described(other) for one, other in ((self.first, self.second), (self.second, self.first))
        ]
        which = zip(("first", "second"), own, strict=True)
        differing = [f"Priors of the {name} model only: {'; '.join(sorted(rows))}." for name, rows in which if rows]
        return tuple(dict.fromkeys([*differing, *self.first.notes, *self.second.notes]))

    def page(self) -> Page:
        """Both evidences and their ratio, to print or to show in a notebook."""
        both = (self.first, self.second)
        frame = pd.DataFrame(
            {
                "log p(y)": [f"{e.log:.{_places(self.error)}f}" for e in both],
                "error": [f"{e.error:.1e}" for e in both],
                "method": [e.method for e in both],
            },
            index=[f"{name}  {e.model.formula.text}" for name, e in zip(("first", "second"), both, strict=True)],
        )
        size = f"{self.value:.4g}" if self.value < 1e6 else f"e^{self.log:.1f}"
        under = (
            f"Bayes factor of the first to the second {size}, log {self.log:.{_places(self.error)}f} ± {self.error:.1e}"
        )
        return Page("Bayes factor", (), ((frame_table("", frame), under),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"BayesFactor(log={self.log:.4f} ± {self.error:.1e})"

    def _repr_html_(self) -> str:
        return self.page().html


def evidence(source: Model | Posterior, method: Method = "auto", *, seed: Any = 0) -> Evidence:
    """The log marginal likelihood of a model, log p(y) = log ∫ p(y | β, sd, corr, σ) p(β, sd, corr, σ).

    Random effects are integrated out in closed form, and β too where its prior is normal. The rest is integrated

    * by ``"quadrature"``: the trapezoidal rule on a grid scaled by the curvature at the mode, up to three dimensions. The
      step is halved until log p(y) moves by less than 1e-3, and the error is that last move, which is that of the coarser
      grid; for a smooth density the rule's error falls exponentially in 1/step;
    * by ``"bridge"``: warp-III bridge sampling from the draws of a posterior. The proposal is fitted to one half of every
      chain and the other half is bridged, then the halves change places: two estimates, whose mean is returned. The error
      is the larger of Frühwirth-Schnatter's estimate and half of their difference.

    Parameters
    ----------
    source : Model or Posterior
        Draws are needed for bridge sampling.
    method : {"auto", "quadrature", "bridge"}
        "auto" takes quadrature where there are at most three dimensions.
    seed : int or Generator
        For the proposal's draws.

    Returns
    -------
    Evidence
        ``.log``, ``.error``, ``.notes``.

    Raises
    ------
    MethodError
        A prior is flat, so that p(y) is defined up to an arbitrary factor only; or it has no closed form; or draws are
        needed and there are none.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> round(bl.evidence(bl.load("models/dyestuff")).log, 4)
    -169.0959
    """
    model, rng = _checked(source, method), np.random.default_rng(seed)
    target = _Target(model)
    if method == "auto":
        method = "quadrature" if target.size <= MOST_DIMENSIONS else "bridge"
    if method == "quadrature" and target.size > MOST_DIMENSIONS:
        raise MethodError(
            f"quadrature is for up to {MOST_DIMENSIONS} dimensions; this model has {target.size}. Use bridge sampling: "
            "bl.evidence(bl.sample(model))"
        )
    if method == "bridge" and isinstance(source, Model):
        raise MethodError(
            f"{target.size} parameters remain to be integrated, which is done from draws: bl.evidence(bl.sample(model))"
        )
    with one_thread(model.products.structure.rest_size < THREADS_FROM):
        found = quadrature(target) if method == "quadrature" else bridge(target, target.coordinates(source), rng)
    return Evidence(found.log, found.error, method, model, (*found.doubts, *_prior_notes(model)))


def bayes_factor(
    first: Model | Posterior | Evidence, second: Model | Posterior | Evidence, method: Method = "auto", *, seed: Any = 0
) -> BayesFactor:
    """The Bayes factor of two models of the same response: p(y | first) / p(y | second).

    It weighs each model's likelihood by its prior, so the prior of what only one model has matters at any sample size:
    ten times as wide a prior on one coefficient or sd divides the factor by about ten.

    Parameters
    ----------
    first, second : Model, Posterior or Evidence
    method, seed
        As for `evidence`.

    Returns
    -------
    BayesFactor
        ``.log``, ``.error``, ``.value``, ``.notes``.

    Raises
    ------
    MethodError
        Other responses or rows, or as for `evidence`.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> batches = bl.load("models/dyestuff")
    >>> round(bl.bayes_factor(batches, batches.update("Yield ~ 1")).value, 1)
    6.3
    """
    models = [one.model if isinstance(one, Evidence) else _checked(one, method) for one in (first, second)]
    check_same_response(models)
    both = [one if isinstance(one, Evidence) else evidence(one, method, seed=seed) for one in (first, second)]
    return BayesFactor(*both)


def _checked(source: Any, method: str) -> Model:
    if not isinstance(source, Model | Posterior):
        raise MethodError(f"the evidence is of a Model or of a Posterior, not of a {type(source).__name__}")
    if method not in ("auto", "quadrature", "bridge"):
        raise MethodError(f'method={method!r} is not known; use "auto", "quadrature" or "bridge"')
    model = source.model if isinstance(source, Posterior) else source
    if model.family != "gaussian":
        raise NotSupportedError(f"the evidence is for Gaussian models; this one has family={model.family!r}")
    flat = [name for name, prior in model.priors.parameters().items() if not prior.proper]
    if flat:
        raise MethodError(
            f"the prior of {', '.join(flat)} is flat, which has no integral: p(y) would be defined up to an arbitrary factor. "
            "Give proper priors, priors={...}, or leave out priors= for the defaults"
        )
    return model


class _Target:
    """log p(y, x) without limits on x, every constant included."""

    def __init__(self, model: Model) -> None:
        self.direct = Direct(model)
        self.bounds = Bounds(self.direct)
        self.size = self.direct.size
        self.names = self.direct.n_sd + self.direct.n_corr + 1
        # the density of an explicit β is in its own units, x holds β_Q
        explicit = not self.direct.gaussian and self.bounds.inverse is None
        products = model.products
        self.constant = products.n_fixed * np.log(products.y_scale) - products.logdet_R if explicit else 0.0

    def log_density(self, y: Array) -> tuple[float, Array]:
        """The value and its gradient; −inf where it is not finite."""
        if np.abs(y[: self.names]).max() > FARTHEST:
            return -np.inf, np.zeros(self.size)
        with np.errstate(all="ignore"):
            value, gradient = self.bounds.log_density(y) if self.bounds else self.direct.log_density(y)
        if not np.isfinite(value):
            return -np.inf, np.zeros(self.size)
        return value + self.constant, gradient

    @property
    def start(self) -> Array:
        """Near the bulk of the posterior."""
        return self.bounds.start(self.direct.sampling_start())

    def coordinates(self, posterior: Any) -> Array:
        """The draws (chains, draws, size)."""
        node = posterior.data["posterior"].data_vars.items()
        x = self.direct.coordinates_of({str(name): np.asarray(v.values) for name, v in node})
        b, layout = self.bounds, self.direct.layout
        if b:
            x[..., b.scales] = np.exp(x[..., b.scales])
            if b.inverse is not None:
                x[..., b.first :] = x[..., b.first :] @ layout.T.T - layout.t
            x[..., b.places] = logit((x[..., b.places] - b.lower) / b.width)
        return x


def _described(value: Evidence) -> set[str]:
    return {f"{name} ~ {prior}" for name, prior, _ in value.model.priors.describe()}


def _prior_notes(model: Model) -> list[str]:
    default = [n for n in model.priors.parameters() if n not in model.priors.chosen and not n.startswith("corr_")]
    if not default:
        return []
    return [
        "Default priors are proper, but scaled by the response, so the data have been used twice; a Bayes factor that matters "
        "deserves priors chosen for it."
    ]


def _places(error: float) -> int:
    """Decimals that an error of this size leaves meaningful."""
    return int(np.clip(np.ceil(-np.log10(max(error, 1e-6))), 1, 4))
