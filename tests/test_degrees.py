"""Degrees of freedom: numbers of lmerTest, pbkrtest and nlme, the n × n formulas, and what is refused."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.degrees import METHODS, containment, contrast_degrees, covariance_of
from bayeslmm.errors import MethodError

COLUMNS = ["estimate", "se", "df", "t", "p"]
OATS = (
    "111 130 157 174 117 114 161 141 105 140 118 156 61 91 97 100 70 108 126 149 96 124 121 144 68 64 112 86 60 102 89 96 "
    "89 129 132 124 74 89 81 122 64 103 132 133 70 89 104 117 62 90 100 116 80 82 94 126 63 70 109 99 53 74 118 113 89 82 "
    "86 104 97 99 119 121"
)

# R 4.2.2, lme4 1.1-31: estimate, se, df of summary() of lmerTest 3.1-3 (Satterthwaite) and, through pbkrtest 0.5.2,
# Kenward–Roger; by coefficient.
REFERENCE = {
    "intercepts": {
        "satterthwaite": [
            [251.405104848485, 9.74671625403997, 22.8101991123],
            [10.4672859595959, 0.804221429101, 161.0],
        ],
        "kenward-roger": [
            [251.405104848485, 9.74671625403998, 22.8101991172],
            [10.4672859595959, 0.804221429101, 161.0],
        ],
    },
    "slopes": {
        "satterthwaite": [[251.405104848486, 6.82455653263138, 17.0], [10.4672859595959, 1.54578889647742, 17.0]],
        "kenward-roger": [[251.405104848486, 6.82455653263137, 17.0], [10.4672859595959, 1.54578889647742, 17.0]],
    },
    "tablets_missing": {
        "satterthwaite": [
            [10.2117458922826, 0.0925917594045027, 25.8096799016865],
            [0.0721109361071747, 0.0869717249917838, 11.6958961262143],
        ],
        "kenward-roger": [
            [10.2117458922826, 0.0933722382268826, 25.8098537560162],
            [0.0721109361071747, 0.089623594582771, 11.6964825772477],
        ],
    },
    "penicillin_blocks": {
        "satterthwaite": [[84, 2.47487373415524, 11.0745529742], *[[b, 2.74469184669628, 12] for b in (1, 5, 2)]],
        "kenward-roger": [[84, 2.47487373415524, 11.0745529742], *[[b, 2.74469184669628, 12] for b in (1, 5, 2)]],
    },
    "oats": {
        "satterthwaite": [
            [81.9, 8.57075669759884, 12.8487218024378],
            [75.3333333333334, 11.8585412255991, 51],
            [8.51666666666675, 8.68466347257157, 21.5747594510061],
            [-8.6, 8.68466347257157, 21.5747594521966],
            [-10.75, 16.7705098312027, 51],
            [5.75, 16.7705098312027, 51],
        ],
        "kenward-roger": [
            [81.9, 8.57075669759885, 12.8487217998569],
            [75.3333333333334, 11.8585412255991, 51],
            [8.51666666666675, 8.68466347257157, 21.5747594734248],
            [-8.6, 8.68466347257156, 21.5747594734248],
            [-10.75, 16.7705098312027, 51],
            [5.75, 16.7705098312027, 51],
        ],
    },
}


def oats():
    rows = [(b, v, n / 5) for b in range(6) for v in ("Victory", "Golden Rain", "Marvellous") for n in range(4)]
    data = pd.DataFrame(rows, columns=["Block", "Variety", "nitro"])
    return data.assign(**{"yield": np.array(OATS.split(), float), "Block": data["Block"].astype(str)})


def fitted(name, root, method="REML"):
    if name == "oats":
        return bl.fit(bl.Model("yield ~ nitro * Variety + (1 | Block/Variety)", oats()), method)
    if name == "tablets_missing":  # the reference level of the fit in R
        data = pd.read_csv(root / "models/tablets_missing/data.csv").astype({"tablet": str})
        return bl.fit(bl.Model("y ~ method + (1 | tablet)", data), method)
    if name == "penicillin_blocks":
        model = bl.load(root / "models" / name)
        return bl.fit(model.update(contrasts={"treat": "treatment"}), method)
    folder = "sleepstudy" if name in ("intercepts", "slopes") else name
    return bl.fit(bl.load(root / "models" / folder, variant="intercepts" if name == "intercepts" else None), method)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("name", REFERENCE)
def test_coefficients_of_lmertest_and_pbkrtest(name, df, root):
    found = bl.coefficients(fitted(name, root), df)
    assert list(found) == COLUMNS
    np.testing.assert_allclose(found[["estimate", "se", "df"]], np.array(REFERENCE[name][df]), rtol=1e-6)


def test_p_values_of_lmertest_and_pbkrtest(root):
    fit = fitted("tablets_missing", root)
    assert bl.coefficients(fit).loc["method[nir]", "p"] == pytest.approx(0.423629207090533, rel=1e-6)
    assert bl.coefficients(fit, "kenward-roger").loc["method[nir]", "p"] == pytest.approx(0.437101220709747, rel=1e-6)


def test_adjusted_covariance_of_pbkrtest(root):
    expected = [[0.00871837487149771, -0.00401619435296846], [-0.00401619435296846, 0.0080323887059369]]
    np.testing.assert_allclose(covariance_of(fitted("tablets_missing", root), "kenward-roger"), expected, rtol=1e-7)


def test_joint_test_of_lmertest_and_pbkrtest(root):
    fit, L = fitted("penicillin_blocks", root), np.eye(4)[1:]
    for df in ("satterthwaite", "kenward-roger"):
        test = contrast_degrees(fit, L, df)
        assert test.numerator_df == 3
        assert (test.denominator_df, test.F, test.p) == pytest.approx((12, 1.23893805309937, 0.338658116186), rel=1e-6)


def test_joint_test_of_an_interaction_of_lmertest_and_pbkrtest(root):
    fit = fitted("oats", root)
    interaction, variety = np.eye(6)[4:], np.eye(6)[2:4]
    for df in ("satterthwaite", "kenward-roger"):
        test = contrast_degrees(fit, interaction, df)
        assert (test.denominator_df, test.F) == pytest.approx((51, 0.498814814817536), rel=1e-6)
        test = contrast_degrees(fit, variety, df)
        assert (test.denominator_df, test.F) == pytest.approx((21.5747594734248, 1.94225314499825), rel=1e-6)


def test_printed_in_the_lecture(root):
    """Franc, lecture 10 of 01NAEX: paired tablets t −0.5354 with 9 df, p 0.6054, F (1, 9) 0.287."""
    fit = bl.fit(bl.load(root / "models/tablets"))
    for df in METHODS[:3]:
        row = bl.coefficients(fit, df).iloc[1]
        assert row["df"] == pytest.approx(9, rel=1e-6)
        assert row["t"] == pytest.approx(-0.5354, abs=5e-5)
        assert row["p"] == pytest.approx(0.6054, abs=5e-5)
    assert bl.coefficients(fit, "containment")["df"].tolist() == [9, 9]


def test_containment_of_nlme(root):
    """summary(lme(...)) of nlme 3.1-162: Oats with nested blocks, Orthodont's design, the lecture's tablets."""
    assert containment(fitted("oats", root).model).tolist() == [51, 51, 10, 10, 51, 51]
    assert bl.coefficients(fitted("tablets_missing", root), "containment")["df"].tolist() == [19, 9]
    child, sex, age = np.repeat(np.arange(27), 4), np.repeat(np.arange(27) % 2, 4), np.tile([8.0, 10, 12, 14], 27)
    data = {"y": np.sin(np.arange(108) ** 2), "child": child.astype(str), "sex": sex, "age": age}
    assert containment(bl.Model("y ~ sex * age + (1 | child)", data)).tolist() == [79, 25, 79, 79]
    assert containment(bl.Model("y ~ 0 + sex + age + (1 | child)", data)).tolist() == [26, 81]


def dense_kenward_roger(fit, L):
    """pbkrtest's formulas on n × n matrices: adjusted covariance, degrees of freedom, scale of F."""
    model = fit.model
    weights = np.ones(len(model.X)) if model.design.weights is None else model.design.weights
    parts = [np.diag(1 / weights)]
    for term in model.terms:
        Z = [np.where(term.codes[:, None] == np.arange(len(term.levels)), c[:, None], 0.0) for c in term.columns.T]
        for i, j in zip(*term.covariance.pattern, strict=True):
            parts.append(Z[i] @ Z[j].T + (Z[j] @ Z[i].T if i != j else 0.0))
    Z, Lam = model.Z.toarray(), model.Lambda(fit.theta).toarray()
    D = np.linalg.inv(fit.sigma**2 * (Z @ Lam @ Lam.T @ Z.T + parts[0]))
    phi = np.linalg.inv(model.X.T @ D @ model.X)
    H = [G @ D for G in parts]
    P = [-model.X.T @ D @ h @ model.X for h in H]
    Q = [[model.X.T @ D @ h @ g @ model.X for g in H] for h in H]
    information = [
        [np.trace(h @ g) - 2 * np.trace(phi @ Q[i][j]) + np.trace(phi @ P[i] @ phi @ P[j]) for j, g in enumerate(H)]
        for i, h in enumerate(H)
    ]
    W, m = 2 * np.linalg.inv(np.array(information)), len(H)
    U = sum(W[i, j] * (Q[i][j] - P[i] @ phi @ P[j]) for i in range(m) for j in range(m))
    theta, q = L.T @ np.linalg.solve(L @ phi @ L.T, L), len(L)
    u = [theta @ phi @ p @ phi for p in P]
    A1 = sum(W[i, j] * np.trace(u[i]) * np.trace(u[j]) for i in range(m) for j in range(m))
    A2 = sum(W[i, j] * np.trace(u[i] @ u[j]) for i in range(m) for j in range(m))
    B, g = (A1 + 6 * A2) / (2 * q), ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    c = np.array([g, q - g, q + 2 - g]) / (3 * q + 2 * (1 - g))
    rho = ((1 - A2 / q) / (1 - c[1] * B)) ** 2 * (1 + c[0] * B) / (1 - c[2] * B) / q
    df = 4 + (q + 2) / (q * rho - 1)
    return phi + 2 * phi @ U @ phi, df, df * (1 - A2 / q) / (df - 2)


