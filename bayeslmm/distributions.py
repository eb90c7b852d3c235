"""What one prior is: a distribution's name and arguments, checked where its density has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeslmm.errors import PriorError


@dataclass(frozen=True, slots=True)
class _Family:
    """Arguments of a closed-form family (None: must be given), its support, and the other way to write it."""

    defaults: Mapping[str, float | None]
    real: tuple[str, ...] = ()
    nonnegative: bool = False
    proper: bool = True
    other: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    convert: Callable[..., tuple[float, ...]] | None = None


def _sd_of_precision(precision: float) -> tuple[float]:
    return (1 / math.sqrt(precision),)


def _rate_of_scale(scale: float) -> tuple[float]:
    return (1 / scale,)


def _gamma_of_moments(mu: float, sigma: float) -> tuple[float, float]:
    ratio = mu / sigma
    return ratio * ratio, ratio / sigma


def _inverse_gamma_of_moments(mu: float, sigma: float) -> tuple[float, float]:
    ratio = mu / sigma
    return 2 + ratio * ratio, mu * (1 + ratio * ratio)


def _with_precision(defaults: Mapping[str, float | None], name: str, **options: Any) -> _Family:
    return _Family(defaults, other=(name,), replaces=("sigma",), convert=_sd_of_precision, **options)


def _with_moments(defaults: Mapping[str, float | None], convert: Callable[..., tuple[float, ...]]) -> _Family:
    other, replaces = ("mu", "sigma"), ("alpha", "beta")
    return _Family(defaults, nonnegative=True, other=other, replaces=replaces, convert=convert)


FAMILIES: Mapping[str, _Family] = {
    "Flat": _Family({}, proper=False),
    "HalfFlat": _Family({}, proper=False, nonnegative=True),
    "Normal": _with_precision({"mu": 0.0, "sigma": 1.0}, "tau", real=("mu",)),
    "HalfNormal": _with_precision({"sigma": 1.0}, "tau", nonnegative=True),
    "StudentT": _with_precision({"nu": None, "mu": 0.0, "sigma": 1.0}, "lam", real=("mu",)),
    "HalfStudentT": _with_precision({"nu": None, "sigma": 1.0}, "lam", nonnegative=True),
    "HalfCauchy": _Family({"beta": None}, nonnegative=True),
    "Exponential": _Family({"lam": 1.0}, nonnegative=True, other=("scale",), replaces=("lam",), convert=_rate_of_scale),
    "Gamma": _with_moments({"alpha": None, "beta": None}, _gamma_of_moments),
    "InverseGamma": _with_moments({"alpha": None, "beta": 1.0}, _inverse_gamma_of_moments),
    "LogNormal": _with_precision({"mu": 0.0, "sigma": 1.0}, "tau", real=("mu",), nonnegative=True),
    "Uniform": _Family({"lower": 0.0, "upper": 1.0}, real=("lower", "upper")),
    "LogitBeta": _Family({"alpha": None, "beta": None}),
    "LKJ": _Family({"eta": None}),
}
_WHOLE_LINE = {
    "Cauchy",
    "Laplace",
    "AsymmetricLaplace",
    "Logistic",
    "SkewNormal",
    "SkewStudentT",
    "Gumbel",
    "ExGaussian",
}


def _number(name: str, key: str, value: Any) -> float:
    """One finite number, from a number or an array that holds one."""
    array = np.asarray(value if isinstance(value, (int, float, np.generic, np.ndarray)) else None)
    if array.dtype.kind not in "iuf" or array.size != 1:
        raise PriorError(
            f"{name}: {key}={value!r} is not a number. Each coefficient and each standard deviation has a prior of its "
            f"own, with one number for each argument."
        )
    number = float(array.reshape(()))
    if not math.isfinite(number):
        raise PriorError(f"{name}: {key}={number} is not finite. A prior without information is written Prior('Flat').")
    return number


def _check_names(name: str, family: _Family, args: Mapping[str, Any]) -> None:
    known = (*family.defaults, *(key for key in family.other if key not in family.defaults))
    unknown = [key for key in args if key not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no arguments"
        raise PriorError(f"{name} has no argument {', '.join(map(repr, unknown))}; it {takes}.")
    both = [key for key in family.replaces if key in args]
    if both and any(key in args for key in family.other):
        raise PriorError(f"{name}: give {' and '.join(family.replaces)} or {' and '.join(family.other)}, not both.")


def _check_values(name: str, values: Mapping[str, float], real: tuple[str, ...]) -> None:
    for key, value in values.items():
        if key not in real and value <= 0:
            raise PriorError(f"{name}: {key}={_text(value)} must be positive.")
    if name == "Uniform" and values["lower"] >= values["upper"]:
        raise PriorError(f"Uniform: lower={_text(values['lower'])} must be below upper={_text(values['upper'])}.")


def _canonical(name: str, family: _Family, args: Mapping[str, Any]) -> dict[str, float]:
    """The family's own arguments, in its order, every one a number."""
    _check_names(name, family, args)
    given = {key: _number(name, key, value) for key, value in args.items()}
    if family.convert is not None and any(key in given for key in family.other):
        missing = [key for key in family.other if key not in given]
        if missing:
            raise PriorError(f"{name} needs {', '.join(missing)} beside {', '.join(given)}.")
        _check_values(name, {key: given[key] for key in family.other}, ())
        other = [given.pop(key) for key in family.other]
        given.update(zip(family.replaces, family.convert(*other), strict=True))
    filled = {key: given.get(key, default) for key, default in family.defaults.items()}
    missing = [key for key, value in filled.items() if value is None]
    if missing:
        raise PriorError(f"{name} needs {' and '.join(missing)}: Prior({name!r}, {'=..., '.join(missing)}=...).")
    values = {key: value for key, value in filled.items() if value is not None}
    _check_values(name, values, family.real)
    return {key: _number(name, key, value) for key, value in values.items()}


