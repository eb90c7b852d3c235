"""Which priors a model has in use, and the default scales as one pure function.

Defaults are Bambi's: 2.5 sd(y)/sd(x) for a slope, the intercept at the predictor means, LKJ(1) for correlations.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.default_scales import SD_RULE, SHARE_INTERCEPT, Column, Scale, scaled, wide_scale
from bayeslmm.distributions import Prior
from bayeslmm.errors import PriorError
from bayeslmm.further import FurtherPriors, further_priors, on_the_line

__all__ = ["Prior", "Priors", "resolve"]

_HALF_VERSION = {"Normal": "HalfNormal", "StudentT": "HalfStudentT", "Cauchy": "HalfCauchy", "Flat": "HalfFlat"}

Group = tuple[Sequence[str], Sequence[float], bool]
Further = tuple[Sequence[str], Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Priors:
    """The priors in use for one model: those the user gave, the default ones for the rest.

    The prior of coefficient j applies to entry j of T β, β as reported: T is the identity, except that a default
    intercept prior is on the intercept at the predictor means, β₀ + Σ x̄_j β_j. With Normal and Flat priors only, the
    joint density is proportional to exp(−½ ‖R(β − m)‖²), R = D^(−½) T with zero rows for flat priors, and P0 = RᵀR.

    Parameters
    ----------
    coefficients : tuple of str
        Names of the p coefficients.
    fixef : tuple of Prior
        One per coefficient.
    centred_intercept : bool
        Whether the intercept's prior is on the intercept at the predictor means.
    column_means : tuple of float
        Means of the columns of X.
    effects : dict of str to tuple of str
        Effect names per group.
    sd : dict of str to tuple of Prior
        One prior per effect of each group.
    corr : dict of str to (Prior or None)
        LKJ prior per group; None where no two effects are correlated.
    noise : Prior or None
        Of the dispersion parameter; None for a family that has none.
    given : frozenset of str
        Keys that the user gave; ``{"flat"}`` for ``priors="flat"``.
    chosen : frozenset of str
        Names of the parameters whose prior is the user's (``fixef[x]``, ``sd_g[x]``, ``corr_g``, ``sigma``).
    dispersion : str or None
        Name of the dispersion parameter: ``sigma`` (Gaussian), ``alpha``, ``lam``, ``kappa``; None where there is none, or a
        formula for it.
    further : dict of str to FurtherPriors
        Of the coefficients of the formulas for ``"dispersion"`` (its log) and ``"zero"`` (its logit).
    second : mapping
        Of ``nu`` (t family), or of ``thresholds[low|high]`` between ordered categories.

    Examples
    --------
    >>> groups = {"g": (("Intercept", "x"), (0.0, 2.0), True)}
    >>> p = resolve(None, coefficient_names=("Intercept", "x"), column_means=(1.0, 3.0), column_sds=(0.0, 2.0),
    ...             has_intercept=True, response_mean=5.0, response_sd=4.0, groups=groups)
    >>> p.fixef[1], p.sigma
    (Normal(mu=0, sigma=5), HalfStudentT(nu=4, sigma=4))
    """

    coefficients: tuple[str, ...]
    fixef: tuple[Prior, ...]
    centred_intercept: bool
    column_means: tuple[float, ...] = field(repr=False)
    effects: dict[str, tuple[str, ...]] = field(repr=False)
    sd: dict[str, tuple[Prior, ...]]
    corr: dict[str, Prior | None]
    noise: Prior | None
    given: frozenset[str]
    chosen: frozenset[str] = field(repr=False)
    dispersion: str | None = "sigma"
    further: Mapping[str, FurtherPriors] = field(default_factory=dict)
    second: Mapping[str, Prior] = field(default_factory=dict)

    @property
    def sigma(self) -> Prior:
        """Prior of the residual standard deviation of a Gaussian model.

        Raises
        ------
        PriorError
            The model's family has no residual standard deviation.
        """
        if self.dispersion != "sigma" or self.noise is None:
            raise PriorError("a model of this family has no residual standard deviation, and no prior of one")
        return self.noise

    @property
    def gaussian(self) -> bool:
        """Whether the joint prior on β is normal, flat directions allowed."""
        return all(prior.name in ("Normal", "Flat") for prior in self.fixef)

    @property
    def flat(self) -> bool:
        """Whether every prior is uniform: on β, sd, correlations and the dispersion."""
        scales = [prior for group in self.sd.values() for prior in group]
        scales += [] if self.noise is None else [self.noise]
        coefficients = [*self.fixef, *(prior for block in self.further.values() for prior in block.priors)]
        correlations = [prior for prior in self.corr.values() if prior is not None]
        return (
            all(prior.name == "Flat" for prior in coefficients)
            and all(prior.name in ("Flat", "HalfFlat") for prior in self.second.values())
            and all(prior.name == "HalfFlat" for prior in scales)
            and all(prior.args["eta"] == 1 for prior in correlations)
        )

    @property
    def fixef_transform(self) -> NDArray[np.float64]:
        """(p, p) matrix T: the prior of coefficient j applies to entry j of T β. Its determinant is 1."""
        transform = np.eye(len(self.fixef))
        if self.centred_intercept:
            j = self.coefficients.index("Intercept")
            transform[j] = self.column_means
            transform[j, j] = 1.0
        return transform

    @property
    def fixef_mean(self) -> NDArray[np.float64] | None:
        """(p,) mean m of the joint normal prior on the reported β, 0 where flat; None unless `gaussian`."""
        if not self.gaussian:
            return None
        centre = np.array([prior.args.get("mu", 0.0) for prior in self.fixef])
        return 2 * centre - self.fixef_transform @ centre if self.centred_intercept else centre

    @property
    def fixef_root(self) -> NDArray[np.float64] | None:
        """(p, p) matrix R with P0 = RᵀR, rows of zeros where flat; None unless `gaussian`."""
        if not self.gaussian:
            return None
        scale = np.array([prior.args.get("sigma", np.inf) for prior in self.fixef])
        return self.fixef_transform / scale[:, None]

    @property
    def fixef_precision(self) -> NDArray[np.float64] | None:
        """(p, p) precision P0 of the joint normal prior on the reported β, 0 where flat; None unless `gaussian`."""
        root = self.fixef_root
        return None if root is None else root.T @ root

    @property
    def fixef_logconstant(self) -> float | None:
        """Log density of the joint normal prior at its mean (flat ones count 0); None unless `gaussian`."""
        if not self.gaussian:
            return None
        return -sum(math.log(p.args["sigma"]) + 0.5 * math.log(2 * math.pi) for p in self.fixef if p.name == "Normal")

    @property
    def second_blocks(self) -> tuple[str, ...]:
        """Names under which draws of the family's second parameter are kept: ``nu`` or ``thresholds``; none of others."""
        return tuple(dict.fromkeys(name.partition("[")[0] for name in self.second))

    def parameters(self) -> dict[str, Prior]:
        """Every parameter's prior by its name: ``fixef[x]``, ``sd_g[x]``, ``corr_g``, ``sigma`` or another dispersion."""
        named = {f"fixef[{name}]": prior for name, prior in zip(self.coefficients, self.fixef, strict=True)}
        for group, effects in self.effects.items():
            named |= {f"sd_{group}[{name}]": prior for name, prior in zip(effects, self.sd[group], strict=True)}
        named |= {f"corr_{group}": prior for group, prior in self.corr.items() if prior is not None}
        named |= {} if self.noise is None or self.dispersion is None else {self.dispersion: self.noise}
        named |= self.second
        return named | {name: prior for block in self.further.values() for name, prior in block.parameters().items()}

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows for printing: parameter, prior, and ``"given"`` or ``"default"``."""
        centred = {"fixef[Intercept]"} if self.centred_intercept else set()
        centred |= {f"{name}[Intercept]" for name, block in self.further.items() if block.shifted}
        return [
            (
                name,
                f"{prior} at the predictor means" if name in centred else str(prior),
                "given" if name in self.chosen else "default",
            )
            for name, prior in self.parameters().items()
        ]


def _keys(
    coefficients: Sequence[str],
    groups: Mapping[str, Group],
    dispersion: str | None,
    further: Mapping[str, Further],
    second: Sequence[str],
) -> dict[str, tuple[str, ...]]:
    """Every valid key with the parameters it names, broad ones first; a plain name another key has means that other."""
    narrow = {f"fixef[{name}]": (f"fixef[{name}]",) for name in coefficients}
    broad = {"fixef": tuple(narrow)} if narrow else {}
    for group, (effects, _, correlated) in groups.items():
        own = tuple(f"sd_{group}[{name}]" for name in effects)
        narrow |= {name: (name,) for name in own}
        broad[f"sd_{group}"] = own
        if correlated:
            broad[f"corr_{group}"] = (f"corr_{group}",)
    broad |= {dispersion: (dispersion,)} if dispersion else {}
    for name, (columns, _, _) in further.items():
        broad[name] = tuple(f"{name}[{column}]" for column in columns)
        narrow |= {own: (own,) for own in broad[name]}
    broad |= {second[0].partition("[")[0]: tuple(second)} if second else {}
    narrow |= {name: (name,) for name in second if "[" in name}
    plain = {name: (f"fixef[{name}]",) for name in coefficients if name not in broad and name not in narrow}
    return broad | plain | narrow


def _unknown(key: Any, keys: Mapping[str, Any], groups: Mapping[str, Group]) -> PriorError:
    valid = f"Valid keys: {', '.join(keys)}."
    text = str(key)
    if text.removeprefix("corr_") in groups and text.startswith("corr_"):
        return PriorError(f"{text!r}: no two effects of {text[5:]!r} are correlated in this model. {valid}")
    guess = {"common": "fixef", "group_specific": "sd_<group>"}.get(text) or f"sd_{text.partition('|')[2]}"
    close = [guess] if guess in keys else difflib.get_close_matches(text, keys, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return PriorError(f"No parameter of this model is called {key!r}.{hint} {valid}")


def _placed(parameter: str, prior: Prior) -> Prior:
    """The prior as it holds for this parameter, or the reason why it cannot."""
    if parameter.startswith("corr_"):
        if prior.name != "LKJ":
            raise PriorError(f"{parameter}: correlations take Prior('LKJ', eta=...), not {prior}.")
        return prior
    if prior.name == "LKJ":
        raise PriorError(f"{parameter}: {prior} is a prior for correlations (key 'corr_<group>').")
    if parameter.startswith(("dispersion[", "zero[")):
        return on_the_line(parameter, prior)
    if parameter.startswith("thresholds[") and prior.nonnegative:
        raise PriorError(
            f"{parameter} lies anywhere on the line and {prior} has nothing below zero; use Normal or StudentT."
        )
    if parameter.startswith(("fixef[", "thresholds[")) or prior.nonnegative is not False:
        return prior
    if prior.name == "Flat":
        return Prior("HalfFlat")
    better = f"use {_HALF_VERSION.get(prior.name, 'HalfNormal')}" if prior.name != "Uniform" else "use lower=0 or above"
    what = "a standard deviation" if parameter.startswith("sd_") or parameter == "sigma" else "positive"
    raise PriorError(f"{parameter} is {what} and {prior} reaches below zero; {better}.")


def _assigned(given: Any, keys: Mapping[str, tuple[str, ...]], groups: Mapping[str, Group]) -> dict[str, Prior]:
    """The user's prior for each parameter that has one; a narrow key wins over a broad one."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise PriorError(f"priors= takes None, 'flat', or a dict from names to priors; got {given!r}.")
    for key in (key for key in given if key not in keys):
        raise _unknown(key, keys, groups)
    owner: dict[str, str] = {}
    for key, parameters in keys.items():
        if key in given:
            owner |= dict.fromkeys(parameters, key)
    twice = [key for key in given if f"fixef[{key}]" in given and keys[key] == (f"fixef[{key}]",)]
    if twice:
        raise PriorError(f"{twice[0]!r} and 'fixef[{twice[0]}]' name the same coefficient: give one of them.")
    if idle := sorted(set(given) - set(owner.values())):
        raise PriorError(f"The prior {idle[0]!r} applies to nothing: all that it names have priors of their own keys.")
    return {parameter: _placed(parameter, Prior.of(given[key])) for parameter, key in owner.items()}


