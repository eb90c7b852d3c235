"""Designs grown from a pilot: what is repeated, what cannot be, and that coefficients keep their meaning."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.growth import studies


def grown(source, n_groups=None, n_per_group=None, data=None, group=None):
    return studies(source, data, [n_groups], [n_per_group], group)[0]


def test_whole_subjects_and_whole_rows_are_repeated():
    model = bl.load("models/sleepstudy")
    study = grown(model, 36, 20)
    assert (study.n_groups, study.n_per_group) == (36, 20)
    np.testing.assert_allclose(study.model.X.T @ study.model.X, 4 * model.X.T @ model.X, rtol=1e-12)
    for level in range(36):
        days = study.model.X[study.model.design.random[0].codes == level, 1]
        np.testing.assert_array_equal(np.sort(days), np.repeat(np.arange(10.0), 2))


def test_without_sizes_the_design_is_the_pilots():
    model = bl.load("models/pastes")
    study = grown(model)
    np.testing.assert_array_equal(study.model.X, model.X)
    assert [len(t.levels) for t in study.model.design.random] == [len(t.levels) for t in model.design.random]
    assert (study.n_groups, study.n_per_group) == (10, 6)


ARMS = {"arm": np.repeat(["a", "a", "b"], 2), "x": [0, 1] * 3, "g": np.repeat([1, 2, 3], 2)}


def test_kinds_of_groups_keep_their_proportions():
    study = grown("y ~ arm + x + (1 | g)", 12, 4, ARMS)
    table = pd.DataFrame({"b": study.model.X[:, 1], "g": study.model.design.random[0].codes})
    assert table.groupby("g")["b"].first().sum() == 4  # 12 groups, a third of them in arm b
    with pytest.raises(MethodError, match="the 3 levels of 'g' have 2 different designs, and 10 levels cannot"):
        grown("y ~ arm + x + (1 | g)", 10, 4, ARMS)
    with pytest.raises(MethodError, match="the 2 rows of a level of 'g' differ, and 3 rows are not"):
        grown("y ~ arm + x + (1 | g)", 12, 3, ARMS)


@pytest.mark.parametrize("labels", ["again", "once"])
def test_levels_within_a_group_come_anew_with_it(labels):
    """Two casks in each batch, numbered 1 and 2 in every batch, or with numbers used once."""
    batch = np.repeat(np.arange(3), 4)
    cask = np.tile([1, 1, 2, 2], 3) + (10 * batch if labels == "once" else 0)
    formula = "y ~ 1 + (1 | batch) + (1 | cask)" if labels == "once" else "y ~ 1 + (1 | batch/cask)"
    study = grown(formula, 7, 8, {"batch": batch, "cask": cask})
    sizes = {term.group: len(term.levels) for term in study.model.design.random}
    assert sorted(sizes.values()) == [7, 14]
    assert sizes["batch"] == 7
    inner = next(term for term in study.model.design.random if term.group != "batch")
    assert (np.bincount(inner.codes) == 4).all()


def test_levels_of_a_crossed_factor_stay():
    model = bl.load("models/penicillin")
    study = grown(model, 48, group="plate")
    sizes = {term.group: len(term.levels) for term in study.model.design.random}
    assert sizes == {"plate": 48, "sample": 6}
    with pytest.raises(MethodError, match="say which of them n_groups is the size of: group='plate'"):
        grown(model, 48)


def test_a_table_without_the_group_is_one_group():
    study = grown("y ~ x + (x | g)", 5, 6, {"x": [0, 1, 2]})
    assert study.model.design.nobs == 30
    assert len(study.model.design.random[0].levels) == 5
    assert grown("y ~ 1 + (1 | g)", 4, 3).model.design.nobs == 12
    with pytest.raises(MethodError, match="the formula needs x: give data= with these columns, for one g"):
        grown("y ~ x + (1 | g)", 5, 6)


def test_a_function_gives_any_design():
    def unbalanced(groups, rows):
        g = np.repeat(np.arange(groups), np.arange(groups) % 3 + rows)
        return {"x": np.arange(len(g)) % 4, "g": g}

    study = grown("log(y) ~ x + (1 | g)", 6, 2, unbalanced)
    assert study.model.design.nobs == 18
    assert study.n_groups == 6
    assert np.isnan(study.n_per_group)
    pilot = bl.load("models/sleepstudy")
    five = grown(
        pilot,
        10,
        5,
        lambda groups, rows: {"Days": np.tile(range(rows), groups), "Subject": np.repeat(range(groups), rows)},
    )
    assert five.model.design.nobs == 50
    with pytest.raises(MethodError, match="data= is a function"):
        grown(pilot, 10, 5, {"Days": [1]})


def test_a_column_that_would_change_its_meaning_is_refused():
    rng = np.random.default_rng(0)
    table = {"y": rng.normal(size=12), "x": np.tile([0.0, 1.0, 5.0], 4), "g": np.repeat(list("abcd"), 3)}
    model = bl.Model("y ~ center(x) + (1 | g)", table)
    assert grown(model, 8).n_groups == 8  # the mean stays when every row is repeated
    other = {"x": np.tile([0.0, 1.0], 8), "g": np.repeat(range(8), 2)}
    with pytest.raises(MethodError, match=r"the column 'center\(x\)' is computed from the data"):
        grown(model, 8, 2, lambda groups, rows: other | {"y": np.zeros(16)})


def test_weights_go_with_their_rows():
    table = {"y": np.arange(8.0) % 3, "w": [1.0, 2.0] * 4, "g": np.repeat(list("abcd"), 2)}
    study = grown(bl.Model("y ~ 1 + (1 | g)", table, weights="w"), 6, 4)
    np.testing.assert_array_equal(np.bincount(study.model.design.weights.astype(int)), [0, 12, 12])
    with pytest.raises(MethodError, match="given its weights as an array"):
        grown(bl.Model("y ~ 1 + (1 | g)", table, weights=table["w"]), 6)


def test_other_families_say_that_they_cannot():
    table = {"y": [0, 1] * 8, "g": np.repeat(range(4), 4)}
    with pytest.raises(NotSupportedError, match="needs a Gaussian response"):
        bl.power(
            bl.Model("y ~ 1 + (1 | g)", table, family="bernoulli"), {"fixef": 0, "sd_g": 1, "sigma": 1}, "sd_g", seed=1
        )