def crossed(seed=0, n=90):
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, 11, n), rng.integers(0, 7, n), rng.normal(size=n)
    y = x + rng.normal(size=11)[g] + rng.normal(size=7)[h] * (1 + x) + 0.7 * rng.normal(size=n)
    arm = np.array(list("abc"))[rng.integers(0, 3, n)]
    return {"y": y, "x": x, "arm": arm, "g": g.astype(str), "h": h.astype(str), "w": rng.uniform(0.5, 2, n)}


DENSE = {
    "one factor": "y ~ x + arm + (1 | g)",
    "slopes": "y ~ x + arm + (x | h)",
    "crossed": "y ~ x + arm + (1 | g) + (1 | h)",
    "crossed slopes": "y ~ x + arm + (x | h) + (x || g)",
    "nested": "y ~ x + arm + (1 | g/h)",
    "three": "y ~ x * arm + (1 | g) + (1 | h) + (1 | arm:h)",
}


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("formula", DENSE.values(), ids=DENSE)
def test_kenward_roger_against_n_by_n(formula, weights):
    fit = bl.fit(bl.Model(formula, crossed(), weights=weights))
    L = np.eye(len(fit.beta))[2:4]
    covariance, df, scale = dense_kenward_roger(fit, L)
    np.testing.assert_allclose(covariance_of(fit, "kenward-roger"), covariance, rtol=1e-6, atol=1e-9)
    test = contrast_degrees(fit, L, "kenward-roger")
    wald = test.estimate @ np.linalg.solve(test.covariance, test.estimate)
    assert (test.denominator_df, test.F) == pytest.approx((df, scale * wald / 2), rel=1e-6)