def _flat(keys: Mapping[str, tuple[str, ...]]) -> dict[str, Prior]:
    parameters = {name for names in keys.values() for name in names}
    return {
        name: Prior("LKJ", eta=1) if name.startswith("corr_") else _placed(name, Prior("Flat")) for name in parameters
    }


def resolve(
    given: Any,
    *,
    coefficient_names: Sequence[str],
    column_means: Sequence[float],
    column_sds: Sequence[float],
    has_intercept: bool,
    response_mean: float,
    response_sd: float,
    groups: Mapping[str, Group],
    slopes: Sequence[float] | None = None,
    dispersion: str | None = "sigma",
    further: Mapping[str, Further] | None = None,
    second: Mapping[str, Prior] | None = None,
) -> Priors:
    """The priors of a model: the given ones, and Bambi's default scales for the others.

    With s = 2.5 sd(y) and w² = s² + Σ (s x̄_j / s_j)² over the slopes that keep their default: slope j
    Normal(0, s/s_j); Intercept Normal(ȳ, w) at the predictor means; a group's intercept sd HalfNormal(w), its slopes'
    sd HalfNormal(s/s_j); sigma HalfStudentT(4, sd(y)); correlations LKJ(1). The coefficient of a constant column c
    other than the Intercept is an intercept divided by c. With `slopes` their scales stand in place of s/s_j, and the
    Intercept is Normal(0, 1.5) at the predictor means. Another dispersion than sigma is HalfCauchy(1). For the
    coefficients of other formulas see `further.further_priors`.

    Parameters
    ----------
    given : None, "flat" or mapping
        Keys ``"Intercept"``, a coefficient's name or ``"fixef[name]"``, ``"fixef"`` (all other coefficients, the
        Intercept included), ``"sd_g"``, ``"sd_g[effect]"``, ``"corr_g"``, ``"sigma"``. Where a column is called like
        another key, the plain key means the parameter. ``"flat"``: uniform on β, sd, correlations and σ.
    coefficient_names : sequence of str
        The p columns of X.
    column_means, column_sds : (p,) sequences of float
        Their means and standard deviations (ddof 0).
    has_intercept : bool
        Whether a column called ``Intercept`` is the intercept.
    response_mean, response_sd : float
        Of the response (ddof 0); 0 and 1 for a response that sets no scale.
    groups : mapping of str to (effect names, effect column sds, correlated)
        Per grouping factor; an effect's sd is 0 or NaN for an intercept.
    slopes : (p,) sequence of float, optional
        Scales of the slopes' priors where 2.5 sd(y)/sd(x) is not the rule (bernoulli and binomial, logit or probit).
    dispersion : str or None
        Name of the family's dispersion parameter, None where it has none.
    further : mapping of str to (coefficient names, column means, centres of the default priors), optional
        Of the formulas for ``"dispersion"`` and ``"zero"``.
    second : mapping, optional
        Default priors of the family's other parameters.

    Returns
    -------
    Priors
        What is in use.

    Raises
    ------
    PriorError
        A key names nothing, a prior does not suit its parameter, or a default has no scale.

    Examples
    --------
    >>> p = resolve({"sigma": Prior("HalfNormal", sigma=1)}, coefficient_names=("Intercept",), column_means=(1.0,),
    ...             column_sds=(0.0,), has_intercept=True, response_mean=5.0, response_sd=4.0, groups={})
    >>> p.describe()[0]
    ('fixef[Intercept]', 'Normal(mu=5, sigma=10) at the predictor means', 'default')
    """
    keys = _keys(coefficient_names, groups, dispersion, further or {}, tuple(second or ()))
    chosen = _flat(keys) if isinstance(given, str) and given == "flat" else _assigned(given, keys, groups)
    names = [f"fixef[{name}]" for name in coefficient_names]
    scales: Sequence[float | None] = slopes or [None] * len(names)
    columns: list[Column] = list(zip(column_means, column_sds, scales, strict=True))
    default = [column for name, column in zip(names, columns, strict=True) if name not in chosen]
    wide = wide_scale(SD_RULE * response_sd, default)
    intercept = None if slopes is None else SHARE_INTERCEPT
    scale = Scale(float(response_mean), float(response_sd), wide, has_intercept, intercept)
    return Priors(
        coefficients=tuple(coefficient_names),
        fixef=tuple(
            chosen.get(name) or scale.coefficient(name, *column) for name, column in zip(names, columns, strict=True)
        ),
        centred_intercept=has_intercept and "fixef[Intercept]" not in chosen,
        column_means=tuple(float(mean) for mean in column_means),
        effects={group: tuple(effects) for group, (effects, _, _) in groups.items()},
        sd={
            group: tuple(
                chosen.get(name) or scale.deviation(name, sd)
                for name, sd in zip((f"sd_{group}[{effect}]" for effect in effects), sds, strict=True)
            )
            for group, (effects, sds, _) in groups.items()
        },
        corr={
            g: chosen.get(f"corr_{g}", Prior("LKJ", eta=1)) if linked else None for g, (_, _, linked) in groups.items()
        },
        noise=_noise(dispersion, chosen, response_sd),
        given=frozenset({"flat"} if isinstance(given, str) else given or ()),
        chosen=frozenset(chosen),
        dispersion=dispersion,
        further={name: further_priors(name, *columns, chosen) for name, columns in (further or {}).items()},
        second={name: chosen.get(name, prior) for name, prior in (second or {}).items()},
    )


def _noise(dispersion: str | None, chosen: Mapping[str, Prior], response_sd: float) -> Prior | None:
    """The prior of the dispersion: the given one, or Bambi's."""
    if dispersion is None or dispersion in chosen:
        return chosen.get(dispersion or "")
    if dispersion == "sigma":
        return scaled("sigma", "HalfStudentT", response_sd, nu=4)
    return Prior("HalfCauchy", beta=1)
