"""The exact core against the n × n covariance: criteria, densities, modes, covariances, selected inverse."""

import numpy as np
import pytest
from dense import LONG, cholesky, design_of, model_of, of_design, of_model, relative, term_of
from designs import designs
from hypothesis import assume, given, settings

import bayeslmm as bl
from bayeslmm.conditional import coefficient_root, conditional_covariances, conditional_modes
from bayeslmm.covariance import Diagonal, Unstructured
from bayeslmm.errors import ExactFitError
from bayeslmm.exact import blocks
from bayeslmm.exact.gaussian import INTEGRATED, JOINT, Gaussian, level, level_at
from bayeslmm.exact.inverse import selected_inverse
from bayeslmm.exact.products import products

SPARSE, DENSE = 0.0, np.inf


@pytest.fixture(params=[SPARSE, DENSE], ids=["sparse", "dense"])
def remainder(request, monkeypatch):
    monkeypatch.setattr(blocks, "SPARSE_COST", request.param)
    return request.param


def forced(design, cost):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SPARSE_COST", cost)
        return products(design)


def leaves_a_residual(oracle, Lam):
    """Whether effects this large do not all but reproduce the response: the cross-products then keep 1e-9."""
    return oracle.gls(Lam)[3] > 1e-3 * oracle.gls(0 * Lam)[3]


@settings(max_examples=200)
@given(designs())
def test_criteria_equal_those_of_the_dense_covariance(case):
    design, theta = case
    oracle, Lam = of_design(design), relative(design.random, theta)
    assume(leaves_a_residual(oracle, Lam))
    for reml in (False, True):
        want = float(oracle.deviance(Lam, reml))
        for cost in (SPARSE, DENSE):
            got = Gaussian(forced(design, cost)).deviance(theta, reml)
            assert abs(got - want) <= 1e-9 * (1 + abs(want))


@settings(max_examples=60)
@given(designs(sizes=(0.0, 1e-8, 0.3, 1.0, 5.0)))
def test_modes_and_covariances_equal_the_dense_ones(case):
    design, theta = case
    oracle, Lam = of_design(design), relative(design.random, theta)
    beta, covariance, sigma = oracle.beta(Lam)
    modes, variances = oracle.blup(Lam, beta)
    for cost in (SPARSE, DENSE):
        model = model_of(design)
        model.__dict__["products"] = forced(design, cost)
        at = model.gaussian.marginal(theta)
        found = model.gaussian.profile(theta)
        np.testing.assert_allclose(model.products.beta(found.beta), beta, rtol=1e-7, atol=1e-8)
        root = coefficient_root(model, at.S, sigma)
        got = root.T @ root
        np.testing.assert_allclose(got, covariance, rtol=1e-6, atol=1e-10 * np.abs(covariance).max(initial=0))
        u, v = conditional_modes(model, theta, beta), conditional_covariances(model, theta, sigma)
        start = 0
        for group, where in levels_of(model).items():
            stacked = np.stack([modes[rows] for rows in where])
            np.testing.assert_allclose(u[group], stacked, rtol=1e-7, atol=1e-7 * (1e-300 + np.abs(modes).max()))
            blocks_of_level = np.stack([variances[np.ix_(rows, rows)] for rows in where]) * sigma**2
            np.testing.assert_allclose(
                v[group], blocks_of_level, rtol=1e-6, atol=1e-9 * (1e-300 + np.abs(variances).max())
            )
            start += 1
        assert start == len(model.groups)


def levels_of(model):
    """For each group, rows of lme4's u that belong to each level, effects in the formula's order."""
    starts, at = {}, 0
    for term in model.terms:
        starts[id(term)] = at
        at += term.size
    found = {}
    for group in model.groups:
        mine = [t for t in model.design.random if t.group == group]
        found[group] = [
            np.concatenate([starts[id(t)] + j * len(t.effects) + np.arange(len(t.effects)) for t in mine])
            for j in range(len(mine[0].levels))
        ]
    return found