def dense_satterthwaite(fit, contrast):
    """df of one contrast from the n × n deviance in (θ, σ), differenced twice."""
    model, reml = fit.model, fit.method == "REML"
    X, y, n = model.X, model.design.y, len(model.X)

    def at(v):
        Z, Lam = model.Z.toarray(), model.Lambda(v[:-1]).toarray()
        V = v[-1] ** 2 * (Z @ Lam @ Lam.T @ Z.T + np.eye(n))
        phi = np.linalg.inv(X.T @ np.linalg.solve(V, X))
        r = y - X @ (phi @ (X.T @ np.linalg.solve(V, y)))
        deviance = np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r)
        return deviance - reml * np.linalg.slogdet(phi)[1], contrast @ phi @ contrast

    v0, h = np.append(fit.theta, fit.sigma), 2e-3
    m, e = len(v0), h * np.eye(len(v0))
    hessian = np.array(
        [
            [sum(a * b * at(v0 + a * e[i] + b * e[j])[0] for a in (1, -1) for b in (1, -1)) for j in range(m)]
            for i in range(m)
        ]
    ) / (4 * h * h)  # fmt: skip
    g = np.array([(at(v0 + e[i])[1] - at(v0 - e[i])[1]) / (2 * h) for i in range(m)])
    return 2 * at(v0)[1] ** 2 / (g @ (2 * np.linalg.inv(hessian)) @ g)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("formula", ["y ~ x + arm + (1 | g)", "y ~ x + (1 | g) + (1 | h)", "y ~ x + (x | h)"])
def test_satterthwaite_against_n_by_n(formula, method):
    fit = bl.fit(bl.Model(formula, crossed()), method)
    contrast = np.linspace(1, 2, len(fit.beta))
    expected = dense_satterthwaite(fit, contrast)
    assert contrast_degrees(fit, contrast).denominator_df == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("df", METHODS)
