"""The standard deviations and correlations of each group, as PyMC variables with their coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from bayeslmm.covariance import Diagonal, Unstructured
from bayeslmm.errors import NotSupportedError
from bayeslmm.graph.correlation import cholesky_of_correlation, correlation_vector
from bayeslmm.graph.variables import prior_variable
from bayeslmm.priors import Priors
from bayeslmm.terms import RandomTerm


@dataclass(frozen=True)
class GroupScale:
    """Standard deviations and correlations of all effects that vary over one group.

    Parameters
    ----------
    group : str
        Name of the group.
    terms : tuple of RandomTerm
        Its terms, in the formula's order.
    sd : TensorVariable (k,)
        Standard deviations, effects of all terms one after the other.
    corr : TensorVariable or None
        Correlations of the pairs within each correlated term, term after term; None where there are none.
    """

    group: str
    terms: tuple[RandomTerm, ...]
    sd: TensorVariable
    corr: TensorVariable | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the independent blocks of effects: a correlated term is one block, other effects stand alone."""
        return tuple(size for term in self.terms for size in _block_sizes(term))

    def factors(self) -> list[TensorVariable]:
        """Lower Cholesky factor (k_b, k_b) of each block's covariance, in order."""
        factors, effect, pair = [], 0, 0
        for size in self.sizes:
            sd = self.sd[effect : effect + size]
            count = size * (size - 1) // 2
            root = pt.ones((1, 1))
            if self.corr is not None and count:
                root = cholesky_of_correlation(self.corr[pair : pair + count], size)
            factors.append(sd[:, None] * root)
            effect, pair = effect + size, pair + count
        return factors


def _block_sizes(term: RandomTerm) -> list[int]:
    """Sizes of the blocks of correlated effects in one term."""
    size = len(term.effects)
    if isinstance(term.covariance, Diagonal):
        return [1] * size
    if isinstance(term.covariance, Unstructured):
        return [size]
    kind = type(term.covariance).__name__
    raise NotSupportedError(f"The PyMC graph has no {kind} covariance (group {term.group}); use us or diag.")


def group_scale(group: str, terms: tuple[RandomTerm, ...], priors: Priors) -> GroupScale:
    """The free variables ``sd_<group>`` and ``corr_<group>`` of one group, with their priors.

    Parameters
    ----------
    group : str
        Name of the group.
    terms : tuple of RandomTerm
        Its terms.
    priors : Priors
        The priors in use.

    Returns
    -------
    GroupScale

    Raises
    ------
    PriorError
        As `prior_variable`.
    NotSupportedError
        A covariance structure without correlations as free parameters.

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> from bayeslmm.priors import resolve
    >>> term = RandomTerm("g", ("Intercept",), np.ones((2, 1)), np.arange(2), ("a", "b"), Unstructured(1))
    >>> priors = resolve("flat", coefficient_names=(), column_means=(), column_sds=(), has_intercept=False,
    ...                  response_mean=0.0, response_sd=1.0, groups={"g": (("Intercept",), (0.0,), False)})
    >>> with pm.Model(coords={"g_effect": ["Intercept"]}):
    ...     group_scale("g", (term,), priors).sd.name
    'sd_g'
    """
    sd = prior_variable(f"sd_{group}", priors.sd[group], dims=f"{group}_effect", scale=True)
    sizes = [size for term in terms for size in _block_sizes(term) if size > 1]
    prior = priors.corr[group]
    if not sizes or prior is None:
        return GroupScale(group, terms, sd, None)
    corr = correlation_vector(f"corr_{group}", prior.args["eta"], sizes, dims=f"{group}_pair")
    return GroupScale(group, terms, sd, corr)
