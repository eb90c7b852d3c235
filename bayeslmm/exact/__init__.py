"""The random effects integrated out: cross-products, blocked factorisation, marginal densities."""
