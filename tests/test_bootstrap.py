"""The bootstrap: refits that share products equal models built anew, seeds, intervals, and the lecture's test."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm import comparable
from bayeslmm.errors import DataError, ExactFitError, MethodError
from bayeslmm.refits import BLOCK, Refits

MODELS = ["sleepstudy", "penicillin", "penicillin_blocks", "pastes", "dyestuff"]


@pytest.fixture(autouse=True)
def at_root(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def weighted() -> bl.Model:
    rng = np.random.default_rng(3)
    data = pd.DataFrame(
        {
            "g": rng.integers(8, size=90),
            "h": rng.integers(5, size=90),
            "x": rng.normal(40, 1, size=90),
            "t": rng.normal(size=90),
        }
    )
    data["y"] = (
        1e4 + 3 * data["x"] + rng.normal(size=8)[data["g"]] + rng.normal(size=5)[data["h"]] + rng.normal(size=90)
    )
    return bl.Model("y ~ x + (x | g) + (1 | h) + offset(t)", data, weights=rng.uniform(0.5, 2, 90))


def built_anew(model: bl.Model, y: np.ndarray) -> bl.Model:
    data = model.arguments["data"].copy()
    data[model.design.response] = y
    return model.update(data=data)


@pytest.mark.parametrize("model", [*MODELS, "weighted", "no random", "no fixed"])
def test_shared_products_are_those_of_a_model_built_anew(model: str, rng: np.random.Generator) -> None:
    base = {
        "weighted": weighted,
        "no random": lambda: bl.load("models/sleepstudy").update("Reaction ~ Days"),
        "no fixed": lambda: bl.load("models/dyestuff").update("Yield ~ 0 + (1 | Batch)"),
    }.get(model, lambda: bl.load(f"models/{model}"))()
    shared = Refits(base)
    for scale in (1.0, 1e-6, 1e9):
        y = scale * (base.design.y + rng.normal(size=base.design.nobs))
        one, two = shared.model(y), built_anew(base, y)
        close = {"rtol": 1e-12, "atol": 1e-12 * float(np.abs(two.products.system.C).max())}
        np.testing.assert_allclose(one.products.system.B, two.products.system.B, **close)
        np.testing.assert_allclose(one.products.system.C, two.products.system.C, **close)
        np.testing.assert_allclose(one.products.beta_ols, two.products.beta_ols, rtol=1e-11, atol=1e-11 * scale)
        assert one.products.y_scale == two.products.y_scale
        assert one.products.system.A11 is base.products.system.A11
        theta = np.full(base.n_theta, 0.7)
        for reml in (True, False):
            assert one.gaussian.deviance(theta, reml) == pytest.approx(
                two.gaussian.deviance(theta, reml), rel=1e-12, abs=1e-9
            )
    first, second = bl.fit(one), bl.fit(two)
    np.testing.assert_allclose(first.theta, second.theta, atol=1e-7)
    np.testing.assert_allclose(first.fitted, second.fitted, rtol=1e-8)
    assert base.design.y is not one.design.y


def test_a_response_that_the_fixed_part_reproduces_is_refused() -> None:
    model = bl.load("models/sleepstudy")
    with pytest.raises(ExactFitError):
        Refits(model).products(model.X @ [1.0, 2.0])


def test_draws_depend_on_the_seed_alone() -> None:
    fit = bl.fit(bl.load("models/sleepstudy"))
    one = bl.bootstrap(fit, 3 * BLOCK + 1, seed=7, progress=False, cores=1)
    two = bl.bootstrap(fit, 3 * BLOCK + 1, seed=7, progress=False, cores=3)
    pd.testing.assert_frame_equal(one.draws, two.draws)
    np.testing.assert_array_equal(one.loglik, two.loglik)
    longer = bl.bootstrap(fit, 4 * BLOCK, seed=7, progress=False)
    pd.testing.assert_frame_equal(longer.draws.iloc[: 3 * BLOCK], one.draws.iloc[: 3 * BLOCK])
    other = bl.bootstrap(fit, 10, seed=8, progress=False)
    assert not np.allclose(other.draws.iloc[:10], one.draws.iloc[:10])
    fresh = bl.bootstrap(fit, 5, seed=None, progress=False)
    pd.testing.assert_frame_equal(fresh.draws, bl.bootstrap(fit, 5, seed=fresh.seed, progress=False).draws)


def test_refits_are_fits_of_the_simulated_responses() -> None:
    fit = bl.fit(bl.load("models/sleepstudy"), "ML")
    boot = bl.bootstrap(fit, 3, seed=2, progress=False)
    seed = np.random.SeedSequence(2).spawn(1)[0]
    y = bl.simulate(fit, 3, seed=np.random.default_rng(seed))
    for i in range(3):
        again = bl.fit(built_anew(fit.model, y.iloc[:, i].to_numpy()), "ML")
        assert boot.loglik[i] == pytest.approx(again.loglik, abs=1e-7)
        assert boot.draws["sd_Subject[Days]"][i] == pytest.approx(again.sd["Subject"]["Days"], abs=1e-4)
        assert boot.draws["fixef[Days]"][i] == pytest.approx(again.fixef["Days"], abs=1e-7)


def test_sleepstudy_agrees_with_bootmer() -> None:
    # lme4 1.1-31 bootMer, 500 simulations, seed 5: mean, sd, 2.5 % and 97.5 % of Intercept, Days, sd of the intercept, sigma.
    names = ["fixef[Intercept]", "fixef[Days]", "sd_Subject[Intercept]", "sigma"]
    mean, sd = [251.1056, 10.4466, 24.6778, 25.6271], [7.0923, 1.5025, 5.9501, 1.5449]
    lower, upper = [237.4989, 7.8081, 13.9864, 22.6750], [265.1287, 13.5064, 36.6689, 28.7347]
    boot = bl.bootstrap(bl.fit(bl.load("models/sleepstudy")), 1000, seed=1, progress=False)
    sd = np.array(sd)
    error = sd * np.sqrt(1 / 500 + 1 / 1000)
    assert (abs(boot.draws[names].mean() - mean) < 4 * error).all()
    assert (abs(boot.draws[names].std() / sd - 1) < 4 * np.sqrt(0.5 * (1 / 500 + 1 / 1000))).all()
    interval = boot.confint()
    assert (
        abs(interval.loc[names, "lower"] - lower) < 12 * error
    ).all()  # a 2.5 % quantile errs about 2.7 times as much
    assert (abs(interval.loc[names, "upper"] - upper) < 12 * error).all()
    assert interval.columns.tolist() == ["lower", "upper"]
    assert interval.index.tolist() == boot.draws.columns.tolist()
    assert boot.converged.all()


def test_quantities_of_the_result() -> None:
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    boot = bl.bootstrap(fit, 200, seed=1, progress=False)
    summary = boot.summary()
    assert summary.columns.tolist() == ["estimate", "bias", "sd", "lower", "upper"]
    np.testing.assert_allclose(summary["bias"], boot.draws.mean() - boot.estimate)
    assert boot.estimate["sd_blend[Intercept]"] == pytest.approx(3.4339, abs=1e-4)
    assert (boot.singular == (boot.draws["sd_blend[Intercept]"] == 0)).all()
    assert boot.singular.any()
    widths = [(boot.confint(level)["upper"] - boot.confint(level)["lower"]).sum() for level in (0.5, 0.9, 0.99)]
    assert all(a < b for a, b in pairwise(widths))
    assert f"{boot.singular.sum()} of 200 refits are singular" in str(boot)
    assert "<table>" in boot._repr_html_()
    assert "200 simulations, 0 failed" in repr(boot)


def test_at_the_random_effects_of_the_fit() -> None:
    fit = bl.fit(bl.load("models/sleepstudy"))
    boot = bl.bootstrap(fit, 100, seed=1, groups="conditional", progress=False)
    fresh = bl.bootstrap(fit, 100, seed=1, progress=False)
    assert boot.draws["fixef[Days]"].std() < 0.6 * fresh.draws["fixef[Days]"].std()


def test_statistics_of_ones_own() -> None:
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    icc = bl.bootstrap(
        fit,
        30,
        lambda f: f.sd["blend"].iloc[0] ** 2 / (f.sd["blend"].iloc[0] ** 2 + f.sigma**2),
        seed=1,
        progress=False,
    )
    assert icc.draws.columns.tolist() == ["statistic"]
    assert icc.draws["statistic"].between(0, 1).all()
    assert bl.bootstrap(fit, 5, lambda f: f.fixef, seed=1, progress=False).draws.columns.tolist() == list(
        fit.fixef.index
    )
    assert bl.bootstrap(fit, 5, lambda f: f.beta, seed=1, progress=False).draws.shape == (5, 4)
    plain = bl.bootstrap(fit, 30, seed=1, progress=False).draws
    share = plain["sd_blend[Intercept]"] ** 2 / (plain["sd_blend[Intercept]"] ** 2 + plain["sigma"] ** 2)
    np.testing.assert_allclose(icc.draws["statistic"], share)


def test_parameters_that_are_held_stay_held() -> None:
    fit = bl.fit(bl.load("models/sleepstudy"), "ML", fixed={"sigma": 25.0})
    np.testing.assert_allclose(bl.bootstrap(fit, 5, seed=1, progress=False).draws["sigma"], 25.0, rtol=1e-14)


def test_failed_refits_are_counted_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, calls = bl.fit(bl.load("models/penicillin_blocks"), "ML"), []
    null = bl.fit(bl.load("models/penicillin_blocks", variant="null"), "ML")
    real = comparable.fit_model

    def failing(model: bl.Model, *args: object, **options: object) -> bl.PointFit:
        calls.append(model)
        if len(calls) % 10 == 0:
            raise ExactFitError("nothing is left")
        return real(model, *args, **options)

    monkeypatch.setattr(comparable, "fit_model", failing)
    boot = bl.bootstrap(fit, 50, seed=1, progress=False)
    assert [i for i, _ in boot.failures] == [9, 19, 29, 39, 49]
    assert boot.draws.isna().all(axis=1).sum() == 5
    assert "5 of 50 refits failed and are left out: ExactFitError: nothing is left" in str(boot)
    assert boot.confint().notna().all(axis=None)
    test = bl.bootstrap_test(null, fit, 50, seed=1, progress=False)
    assert len(test.failures) == np.isnan(test.draws).sum() > 0
    assert test.p == (test.exceeding + 1) / (50 - len(test.failures) + 1)
    assert "Had every failed simulation reached the observed ratio" in str(test)


def test_an_error_of_the_statistic_is_not_swallowed() -> None:
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    with pytest.raises(ZeroDivisionError):
        bl.bootstrap(fit, 2, lambda f: 1 / 0, seed=1, progress=False)


def test_a_refit_cannot_be_built_anew_from_the_table_of_the_fit() -> None:
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    with pytest.raises(DataError, match="SimulatedResponse is not a table"):
        bl.bootstrap(fit, 2, lambda f: 0.0 if f is fit else bl.ranova(f).table["LRT"].iloc[1], seed=1, progress=False)
    new = pd.DataFrame({"treat": ["A"], "blend": ["Blend1"]})
    ahead = bl.bootstrap(
        fit, 5, lambda f: bl.predict(f, new, groups="population")["mean"].iloc[0], seed=1, progress=False
    )
    plain = bl.bootstrap(fit, 5, seed=1, progress=False).draws
    np.testing.assert_allclose(ahead.draws["statistic"], plain["fixef[Intercept]"] + plain["fixef[treat[A]]"])


def test_the_penicillin_test_of_the_lecture() -> None:
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    null = bl.fit(bl.load("models/penicillin_blocks", variant="null"))
    test = bl.bootstrap_test(null, fit, 1000, seed=2, progress=False)
    assert test.statistic == pytest.approx(4.04736682577659, abs=1e-6)
    assert abs(test.p - 0.348) < 4 * test.mcse
    assert test.p == (np.sum(test.draws >= test.statistic) + 1) / 1001
    assert test.mcse == pytest.approx(np.sqrt(test.p * (1 - test.p) / 1000))
    assert test.p_chisq == pytest.approx(0.25639458503033, abs=1e-6)
    assert np.isnan(test.p_mixture)
    # pbkrtest 0.5.2, 1,000 simulations: quantiles of the simulated ratios
    found = np.quantile(test.draws, [0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(found, [1.437, 2.798, 4.966, 7.632], rtol=0.15)


def test_a_test_of_a_variance() -> None:
    model = bl.load("models/penicillin_blocks")
    test = bl.bootstrap_test(
        bl.fit(model.update("yield ~ treat")), bl.fit(model), 300, seed=1, refit=False, progress=False
    )
    assert test.statistic == pytest.approx(2.76290753992113, abs=1e-5)
    assert test.p_mixture == pytest.approx(0.0964727584226545 / 2, rel=1e-5)
    assert abs(test.p - 0.0405) < 5 * max(test.mcse, 0.01)  # the exact F test of blends has p = 0.0407
    assert "χ² mixture" in str(test)


def test_malformed_calls() -> None:
    fit = bl.fit(bl.load("models/penicillin_blocks"))
    null = bl.fit(bl.load("models/penicillin_blocks", variant="null"))
    for options, message in (
        ({"nsim": 0}, "nsim"),
        ({"seed": "a"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"groups": "old"}, "groups"),
        ({"cores": 0}, "cores"),
    ):
        with pytest.raises(MethodError, match=message):
            bl.bootstrap(fit, **({"nsim": 2, "seed": 1, "progress": False} | options))
    with pytest.raises(MethodError, match="fit of bl"):
        bl.bootstrap(fit.model, seed=1)
    with pytest.raises(MethodError, match="REML and ML"):
        bl.bootstrap(bl.fit(fit.model, "MAP"), seed=1)
    with pytest.raises(MethodError, match="level"):
        bl.bootstrap(fit, 2, seed=1, progress=False).confint(95)
    with pytest.raises(MethodError, match="smaller one"):
        bl.bootstrap_test(fit, null, 2, seed=1, progress=False)
    with pytest.raises(MethodError, match="different fixed parts"):
        bl.bootstrap_test(null, fit, 2, seed=1, refit=False, progress=False)


def test_the_bar_counts_simulations(capsys: pytest.CaptureFixture[str]) -> None:
    bl.bootstrap(bl.fit(bl.load("models/penicillin_blocks")), 30, seed=1)
    assert "30/30" in capsys.readouterr().out
