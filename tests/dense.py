"""Brute force: the Gaussian mixed model from its n × n covariance, in extended precision, sharing no code with the package.

``y − offset = Xβ + ZΛb + ε`` with ``V = ZΛΛ'Z' + W⁻¹`` (relative to σ²). `Dense` takes arrays only; `of_design` and
`of_model` fetch them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.design import Design
from bayeslmm.formula import parse
from bayeslmm.model import Model
from bayeslmm.terms import FixedBlock, RandomTerm

LONG = np.longdouble
LOG_2PI = np.log(2 * LONG(np.pi))


def cholesky(matrix):
    """Lower factor, column by column, in the matrix's own precision."""
    rest, size = np.array(matrix, LONG), len(matrix)
    factor = np.zeros((size, size), LONG)
    for j in range(size):
        factor[j:, j] = rest[j:, j] / np.sqrt(rest[j, j])
        rest[j:, j:] -= np.outer(factor[j:, j], factor[j:, j])
    return factor


def solve_lower(factor, right):
    """factor⁻¹ right by forward substitution."""
    found = np.array(right, LONG)
    for j in range(len(factor)):
        found[j] = (found[j] - factor[j, :j] @ found[:j]) / factor[j, j]
    return found


def logdet(factor):
    return 2 * np.sum(np.log(np.diag(factor)))


@dataclass(frozen=True)
class Dense:
    """One data set: response net of offset (n,), X (n, p), Z (n, q), residual variances over σ² (n,)."""

    y: np.ndarray
    X: np.ndarray
    Z: np.ndarray
    noise: np.ndarray

    def whitened(self, Lam):
        """Lower factor of V, and L⁻¹X, L⁻¹y."""
        root = np.asarray(self.Z, LONG) @ np.asarray(Lam, LONG)
        L = cholesky(root @ root.T + np.diag(self.noise.astype(LONG)))
        return L, solve_lower(L, self.X), solve_lower(L, self.y)

    def gls(self, Lam):
        """log|V|, lower factor of X'V⁻¹X, β̂, residual sum of squares."""
        L, X, y = self.whitened(Lam)
        if not X.shape[1]:
            return logdet(L), np.zeros((0, 0), LONG), np.zeros(0, LONG), y @ y
        F = cholesky(X.T @ X)
        inverse = solve_lower(F, np.eye(len(F), dtype=LONG))
        beta = inverse.T @ (inverse @ (X.T @ y))
        beta = beta + inverse.T @ (inverse @ (X.T @ (y - X @ beta)))
        return logdet(L), F, beta, np.sum((y - X @ beta) ** 2)

    def deviance(self, Lam, reml):
        """−2 log-likelihood, β and σ profiled out; REML with (n − p) log 2π."""
        logdet_V, F, _, rss = self.gls(Lam)
        degrees = len(self.y) - (self.X.shape[1] if reml else 0)
        return logdet_V + (logdet(F) if reml else 0) + degrees * (1 + LOG_2PI + np.log(rss / degrees))

    def slope(self, Lam, reml):
        """Derivative of the deviance in Λ (q, q): 2 Z'(P or V⁻¹ − ν Py y'P / y'Py) ZΛ, to full relative precision."""
        L, X, y = self.whitened(Lam)
        half, n = solve_lower(L, np.eye(len(y), dtype=LONG)), len(y)
        P = np.eye(n, dtype=LONG)
        if X.shape[1]:
            F = cholesky(X.T @ X)
            inner = solve_lower(F, X.T)
            P = P - inner.T @ inner
        degrees = n - (X.shape[1] if reml else 0)
        residual = P @ y
        kernel = (P if reml else np.eye(n)) - degrees * np.outer(residual, residual) / (residual @ residual)
        ZL = half @ self.Z
        return 2 * ZL.T @ kernel @ ZL @ np.asarray(Lam, LONG)

    def at(self, Lam, sigma, beta):
        """Log density of y at (β, σ, Λ)."""
        L, X, y = self.whitened(Lam)
        rss = np.sum((y - X @ np.asarray(beta, LONG)) ** 2)
        n = len(y)
        return float(-(logdet(L) + n * (LOG_2PI + 2 * np.log(LONG(sigma))) + rss / LONG(sigma) ** 2) / 2)

    def restricted(self, Lam, sigma):
        """Log density of y at (σ, Λ), β integrated over a flat prior."""
        logdet_V, F, _, rss = self.gls(Lam)
        degrees, sigma = len(self.y) - self.X.shape[1], LONG(sigma)
        return float(-(logdet_V + logdet(F) + degrees * (LOG_2PI + 2 * np.log(sigma)) + rss / sigma**2) / 2)

    def marginal(self, Lam, sigma, mean, covariance):
        """Log density of y at (σ, Λ) under β ~ N(mean, covariance), from the covariance of y itself."""
        root = np.asarray(self.Z, LONG) @ np.asarray(Lam, LONG)
        V = LONG(sigma) ** 2 * (root @ root.T + np.diag(self.noise.astype(LONG)))
        L = cholesky(V + self.X.astype(LONG) @ np.asarray(covariance, LONG) @ self.X.T)
        z = solve_lower(L, self.y - self.X @ mean)
        return float(-(logdet(L) + len(z) * LOG_2PI + z @ z) / 2)

    def beta(self, Lam, reml=True):
        """β̂, its covariance and σ."""
        _, F, beta, rss = self.gls(Lam)
        inverse = solve_lower(F, np.eye(len(F), dtype=LONG))
        sigma2 = rss / (len(self.y) - (self.X.shape[1] if reml else 0))
        return beta.astype(float), (sigma2 * inverse.T @ inverse).astype(float), float(np.sqrt(sigma2))

    def blup(self, Lam, beta):
        """E(u | y, β) (q,) and Var(u | y, β)/σ² (q, q)."""
        L, X, y = self.whitened(Lam)
        Lam = np.asarray(Lam, LONG)
        G = Lam @ Lam.T
        half = solve_lower(L, self.Z @ G)
        return (half.T @ (y - X @ beta)).astype(float), (G - half.T @ half).astype(float)


