"""Two stages as one formula and as mathematics."""

import pytest

from bayeslmm.errors import SpecificationError
from bayeslmm.stages import Stages, from_stages

FORMULAS = {
    "both vary": (
        "score ~ 1 + ses",
        {"school": {"1": "1 + sector", "ses": "1 + sector"}},
        "score ~ 1 + ses + sector + ses:sector + (1 + ses | school)",
    ),
    "intercept implied": ("score ~ ses", {"school": {"1": "1"}}, "score ~ 1 + ses + (1 | school)"),
    "Intercept by name": ("y ~ Intercept + x", {"g": {"Intercept": "1 + z"}}, "y ~ 1 + x + z + (1 | g)"),
    "slope only": ("y ~ x", {"g": {"x": "1"}}, "y ~ 1 + x + (0 + x | g)"),
    "no intercept": ("y ~ 0 + x", {"g": {"x": "1 + z"}}, "y ~ 0 + x + x:z + (0 + x | g)"),
    "uncorrelated": ("y ~ x", {"g": {"1": "1", "x": "1", "correlated": False}}, "y ~ 1 + x + (1 + x || g)"),
    "uncorrelated alone": ("y ~ x", {"g": {"1": "1", "correlated": False}}, "y ~ 1 + x + (1 | g)"),
    "moderated, not random": (
        "y ~ x",
        {"g": {"1": "1", "x": {"mean": "1 + z", "random": False}}},
        "y ~ 1 + x + x:z + (1 | g)",
    ),
    "no random term": ("y ~ x", {"g": {"x": {"mean": "1 + z", "random": False}}}, "y ~ 1 + x + x:z"),
    "without a mean": ("y ~ 1 + x", {"g": {"x": "0 + z"}}, "y ~ 1 + x:z + (0 + x | g)"),
    "intercept without a mean": ("y ~ 1", {"g": {"1": "0 + f"}}, "y ~ 0 + f + (1 | g)"),
    "nested groups": (
        "y ~ x",
        {"class:school": {"1": "1"}, "school": {"1": "1 + sector", "x": "1"}},
        "y ~ 1 + x + sector + (1 | class:school) + (1 + x | school)",
    ),
    "mean in one group only": ("y ~ 1", {"g": {"1": "0 + z"}, "h": {"1": "1"}}, "y ~ 1 + z + (1 | g) + (1 | h)"),
    "same predictor twice": ("y ~ 1", {"g": {"1": "1 + z"}, "h": {"1": "1 + z"}}, "y ~ 1 + z + (1 | g) + (1 | h)"),
    "functions and products": (
        "log(y) ~ 1 + np.log(x + 1) + a:b",
        {"g": {"np.log(x + 1)": "1 + I(z**2)"}},
        "log(y) ~ 1 + np.log(x + 1) + a:b + np.log(x + 1):I(z**2) + (0 + np.log(x + 1) | g)",
    ),
    "offset": ("y ~ x + offset(w)", {"g": {"1": "1"}}, "y ~ 1 + x + offset(w) + (1 | g)"),
    "no second stage": ("y ~ x", {}, "y ~ 1 + x"),
}


@pytest.mark.parametrize(("first", "second", "formula"), FORMULAS.values(), ids=FORMULAS)
def test_formula(first, second, formula):
    stages = Stages.read(first, second)
    assert stages.formula() == formula == from_stages(first, second)
    assert Stages.read(**stages.as_text()) == stages


MALFORMED = {
    "no tilde": ("score", {}, "must be a formula"),
    "two tildes": ("y ~ x ~ z", {}, "must be a formula"),
    "not text": (3, {}, "must be a formula"),
    "no response": (" ~ x", {}, "no response"),
    "product": ("y ~ x*z", {}, r"'\*' cannot join"),
    "bar": ("y ~ x | g", {}, r"'\|' cannot join"),
    "minus": ("y ~ x - 1", {}, "'-' cannot join"),
    "empty term": ("y ~ x +", {}, "missing beside a '\\+'"),
    "brackets": ("y ~ log(x", {}, "brackets do not match"),
    "closing bracket first": ("y ~ a) + (b", {}, "brackets do not match"),
    "second not a mapping": ("y ~ x", 3, "must map groups"),
    "group not text": ("y ~ x", {3: {"1": "1"}}, "must be text"),
    "group not a mapping": ("y ~ x", {"g": "1"}, "give a table of coefficients"),
    "slash in group": ("y ~ x", {"a/b": {"1": "1"}}, "nested ones as 'class:school'"),
    "unknown coefficient": ("y ~ x", {"g": {"z": "1"}}, "'z' is no coefficient of the first stage; it has 1, x"),
    "predictors not text": ("y ~ x", {"g": {"1": 3}}, "give its predictors as text"),
    "unknown option": ("y ~ x", {"g": {"1": {"men": "1"}}}, "the options are mean"),
    "random not a bool": ("y ~ x", {"g": {"1": {"random": "no"}}}, "the options are mean"),
    "bar in a predictor": ("y ~ x", {"g": {"1": "1 + (1 | h)", "x": "z | h"}}, r"'\|' cannot join"),
    "offset in the second": ("y ~ x", {"g": {"1": "1 + offset(z)"}}, "belongs to the first stage"),
    "group without coefficients": ("y ~ x", {"g": {}}, "no coefficient"),
}


@pytest.mark.parametrize(("first", "second", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_stages_say_what_to_do(first, second, message):
    with pytest.raises(SpecificationError, match=message):
        Stages.read(first, second)


def test_both_stages_in_mathematics():
    stages = Stages.read("score ~ 1 + ses", {"school": {"1": "1 + sector", "ses": "1 + sector"}})
    assert str(stages).splitlines() == [
        "Level 1, row i",
        "  score_ij = b0_j + b1_j ses_ij + e_ij,  e_ij ~ N(0, σ²)",
        "Level 2, school j",
        "  b0_j = γ00 + γ01 sector_j + u0_j",
        "  b1_j = γ10 + γ11 sector_j + u1_j",
        "  (u0_j, u1_j) ~ N(0, Σ_u), Σ_u unstructured",
    ]


def test_crossed_groups_share_an_equation_and_constant_coefficients_are_listed():
    stages = Stages.read("y ~ x + w", {"g": {"1": "1", "x": "1", "correlated": False}, "h": {"1": "1 + z"}})
    assert str(stages).splitlines() == [
        "Level 1, row i",
        "  y_ijk = b0_jk + b1_j x_ijk + b2 w_ijk + e_ijk,  e_ijk ~ N(0, σ²)",
        "Level 2, g j",
        "  b0_jk = γ00 + γ01 z_k + u0_j + v0_k",
        "  b1_j = γ10 + u1_j",
        "  (u0_j, u1_j) ~ N(0, Σ_u), Σ_u diagonal",
        "Level 2, h k",
        "  v0_k ~ N(0, σ²_v)",
        "The same for every group",
        "  b2 = γ20",
    ]