@settings(max_examples=60)
@given(designs(sizes=(0.0, 0.3, 1.0, 20.0)))
def test_selected_inverse_equals_the_dense_one(case):
    design, theta = case
    for cost in (SPARSE, DENSE):
        taken = forced(design, cost)
        s, lam = taken.system, taken.lam(theta)
        A, Lam = full_products(taken), full_lambda(taken, lam)
        want = np.linalg.inv(Lam.T @ A @ Lam + np.eye(len(A)))
        got = selected_inverse(s, Gaussian(taken).marginal(theta).factor)
        q, k = s.A11.shape[:2]
        for j in range(q):
            np.testing.assert_allclose(got.I11[j], want[j * k : j * k + k, j * k : j * k + k], rtol=1e-7, atol=1e-9)
            for link in range(s.link_ptr[j], s.link_ptr[j + 1]):
                rows, kf = q * k + s.link_row[link], s.width[s.link_factor[link]]
                block = got.I21[s.link_at[link] : s.link_at[link] + kf * k].reshape(kf, k)
                np.testing.assert_allclose(block, want[rows : rows + kf, j * k : j * k + k], rtol=1e-7, atol=1e-9)
        for b in range(len(s.rest_row)):
            kf, kg = s.width[s.rest_row_factor[b]], s.width[s.rest_col_factor[b]]
            row, column = q * k + s.rest_row[b], q * k + s.rest_col[b]
            block = got.I22[s.rest_at[b] : s.rest_at[b] + kf * kg].reshape(kf, kg)
            np.testing.assert_allclose(block, want[row : row + kf, column : column + kg], rtol=1e-7, atol=1e-9)


def full_products(taken):
    """A, dense, in the order of elimination."""
    s = taken.system
    q, k = s.A11.shape[:2]
    A = np.zeros((len(s.B), len(s.B)))
    for j in range(q):
        A[j * k : j * k + k, j * k : j * k + k] = s.A11[j]
        for link in range(s.link_ptr[j], s.link_ptr[j + 1]):
            rows, kf = q * k + s.link_row[link], s.width[s.link_factor[link]]
            A[rows : rows + kf, j * k : j * k + k] = s.A21[s.link_at[link] : s.link_at[link] + kf * k].reshape(kf, k)
    for b in range(len(s.rest_row)):
        kf, kg = s.width[s.rest_row_factor[b]], s.width[s.rest_col_factor[b]]
        row, column = q * k + s.rest_row[b], q * k + s.rest_col[b]
        A[row : row + kf, column : column + kg] = s.A22[s.rest_at[b] : s.rest_at[b] + kf * kg].reshape(kf, kg)
    return np.tril(A) + np.tril(A, -1).T


def full_lambda(taken, lam):
    """Λ, dense, in the order of elimination."""
    s, Lam = taken.system, np.zeros((len(taken.system.B),) * 2)
    for f, factor in enumerate(taken.structure.factors):
        block = lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(factor.width, factor.width)
        for row in taken.structure.rows(f):
            Lam[row : row + factor.width, row : row + factor.width] = block
    return Lam


@settings(max_examples=60)
@given(designs())
def test_products_are_the_cross_products(case):
    design, _ = case
    taken = products(design)
    oracle = of_design(design)
    A = full_products(taken)
    order = np.concatenate([np.empty(0, int), *(np.ravel(r) for r in elimination_rows(design, taken))]).astype(int)
    scale = np.concatenate(
        [np.tile(s, f.count) for s, f in zip(taken.effect_scale, taken.structure.factors, strict=True)]
    )
    Z = oracle.Z / np.sqrt(oracle.noise)[:, None]
    want = (Z.T @ Z)[np.ix_(order, order)]
    rows = np.concatenate(
        [
            np.ravel(taken.structure.rows(f)[:, None] + np.arange(factor.width))
            for f, factor in enumerate(taken.structure.factors)
        ]
    )
    np.testing.assert_allclose(
        A[np.ix_(rows, rows)] * np.outer(scale, scale), want, rtol=1e-12, atol=1e-12 * np.abs(want).max()
    )


def elimination_rows(design, taken):
    """For each factor, the rows of lme4's u level by level, effects in the order of its columns."""
    where = levels_of(model_of(design))
    return [np.stack(where[factor.group]) for factor in taken.structure.factors]


def star(n_leaves, rng):
    """Levels of b that all meet the hub b0 and no other: without reordering the remainder fills in."""
    a = np.repeat(np.arange(3 * n_leaves), 2)
    b = np.stack([np.zeros(3 * n_leaves, int), 1 + np.arange(3 * n_leaves) % n_leaves], axis=1).ravel()
    return a, b, rng.normal(size=len(a))


def ring(size, rng):
    """Levels of b in a ring: some fill-in under every order."""
    a = np.repeat(np.arange(3 * size), 2)
    first = np.arange(3 * size) % size
    return a, np.stack([first, (first + 1) % size], axis=1).ravel(), rng.normal(size=6 * size)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("make", [star, ring])
