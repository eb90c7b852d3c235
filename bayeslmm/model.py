"""Model = formula + design + family + priors: written once, frozen, printable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from bayeslmm.description import describe
from bayeslmm.design import Design, build
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.exact.blocks import Structure, structure
from bayeslmm.exact.gaussian import Gaussian
from bayeslmm.exact.products import Products, products, public_order
from bayeslmm.family import HETEROSCEDASTIC, family_of
from bayeslmm.formula import Formula, parse
from bayeslmm.priors import Priors
from bayeslmm.rewriting import updated_formula
from bayeslmm.scales import design_priors
from bayeslmm.stages import Stages
from bayeslmm.terms import RandomTerm, orthogonal_basis

Array = NDArray[np.float64]


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Model:
    """A hierarchical model and its data: ``y = offset + X beta + Z u + e``, ``u ~ N(0, G)``, ``e ~ N(0, sigma² W⁻¹)``.

    For another family: ``g(E[y | u]) = offset + X beta + Z u``, g the link.

    Parameters
    ----------
    formula : str
        lme4's grammar: ``"Reaction ~ Days + (Days | Subject)"``.
    data : table
        pandas, Polars or PyArrow table, or a dict of arrays.
    family : str
        Distribution of the response given the effects: ``"gaussian"``, ``"bernoulli"``, ``"binomial"`` (with a response
        ``p(successes, trials)``), ``"poisson"``, ``"negativebinomial"``, ``"gamma"``, ``"wald"``, ``"beta"``, ``"t"``, or
        ``"cumulative"`` for ordered categories: whole numbers or an ordered categorical; thresholds stand in the place
        of the Intercept.
    link : str, optional
        Link function; each family has its default, Bambi's.
    priors : mapping or "flat", optional
        Keys are coefficient names, ``"fixef"``, ``"sd_Subject"``, ``"sd_Subject[Days]"``, ``"corr_Subject"``, ``"sigma"``.
        What is not given has Bambi's default scale. Of another family its dispersion stands in place of ``"sigma"``:
        ``"alpha"``, ``"lam"``, ``"kappa"``; the t family has ``"nu"``, ordered categories ``"thresholds"`` besides; of the
        formulas below ``"dispersion"``, ``"zero"`` (all coefficients of one) and ``"zero[x]"``, on the log and the logit
        scale; a ``Beta`` prior is of the probability itself.
    weights, offset : str or array, optional
        Prior weights (the residual variance of row i is ``sigma**2 / w[i]``) and a known addend; column or array.
    known : mapping, optional
        Known covariances across levels; not supported yet, so it must be None.
    contrasts : mapping, optional
        Coding of factors, ``{"treat": "sum"}``: "treatment", "sum", "helmert" or "poly".
    missing : {"drop", "error"}
        What to do with rows where a needed value is missing.
    dispersion, zero : str, optional
        One-sided formulas, ``"~ x"``, for the log of the family's dispersion (of a Gaussian response σ; the model's family is
        then ``"heteroscedastic_gaussian"``) and for the logit of the probability of a zero of its own (families
        ``"zero_inflated_…"`` and ``"hurdle_…"``, where it is ``"~ 1"`` if not given).

    Attributes
    ----------
    formula : Formula
    design : Design
    family, link : str
    priors : Priors
        The priors in use, given or default.

    Raises
    ------
    FormulaError, DataError, PriorError, NotSupportedError
        What cannot be read, encoded or fitted, and where.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> model = bl.Model("y ~ 1 + (1 | g)", data)
    >>> model.X.shape, model.Z.shape
    ((6, 1), (6, 3))
    """

    formula: Formula
    design: Design
    family: str
    link: str
    priors: Priors
    stages: Stages | None
    arguments: Mapping[str, Any] = field(repr=False)

    def __init__(
        self,
        formula: str,
        data: Any,
        family: str = "gaussian",
        link: str | None = None,
        priors: Any = None,
        weights: str | Sequence[float] | None = None,
        offset: str | Sequence[float] | None = None,
        known: Mapping[str, Any] | None = None,
        contrasts: Mapping[str, str] | None = None,
        missing: str = "drop",
        dispersion: str | None = None,
        zero: str | None = None,
    ) -> None:
        _check_supported(known)
        arguments = {
            "formula": formula, "data": data, "family": family, "link": link, "priors": priors, "weights": weights,
            "offset": offset, "known": known, "contrasts": contrasts, "missing": missing,
            "dispersion": dispersion, "zero": zero,
        }  # fmt: skip
        parsed = parse(formula)
        family = HETEROSCEDASTIC if family == "gaussian" and dispersion is not None else family
        distribution = family_of(family)
        options: dict[str, Any] = {"weights": weights, "offset": offset, "contrasts": contrasts, "missing": missing}
        design = build(
            parsed,
            data,
            **options,
            binary=family == "bernoulli",
            ordered=distribution.ordered,
            residual=distribution.plain == "gaussian",
            further=distribution.further(dispersion, zero),
        )
        distribution.check(design.response, design.y, design.trials)
        self._set(
            formula=parsed,
            design=design,
            family=family,
            link=distribution.link(link),
            priors=design_priors(priors, design, distribution, distribution.link(link)),
            stages=None,
            arguments=arguments,
        )

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_stages(cls, first: str, second: Mapping[str, Mapping[str, Any]], data: Any, **options: Any) -> Model:
        """Build a model from its two stages.

        Parameters
        ----------
        first : str
            Level 1: a formula without random terms, ``"score ~ 1 + ses"``.
        second : mapping
            For each group, which level-1 coefficients vary over it and with what predictors:
            ``{"school": {"1": "1 + sector", "ses": "1 + sector"}}``.
        data : table
            As for `Model`.
        **options
            The other arguments of `Model`.

        Returns
        -------
        Model
            The same model as the written-out formula; ``print`` shows both stages.

        Raises
        ------
        SpecificationError
            A stage cannot be read, or names a coefficient that level 1 does not have.

        Examples
        --------
        >>> import bayeslmm as bl
        >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
        >>> bl.Model.from_stages("y ~ 1", {"g": {"1": "1"}}, data).formula.text
        'y ~ 1 + (1 | g)'
        """
        stages = Stages.read(first, second)
        model = cls(stages.formula(), data, **options)
        model._set(stages=stages)
        return model

    def update(self, formula: str | None = None, data: Any = None, **changes: Any) -> Model:
        """Return a new model with some arguments changed.

        Parameters
        ----------
        formula : str, optional
            A new formula, in which ``.`` on either side stands for the old one: ``". ~ . + x"``, ``"log(.) ~ ."``,
            ``". ~ . - (1 | g)"``.
        data : table, optional
            Other data.
        **changes
            Any other argument of `Model`.

        Returns
        -------
        Model

        Examples
        --------
        >>> import bayeslmm as bl
        >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "x": [1, 2, 3, 1, 2, 3], "g": list("aabbcc")}
        >>> bl.Model("y ~ 1 + (1 | g)", data).update(". ~ . + x").formula.text
        'y ~ 1 + (1 | g) + x'
        """
        unknown = set(changes) - set(self.arguments)
        if unknown:
            raise MethodError(f"Model has no argument {sorted(unknown)[0]!r}; it has {', '.join(self.arguments)}")
        new = dict(self.arguments) | changes
        if formula is not None:
            new["formula"] = updated_formula(str(new["formula"]), formula)
        if data is not None:
            new["data"] = data
        return Model(**new)

    @property
    def X(self) -> Array:
        """Fixed-effects columns (n, p)."""
        return self.design.fixed.X

    @cached_property
    def terms(self) -> tuple[RandomTerm, ...]:
        """Random terms in theta's order: by decreasing number of levels."""
        return tuple(self.design.random[t] for t in public_order(self.design))

    @cached_property
    def Z(self) -> sp.csr_array:
        """Random-effects columns (n, q), sparse; terms in theta's order, within a term level by level."""
        n = self.design.nobs
        blocks = [sp.csr_array((n, 0))]
        for term in self.terms:
            k = len(term.effects)
            columns = term.codes[:, None] * k + np.arange(k)
            pointer = np.arange(n + 1) * k
            block = sp.csr_array((term.columns.ravel(), columns.ravel(), pointer), shape=(n, term.size))
            blocks.append(block)
        return sp.csr_array(sp.hstack(blocks, format="csr"))

    def Lambda(self, theta: Array | Sequence[float]) -> sp.csc_array:
        """Relative covariance factor Λ(θ) (q, q), sparse lower triangular: ``Var(u) = sigma² Λ Λ'``."""
        factors = self.factors(theta)
        blocks = [sp.kron(sp.eye_array(len(term.levels)), lam) for term, lam in zip(self.terms, factors, strict=True)]
        return sp.csc_array(sp.block_diag(blocks, format="csc")) if blocks else sp.csc_array((0, 0))

    def factors(self, theta: Array | Sequence[float]) -> list[Array]:
        """The k x k factor λ of each term, in theta's order."""
        theta = self.checked_theta(theta)
        ends = np.cumsum([0] + [term.covariance.n_theta for term in self.terms])
        spans = zip(self.terms, ends[:-1], ends[1:], strict=True)
        return [term.covariance.factor(theta[start:stop]) for term, start, stop in spans]

    def checked_theta(self, theta: Any) -> Array:
        """Theta as an array of the model's length; raises for anything else."""
        try:
            values = np.asarray(theta, float)
        except (TypeError, ValueError) as error:
            raise MethodError(f"theta takes numbers; got {theta!r}") from error
        if values.shape != (self.n_theta,):
            names = ", ".join(self.theta_names) or "none"
            raise MethodError(f"theta has shape {values.shape}; this model has {self.n_theta} entries: {names}")
        return values

    @property
    def n_theta(self) -> int:
        """Number of covariance parameters besides sigma."""
        return sum(term.covariance.n_theta for term in self.terms)

    @property
    def theta_names(self) -> tuple[str, ...]:
        """A name for each entry of theta: `Subject.Intercept`, `Subject.Days.Intercept`, and so on."""
        names = []
        for term in self.terms:
            for row, column in zip(*term.covariance.pattern, strict=True):
                parts = [term.group, term.effects[row]] + ([term.effects[column]] if row != column else [])
                names.append(".".join(parts))
        return tuple(names)

    @cached_property
    def theta_basis(self) -> Array:
        """From the theta of orthogonal effects to theta (n_theta, n_theta): the scale that optimisers move on."""
        return orthogonal_basis(self.terms)

    @property
    def theta_start(self) -> Array:
        """Theta at which every orthogonal effect is as large as the residual: where a search begins."""
        ones = [term.covariance.is_diagonal.astype(float) for term in self.terms]
        return self.theta_basis @ np.concatenate([np.empty(0), *ones])

    @property
    def groups(self) -> tuple[str, ...]:
        """Grouping factors, in theta's order."""
        return tuple(dict.fromkeys(term.group for term in self.terms))

    def effects(self, group: str) -> tuple[str, ...]:
        """Effects on one grouping factor, over all its terms, in the formula's order."""
        return tuple(effect for term in self.design.random if term.group == group for effect in term.effects)

    def levels(self, group: str) -> tuple[str, ...]:
        """Levels of one grouping factor."""
        return next(term.levels for term in self.design.random if term.group == group)

    def pairs(self, group: str) -> tuple[tuple[int, int], ...]:
        """Positions (i, j), i < j, in `effects(group)` of the correlated effects, term by term."""
        pairs, at = [], 0
        for term in self.design.random:
            if term.group == group:
                pairs += [(at + i, at + j) for i, j in term.covariance.pairs]
                at += len(term.effects)
        return tuple(pairs)

    @cached_property
    def products(self) -> Products:
        """The cross-products of the data, taken once."""
        self.require_gaussian()
        return products(self.design)

    @property
    def dispersion(self) -> str | None:
        """Name of the dispersion parameter: ``sigma``, ``alpha``, ``lam``, ``kappa``; None where there is none, or a formula."""
        return self.priors.dispersion

    def require_gaussian(self) -> None:
        """Raise for a model of another family, whose random effects do not integrate out exactly."""
        if self.family != "gaussian":
            raise NotSupportedError(
                "this needs a Gaussian response with one residual variance, whose random effects integrate out exactly; the "
                f"model's is {self.family}"
            )

    @cached_property
    def structure(self) -> Structure:
        """Which levels meet, and how the factorisation goes about it."""
        return self.products.structure if self.family == "gaussian" else structure(self.design.random)

    @cached_property
    def gaussian(self) -> Gaussian:
        """The marginal densities as functions of theta."""
        return Gaussian(self.products)

    @cached_property
    def flat_priors(self) -> Priors:
        """Uniform priors on β, sd, correlations and the dispersion."""
        return design_priors("flat", self.design, family_of(self.family), self.link)

    def __repr__(self) -> str:
        return f"Model({self.formula.text!r}, {self.design.nobs} rows)"

    def __str__(self) -> str:
        return describe(self)


def _check_supported(known: Mapping[str, Any] | None) -> None:
    if known:
        raise NotSupportedError("known covariances across levels (known=) cannot be fitted yet; leave it out")