def test_f_is_the_same_for_any_basis_of_the_hypothesis(df, root):
    fit, rng = fitted("slopes", root), np.random.default_rng(3)
    one = contrast_degrees(fit, np.eye(2), df)
    other = contrast_degrees(fit, rng.normal(size=(3, 2)), df)
    assert one.numerator_df == other.numerator_df == 2
    assert (other.F, other.denominator_df) == pytest.approx((one.F, one.denominator_df), rel=1e-6)
    single = contrast_degrees(fit, [0, 3.0], df)
    assert single.p == pytest.approx(bl.coefficients(fit, df).loc["Days", "p"], rel=1e-9)


def test_satterthwaite_joint_follows_fai_and_cornelius(root):
    fit = fitted("tablets_missing", root)
    V, vectors = np.linalg.eigh(fit.beta_covariance)
    nu = np.array([contrast_degrees(fit, v).denominator_df for v in vectors.T])
    E = np.sum(nu / (nu - 2))
    assert contrast_degrees(fit, np.eye(2)).denominator_df == pytest.approx(2 * E / (E - 2), rel=1e-9)
    assert len(V) == 2


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_a_variance_of_zero(df, root):
    """Held at zero Satterthwaite's df are those of least squares; Kenward and Roger's count the variance."""
    fit = bl.fit(bl.load(root / "models/dyestuff2"))
    assert fit.singular
    found = bl.coefficients(fit, df)["df"].iloc[0]
    assert found == pytest.approx(29 if df == "satterthwaite" else 5, rel=1e-6)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger", "containment"])
def test_without_groups_it_is_least_squares(df):
    fit = bl.fit(bl.Model("y ~ x + arm", crossed()))
    np.testing.assert_allclose(bl.coefficients(fit, df)["df"], 86, rtol=1e-6)


def test_invariance_to_units():
    data = crossed()
    fit = bl.fit(bl.Model("y ~ x + (x | h)", data))
    other = bl.fit(bl.Model("y ~ x + (x | h)", data | {"y": 1e6 * data["y"], "x": 1e4 * data["x"]}))
    for df in ("satterthwaite", "kenward-roger"):
        one, two = bl.coefficients(fit, df), bl.coefficients(other, df)
        np.testing.assert_allclose(one[["df", "t"]], two[["df", "t"]], rtol=1e-5)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_a_predictor_far_from_zero(df):
    data = crossed()
    one, two = (bl.fit(bl.Model("y ~ x + (x | h)", data | {"x": data["x"] + shift})) for shift in (0, 1000))
    expected = contrast_degrees(one, [0, 1], df).denominator_df
    assert contrast_degrees(two, [0, 1], df).denominator_df == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_a_residual_far_smaller_than_the_groups(df, rng):
    """All of y's variation between 11 groups: 10 df for the mean, 90 − 11 − 1 for a predictor within them."""
    data = crossed()
    y = rng.normal(size=11)[data["g"].astype(int)] + 1e-4 * rng.normal(size=90)
    found = bl.coefficients(bl.fit(bl.Model("y ~ x + (1 | g)", data | {"y": y})), df)["df"]
    np.testing.assert_allclose(found, [10, 78], rtol=1e-4)


def test_five_thousand_groups(rng):
    g, x = np.arange(50_000) % 5_000, rng.normal(size=50_000)
    y = x + rng.normal(size=5_000)[g] * (1 + 0.5 * x) + rng.normal(size=50_000)
    fit = bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": g.astype(str)}))
    for df in ("satterthwaite", "kenward-roger"):
        assert contrast_degrees(fit, [0, 1], df).denominator_df == pytest.approx(4_900, rel=0.1)


def test_what_is_refused(root):
    ml, crossed_fit = fitted("slopes", root, "ML"), bl.fit(bl.Model("y ~ x + (1 | g) + (1 | h)", crossed()))
    with pytest.raises(MethodError, match="REML"):
        bl.coefficients(ml, "kenward-roger")
    with pytest.raises(MethodError, match="crossed"):
        bl.coefficients(crossed_fit, "containment")
    with pytest.raises(MethodError, match="asymptotic"):
        bl.coefficients(ml, "residual")
    with pytest.raises(MethodError, match="got dict"):
        bl.coefficients({}, "satterthwaite")
    with pytest.raises(MethodError, match="MAP"):
        bl.coefficients(bl.fit(ml.model, "MAP"), "satterthwaite")
    with pytest.raises(MethodError, match="shape"):
        contrast_degrees(ml, [1, 0, 0])
    with pytest.raises(MethodError, match="zeros"):
        contrast_degrees(ml, [[1, 0], [0, 0]])
    held = bl.fit(ml.model, fixed={"sd_Subject[Days]": 5.0})
    with pytest.raises(MethodError, match="sd_Subject"):
        bl.coefficients(held)
    assert np.isinf(bl.coefficients(held, "asymptotic")["df"]).all()