def test_a_remainder_that_needs_reordering(make, width, remainder, rng):
    a, b, y = make(12, rng)
    columns = np.column_stack([np.ones(len(y)), rng.normal(size=len(y))])[:, :width]
    terms = [term_of("a", a, np.ones(len(y)), Unstructured), term_of("b", b, columns, Unstructured)]
    design = design_of(y, np.ones((len(y), 1)), terms)
    taken = products(design)
    assert taken.structure.sparse == (remainder == SPARSE)
    if make is star and remainder == SPARSE:
        nodes = 13
        assert len(taken.structure.L_row) == nodes * width * (width + 1) // 2 + (nodes - 1) * width**2  # no fill-in
    theta = np.array([0.7, 1.1, -0.4, 0.6])[: 1 + width * (width + 1) // 2]
    want = of_design(design).deviance(relative(design.random, theta), True)
    assert Gaussian(taken).deviance(theta, True) == pytest.approx(float(want), rel=1e-12)


def test_sparse_and_dense_remainders_agree_beyond_the_kernel_blocks(rng):
    """More than 64 and more than 256 rows in the remainder: every panel of the blocked dense kernels is used."""
    n, q = 3000, 300
    a, b = rng.integers(0, 400, n), rng.integers(0, q, n)
    terms = [term_of("a", a, np.ones(n), Unstructured), term_of("b", b, np.ones(n), Unstructured)]
    design = design_of(rng.normal(size=n), np.ones((n, 1)), terms)
    both = [Gaussian(forced_all(design, cost)) for cost in (SPARSE, DENSE)]
    assert [g.products.structure.sparse for g in both] == [True, False]
    values = [g.deviance_gradient(np.array([0.8, 0.5])) for g in both]
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-12)
    np.testing.assert_allclose(values[0][1], values[1][1], rtol=1e-9)
    taken = both[1].products
    A, Lam = full_products(taken), full_lambda(taken, taken.lam(np.array([0.8, 0.5])))
    _, want = np.linalg.slogdet(Lam.T @ A @ Lam + np.eye(len(A)))
    assert both[1].marginal(np.array([0.8, 0.5])).logdet == pytest.approx(want, rel=1e-12)


