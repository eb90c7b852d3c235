"""A term's name → the hypothesis that it is nothing, as a test of any response on one design."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bayeslmm.degrees import METHODS, contrast_degrees
from bayeslmm.encoding import public_name
from bayeslmm.errors import MethodError
from bayeslmm.estimates import variance_names
from bayeslmm.fit import fit as fit_model
from bayeslmm.growth import changed
from bayeslmm.model import Model
from bayeslmm.nesting import mixture_p, p_value, reference
from bayeslmm.refits import Refits
from bayeslmm.result import PointFit
from bayeslmm.terms import FixedBlock, RandomTerm

Array = NDArray[np.float64]
TESTS = ("satterthwaite", "kenward-roger", "asymptotic", "lrt")


class Hypothesis(ABC):
    """The hypothesis that some parameters of a model are 0.

    Parameters
    ----------
    model : Model
        The larger model, of which only the design is used.
    label : str
        What is tested, and how.
    note : str
        What to know about the test; may be empty.
    """

    def __init__(self, model: Model, label: str, note: str = "") -> None:
        self.model, self.label, self.note = model, label, note

    @abstractmethod
    def test(self, y: Array) -> tuple[float, PointFit]:
        """The p-value for a response (n,), and the fit of the larger model."""


class FTest(Hypothesis):
    """Rows L of Lβ = 0, by F (or Wald's χ²) from a REML fit."""

    def __init__(self, model: Model, term: str, columns: Sequence[int], df: str) -> None:
        shown = {"satterthwaite": "F, Satterthwaite", "kenward-roger": "F, Kenward–Roger", "asymptotic": "Wald's χ²"}
        super().__init__(model, f"{term} = 0 ({shown[df]})")
        self.rows, self._df, self._refits = np.eye(model.X.shape[1])[list(columns)], df, Refits(model)

    def test(self, y: Array) -> tuple[float, PointFit]:
        """P of F, and the REML fit."""
        fit = fit_model(self._refits.model(y), "REML")
        return contrast_degrees(fit, self.rows, self._df).p, fit


class RatioTest(Hypothesis):
    """A smaller model against the larger one, by the likelihood ratio."""

    def __init__(self, small: Model, large: Model, term: str, method: Literal["ML", "REML"]) -> None:
        found = reference(small, large)
        self._mixture = found.mixture
        self._degrees = large.X.shape[1] + large.n_theta - small.X.shape[1] - small.n_theta
        against = f"χ²({self._degrees})" if not found.mixture else "½χ²({}) + ½χ²({})".format(*found.mixture)
        super().__init__(
            large, f"{term} = 0 (likelihood ratio, {method}, {against})", "" if found.mixture else found.note
        )
        self._refits, self._method = (Refits(small), Refits(large)), method

    def test(self, y: Array) -> tuple[float, PointFit]:
        """P of the likelihood ratio, and the larger fit."""
        small, large = (fit_model(refits.model(y), self._method) for refits in self._refits)
        ratio = max(0.0, 2.0 * (large.loglik - small.loglik))
        p = mixture_p(ratio, self._mixture) if self._mixture else p_value(ratio, self._degrees)
        return p, large


def hypothesis(model: Model, term: str, test: str | None) -> Hypothesis:
    """The hypothesis that a term of a model is 0.

    Parameters
    ----------
    model : Model
        The larger model.
    term : str
        A coefficient, a term of the fixed part, or standard deviations.
    test : str or None
        One of `TESTS`; None for the usual one.

    Returns
    -------
    Hypothesis

    Raises
    ------
    MethodError
        The model has no such term, or the test is not for it.
    """
    if test is not None and test not in TESTS:
        raise MethodError(f"test={test!r} is not known; use {', '.join(map(repr, TESTS))}")
    deviations = [name for name in variance_names(model) if name.startswith("sd_") and _names(term, name)]
    if deviations:
        if test not in (None, "lrt"):
            raise MethodError(f'test={test!r} is for coefficients; that a variance is 0 is tested by test="lrt"')
        return RatioTest(_without_effects(model, deviations), model, term, "REML")
    columns = _columns(model, term)
    if test == "lrt":
        return RatioTest(_without_columns(model, columns), model, term, "ML")
    df = test or "satterthwaite"
    assert df in METHODS
    return FTest(model, term, columns, df)


def _names(term: str, parameter: str) -> bool:
    return parameter == term or parameter.startswith(f"{term}[")


def _columns(model: Model, term: str) -> list[int]:
    """Columns of X that a coefficient's or a term's name stands for."""
    names = model.design.fixed.names
    plain = term[6:-1] if term.startswith("fixef[") and term.endswith("]") else term
    if plain in names:
        return [names.index(plain)]
    kept = list(model.design.fixed.kept)
    slices = model.design.specs["fixed"].term_indices
    terms = {public_name(str(own)): [kept.index(j) for j in at if j in kept] for own, at in slices.items()}
    if terms.get(plain):
        return terms[plain]
    factors = [name for name, columns in terms.items() if columns and name not in names and name != "1"]
    deviations = [name for name in variance_names(model) if name.startswith("sd_")]
    raise MethodError(f"term={term!r} is not in the model; it has {', '.join([*names, *factors, *deviations])}")


def _without_columns(model: Model, columns: Sequence[int]) -> Model:
    """The model with some coefficients 0."""
    fixed = model.design.fixed
    kept = [j for j in range(len(fixed.names)) if j not in columns]
    block = FixedBlock(tuple(fixed.names[j] for j in kept), fixed.X[:, kept], fixed.dropped, fixed.kept[kept])
    return changed(model, replace(model.design, fixed=block))


def _without_effects(model: Model, deviations: Sequence[str]) -> Model:
    """The model with some random effects 0."""
    terms: list[RandomTerm] = []
    for term in model.design.random:
        kept = [i for i, effect in enumerate(term.effects) if f"sd_{term.group}[{effect}]" not in deviations]
        if not kept:
            continue
        effects, columns = tuple(term.effects[i] for i in kept), np.ascontiguousarray(term.columns[:, kept])
        covariance = type(term.covariance)(len(kept))
        terms.append(replace(term, effects=effects, columns=columns, covariance=covariance))
    return changed(model, replace(model.design, random=tuple(terms)))