def _kept(name: str, key: str, value: Any) -> Any:
    """An argument of a family without closed form: a plain number or text, otherwise refused."""
    if isinstance(value, str):
        return value
    return value if type(value) is int else _number(name, key, value)


def _text(value: Any, digits: int = 17) -> str:
    if not isinstance(value, float):
        return repr(value)
    short = repr(value) if digits == 17 else f"{value:.{digits}g}"
    return short.removesuffix(".0")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Prior:
    """A prior distribution: a PyMC distribution's name and its arguments, as `bambi.Prior` takes them.

    Families with a closed form (`closed_form`) are checked here, their arguments filled in and put into one form
    (``tau`` becomes ``sigma``, the moments of a Gamma its ``alpha`` and ``beta``). Any other name is kept as it is and
    goes to the PyMC graph. A prior that is given is never rescaled.

    Parameters
    ----------
    name : str
        ``"Normal"``, ``"HalfNormal"``, ``"StudentT"``, ``"HalfStudentT"``, ``"HalfCauchy"``, ``"Exponential"``,
        ``"Gamma"``, ``"InverseGamma"``, ``"LogNormal"``, ``"Uniform"``, ``"Flat"``, ``"HalfFlat"``, ``"LKJ"``,
        ``"LogitBeta"`` (of the logit of a number with a Beta distribution), or another PyMC distribution.
    auto_scale : bool
        Read as Bambi reads it on a prior that the user gives: without effect.
    dist, noncentered : None
        Bambi's other two arguments; only None has a meaning here.
    **args : float
        The distribution's arguments; those left out take PyMC's defaults.

    Raises
    ------
    PriorError
        An argument is unknown, missing, not a number, or outside its range.

    Examples
    --------
    >>> Prior("HalfNormal", sigma=10)
    HalfNormal(sigma=10)
    >>> Prior("Normal", tau=4).args
    {'mu': 0.0, 'sigma': 0.5}
    """

    name: str
    items: tuple[tuple[str, Any], ...]

    def __init__(
        self, name: str, auto_scale: bool = True, dist: None = None, noncentered: None = None, **args: Any
    ) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise PriorError(
                f"A prior begins with the name of its distribution, as in Prior('Normal', ...); got {name!r}."
            )
        if dist is not None:
            raise PriorError(f"{name}: dist= is not supported; name a PyMC distribution and give its arguments.")
        if noncentered is not None:
            raise PriorError(f"{name}: noncentered= is not part of a prior here; choose it when the graph is built.")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "items", _arguments(name, args))

    @classmethod
    def of(cls, value: Any) -> Prior:
        """A prior from a `Prior`, a `bambi.Prior`, or a table such as ``{name = "HalfNormal", sigma = 10}``.

        Parameters
        ----------
        value : Prior, bambi.Prior or mapping
            What the user wrote.

        Returns
        -------
        Prior
            The same prior as this package keeps it.

        Raises
        ------
        PriorError
            It is none of the three.

        Examples
        --------
        >>> Prior.of({"name": "LKJ", "eta": 2})
        LKJ(eta=2)
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            if "name" not in value:
                raise PriorError(
                    f"A prior in a table needs its name, as in {{name = 'Normal', sigma = 2}}; got {dict(value)}."
                )
            return cls(**{str(key): argument for key, argument in value.items()})
        if isinstance(getattr(value, "name", None), str) and isinstance(getattr(value, "args", None), Mapping):
            dist, noncentered = getattr(value, "dist", None), getattr(value, "noncentered", None)
            return cls(value.name, dist=dist, noncentered=noncentered, **value.args)
        raise PriorError(
            f"{value!r} is not a prior: write Prior('HalfNormal', sigma=10), or {{name = 'HalfNormal', sigma = 10}} "
            "in a file. (A parameter is held at a value by fixed= in fit.)"
        )

    @property
    def args(self) -> dict[str, Any]:
        """The arguments, in the family's order."""
        return dict(self.items)

    @property
    def closed_form(self) -> bool:
        """Whether its density is known here; otherwise only the PyMC graph knows it."""
        return self.name in FAMILIES

    @property
    def proper(self) -> bool:
        """Whether it integrates to one: not so for Flat and HalfFlat."""
        return not self.closed_form or FAMILIES[self.name].proper

    @property
    def nonnegative(self) -> bool | None:
        """Whether its support lies in [0, inf); None where this is not known."""
        if self.name == "Uniform":
            return bool(self.args["lower"] >= 0)
        if self.closed_form:
            return FAMILIES[self.name].nonnegative
        return False if self.name in _WHOLE_LINE else None

    def __repr__(self) -> str:
        """Write it as it is read, every digit kept."""
        return f"{self.name}({', '.join(f'{key}={_text(value)}' for key, value in self.items)})"

    def __str__(self) -> str:
        """Write it for people, four digits."""
        return f"{self.name}({', '.join(f'{key}={_text(value, 4)}' for key, value in self.items)})"


def _arguments(name: str, args: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The arguments of a prior, checked; a prior inside a prior is refused."""
    for key, value in args.items():
        if hasattr(value, "args"):
            raise PriorError(
                f"{name}: {key}={value} is itself a prior. A group's standard deviations have priors under their own "
                f"key: priors={{'sd_<group>': Prior({value.name!r}, ...)}}."
            )
    if name in FAMILIES:
        return tuple(_canonical(name, FAMILIES[name], args).items())
    known = {family.lower(): family for family in FAMILIES}
    if name.lower() in known:
        raise PriorError(f"No distribution is called {name!r}; did you mean {known[name.lower()]!r}?")
    return tuple((key, _kept(name, key, value)) for key, value in sorted(args.items()))