def forced_all(design, cost):
    """Sparse wherever asked for, however full the pattern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SPARSE_COST", cost)
        if cost == SPARSE:
            patch.setattr(blocks, "_elimination", always_sparse)
        return products(design)


def always_sparse(incidence, widths):
    import scipy.sparse as sp

    meets = sp.csr_array(incidence.T.astype(int) @ incidence.astype(int))
    order = blocks._minimum_degree(meets)
    rows = blocks._expand(sp.csr_array(sp.tril(meets[order][:, order], format="csr")), widths[order])
    return order, blocks.symbolic(rows.indptr.astype(np.int64), rows.indices.astype(np.int64))


@settings(max_examples=50)
@given(designs(sizes=(0.0, 0.3, 1.0, 20.0)))
def test_log_densities_at_given_sigma_equal_the_dense_ones(case):
    design, theta = case
    taken = products(design)
    oracle, Lam = of_design(design), relative(design.random, theta)
    at = Gaussian(taken).marginal(theta)
    n, p, sigma = design.nobs, taken.n_fixed, 1.7
    back = np.linalg.inv(taken.R) * taken.y_scale
    constant = -n * np.log(taken.y_scale) + 0.5 * taken.sum_log_weights
    to_beta = p * np.log(taken.y_scale) - taken.logdet_R
    scaled = sigma / taken.y_scale

    flat = level(at.S, at.logdet, n, scaled, np.zeros((p, p)), np.zeros(p), INTEGRATED)
    assert flat.value + constant + to_beta == pytest.approx(oracle.restricted(Lam, sigma), rel=1e-9, abs=1e-9)
    joint = level(at.S, at.logdet, n, scaled, np.zeros((p, p)), np.zeros(p), JOINT)
    beta = taken.beta(joint.beta)
    assert joint.value + constant == pytest.approx(oracle.at(Lam, sigma, beta), rel=1e-9, abs=1e-9)
    given_beta, *_ = level_at(at.S, at.logdet, n, scaled, joint.beta + 0.3)
    beta = taken.beta(joint.beta + 0.3)
    assert given_beta + constant == pytest.approx(oracle.at(Lam, sigma, beta), rel=1e-8, abs=1e-8)

    mean, sd = np.arange(p) - 0.5, np.linspace(0.5, 2.0, p)
    root = np.diag(1 / sd)
    normal = level(at.S, at.logdet, n, scaled, root @ back, root @ (mean - taken.beta_ols), INTEGRATED)
    prior = -np.sum(np.log(sd)) - 0.5 * p * np.log(2 * np.pi)
    want = oracle.marginal(Lam, sigma, mean, np.diag(sd**2))
    assert normal.value + constant + to_beta + prior == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_model_hands_out_what_the_core_works_on(rng):
    """Model.X, Z and Λ(θ), from a formula, are those of lme4's layout: the dense criterion on them is the core's."""
    n = 90
    data = {
        "y": rng.normal(size=n),
        "x": rng.normal(size=n),
        "g": np.arange(n) % 9,
        "h": np.arange(n) // 18,
        "w": rng.uniform(1, 3, n),
    }
    model = bl.Model("y ~ x + (x | h) + (1 | g) + (0 + x | g)", data, weights="w", offset=rng.normal(size=n))
    assert [(t.group, t.effects) for t in model.terms] == [
        ("g", ("Intercept",)),
        ("g", ("x",)),
        ("h", ("Intercept", "x")),
    ]
    theta = np.array([0.5, 0.2, 0.9, -0.3, 0.4])
    Lam = model.Lambda(theta).toarray()
    np.testing.assert_array_equal(Lam, relative(model.design.random, theta))
    np.testing.assert_array_equal(model.Z.toarray(), of_design(model.design).Z)
    assert model.Z.shape == (n, 9 + 9 + 10)
    assert Lam[18:20, 18:20].tolist() == [[0.9, 0.0], [-0.3, 0.4]]
    for reml in (False, True):
        assert model.gaussian.deviance(theta, reml) == pytest.approx(
            float(of_model(model).deviance(Lam, reml)), rel=1e-10
        )


def test_no_random_terms_and_no_fixed_effects(rng):
    y = rng.normal(size=20)
    design = design_of(y, np.ones((20, 1)), [])
    want = float(of_design(design).deviance(np.zeros((0, 0)), True))
    assert Gaussian(products(design)).deviance(np.zeros(0), True) == pytest.approx(want, rel=1e-12)
    bare = design_of(y, np.zeros((20, 0)), [term_of("g", np.arange(20) % 4, np.ones(20), Diagonal)])
    for reml in (False, True):
        want = float(of_design(bare).deviance(0.6 * np.eye(4), reml))
        assert Gaussian(products(bare)).deviance(np.array([0.6]), reml) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("ratio", [1e2, 1e5])
def test_a_large_mean_costs_no_digits(ratio, rng):
    n = 60
    g, x, y = np.arange(n) % 6, rng.normal(size=n), rng.normal(size=n)
    design = design_of(y + ratio, np.column_stack([np.ones(n), x + ratio]), [term_of("g", g, np.ones(n), Unstructured)])
    want = float(of_design(design).deviance(0.8 * np.eye(6), True))
    assert Gaussian(products(design)).deviance(np.array([0.8]), True) == pytest.approx(want, rel=1e-9)


def test_a_response_in_the_span_of_the_fixed_part_is_named(rng):
    x = rng.normal(size=30)
    design = design_of(
        0.1 + 0.3 * x, np.column_stack([np.ones(30), x]), [term_of("g", np.arange(30) % 5, np.ones(30), Unstructured)]
    )
    with pytest.raises(ExactFitError, match="fixed effects reproduce the response"):
        products(design)


def test_structure_says_how_it_is_factored(rng):
    a, b, y = star(12, rng)
    one = term_of("a", a, np.ones(len(y)), Unstructured)
    text = str(
        products(design_of(y, np.ones((len(y), 1)), [one, term_of("b", b, np.ones(len(y)), Unstructured)])).structure
    )
    assert text.startswith("36 blocks of 1 x 1 (a), then a 13 x 13")
    assert str(products(design_of(y, np.ones((len(y), 1)), [one])).structure) == "36 blocks of 1 x 1 (a)"
    assert str(products(design_of(y, np.ones((len(y), 1)), [])).structure) == "no random effects"


def test_the_oracle_itself():
    """Extended precision Cholesky against NumPy's."""
    M = np.random.default_rng(1).normal(size=(30, 20))
    M = M.T @ M
    L = cholesky(M)
    assert L.dtype == LONG
    np.testing.assert_allclose((L @ L.T).astype(float), M, rtol=1e-12)
