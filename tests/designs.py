"""Random designs for hypothesis: nested, crossed and partially crossed factors, several terms on one, weights, offset."""

from __future__ import annotations

import numpy as np
from dense import design_of, public, term_of
from hypothesis import strategies as st

from bayeslmm.covariance import Diagonal, Unstructured

SIZES = (0.0, 0.0, 1e-8, 1e-3, 0.3, 1.0, 5.0, 50.0, 1e3)


def codes_of(kind, previous, q, n, rng):
    """Level of each row of a factor, given those of the factor before it."""
    if previous is None or kind == "crossed":
        return rng.integers(0, q, n)
    if kind == "nested":
        return previous * q + rng.integers(0, q, n)
    return previous * 2 + rng.integers(0, 3, n)  # partially crossed: neighbours share levels


@st.composite
def designs(draw, most_factors=3, sizes=SIZES):
    """A design of at most 60 rows and a theta, entries exactly 0 among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, p = draw(st.integers(8, 60)), draw(st.integers(0, 4))
    X = rng.normal(size=(n, p))
    X[:, :1] = 1.0
    random, previous = [], None
    for f in range(draw(st.integers(1, most_factors))):
        kind = draw(st.sampled_from(["crossed", "nested", "partial"]))
        previous = codes_of(kind, previous, draw(st.integers(2, 8)), n, rng)
        previous = np.unique(previous, return_inverse=True)[1]
        for _ in range(draw(st.integers(1, 2))):
            k = draw(st.integers(1, 3))
            columns = rng.normal(size=(n, k))
            if draw(st.booleans()):
                columns[:, 0] = 1.0
            random.append(term_of(f"g{f}", previous, columns, draw(st.sampled_from([Unstructured, Diagonal]))))
    weights = rng.uniform(0.1, 5.0, n) if draw(st.booleans()) else None
    offset = rng.normal(size=n) if draw(st.booleans()) else None
    design = design_of(rng.normal(size=n) + 5.0, X, random, weights, offset)
    diagonal = np.concatenate([term.covariance.is_diagonal for term in public(random)])
    chosen = np.array(draw(st.lists(st.sampled_from(sizes), min_size=len(diagonal), max_size=len(diagonal))))
    theta = chosen * rng.uniform(0.5, 1.0, len(diagonal))
    return design, np.where(diagonal, theta, theta * rng.choice([-1.0, 1.0], len(diagonal)))