def public(random):
    """Terms by decreasing number of levels, ties as written: lme4's order."""
    return sorted(random, key=lambda term: -len(term.levels))


def indicator(term):
    """(n, q k) columns of one term, level by level."""
    n, k = term.columns.shape
    Z = np.zeros((n, len(term.levels) * k))
    for row in range(n):
        Z[row, term.codes[row] * k : (term.codes[row] + 1) * k] = term.columns[row]
    return Z


def of_design(design):
    """The arrays of a design."""
    blocks = [np.zeros((design.nobs, 0)), *(indicator(term) for term in public(design.random))]
    noise = np.ones(design.nobs) if design.weights is None else 1 / design.weights
    y = design.y if design.offset is None else design.y - design.offset
    return Dense(y, design.fixed.X, np.column_stack(blocks), noise)


def of_model(model):
    """The arrays of a model, by its public X and Z."""
    d = model.design
    y = d.y if d.offset is None else d.y - d.offset
    return Dense(y, model.X, model.Z.toarray(), np.ones(d.nobs) if d.weights is None else 1 / d.weights)


def factors(random, theta):
    """λ of each term in lme4's order, theta column by column of the lower triangle (or of the diagonal)."""
    found, at = [], 0
    for term in public(random):
        k = len(term.effects)
        lam = np.zeros((k, k))
        for j in range(k):
            for i in range(j, k) if type(term.covariance).__name__ == "Unstructured" else (j,):
                lam[i, j] = theta[at]
                at += 1
        found.append(lam)
    assert at == len(theta)
    return found


def relative(random, theta):
    """Λ(θ), block-diagonal."""
    blocks = [
        np.kron(np.eye(len(t.levels)), lam) for t, lam in zip(public(random), factors(random, theta), strict=True)
    ]
    size = sum(map(len, blocks))
    Lam, at = np.zeros((size, size)), 0
    for block in blocks:
        Lam[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return Lam


def design_of(y, X, random, weights=None, offset=None):
    """A Design from arrays."""
    X = np.asarray(X, float).reshape(len(y), -1)
    fixed = FixedBlock(tuple(f"x{j}" for j in range(X.shape[1])), X, (), np.arange(X.shape[1]))
    return Design(parse("y ~ 1"), np.asarray(y, float), fixed, tuple(random), weights, offset, np.arange(len(y)), 0, {})


def term_of(group, codes, columns, covariance):
    """A RandomTerm from arrays, levels numbered by use."""
    levels, codes = np.unique(codes, return_inverse=True)
    columns = np.asarray(columns, float).reshape(len(codes), -1)
    effects = tuple(f"e{a}" for a in range(columns.shape[1]))
    return RandomTerm(group, effects, columns, codes, tuple(map(str, levels)), covariance(columns.shape[1]))


def slope_in_theta(random, slope):
    """Derivative in theta from that in Λ (q, q): summed over the levels."""
    found, at = [np.zeros(0)], 0
    for term in public(random):
        k = len(term.effects)
        inner = np.zeros((k, k), LONG)
        for _ in term.levels:
            inner += slope[at : at + k, at : at + k]
            at += k
        full = type(term.covariance).__name__ == "Unstructured"
        found.append([inner[i, j] for j in range(k) for i in (range(j, k) if full else (j,))])
    return np.concatenate(found).astype(float)


def model_of(design):
    """A Model around a Design from arrays: enough of one for what `result` computes."""
    model = object.__new__(Model)
    model._set(design=design, formula=design.formula)
    return model
