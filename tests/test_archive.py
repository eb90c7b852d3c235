"""A saved fit is the same fit, to the last bit; other data and other formats are refused."""

import json

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import DataError, MethodError, SpecificationError


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(8), 5)
    values = {"y": rng.normal(size=8)[g] + rng.normal(size=40), "x": rng.normal(size=40), "g": g}
    kinds = pd.Categorical.from_codes(np.arange(40) % 3, ["low", "mid", "high"])
    return pd.DataFrame(values | {"f": kinds, "w": rng.uniform(1, 2, 40)})


def same(one, other):
    assert (one.loglik, one.sigma, one.method) == (other.loglik, other.sigma, other.method)
    for name in ("theta", "beta", "beta_root"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.optimum.hessian, other.optimum.hessian)
    assert one.model.design.fixed.names == other.model.design.fixed.names
    pd.testing.assert_frame_equal(bl.confint(one), bl.confint(other))


@pytest.mark.parametrize("method", ["REML", "ML", "MAP"])
def test_a_fit_comes_back_to_the_bit(method, table, tmp_path):
    priors = {"sigma": bl.Prior("HalfNormal", sigma=3)} if method == "MAP" else None
    gaps = table.assign(y=table["y"].where(table.index != 4))
    fit = bl.fit(bl.Model("y ~ x + f + (x | g)", gaps, weights="w", priors=priors, contrasts={"f": "sum"}), method)
    same(fit, bl.load_fit(bl.save_fit(fit, tmp_path / "fit.json")))
    same(fit, bl.load_fit(bl.save_fit(fit, tmp_path / "fit.json", data=False), gaps))


def test_held_parameters_weights_as_arrays_and_stages_are_kept(table, tmp_path):
    model = bl.Model.from_stages("y ~ 1 + x", {"g": {"1": "1"}}, table, weights=table["w"].to_numpy())
    fit = bl.fit(model, fixed={"sd_g[Intercept]": 0.5})
    found = bl.load_fit(bl.save_fit(fit, tmp_path / "fit.json"))
    same(fit, found)
    assert found.fixed == dict(fit.fixed)
    assert str(found.model) == str(model)


def test_other_data_are_refused_by_column(table, tmp_path):
    path = bl.save_fit(bl.fit(bl.Model("y ~ x + (1 | g)", table)), tmp_path / "fit.json", data=False)
    with pytest.raises(DataError, match="column 'x' is not that of the fit"):
        bl.load_fit(path, table.assign(x=table["x"] + 1e-12))
    with pytest.raises(MethodError, match="holds no data"):
        bl.load_fit(path)


def test_other_formats_are_refused_with_what_to_do(table, tmp_path):
    path = bl.save_fit(bl.fit(bl.Model("y ~ x + (1 | g)", table)), tmp_path / "fit.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(SpecificationError, match=r"format 99.*read it with bayeslmm"):
        bl.load_fit(path)
    path.write_text("[1]")
    with pytest.raises(SpecificationError, match="not a fit"):
        bl.load_fit(path)
    with pytest.raises(SpecificationError, match="no file"):
        bl.load_fit(tmp_path / "none.json")


def test_posteriors_go_through_netcdf_and_back(table, tmp_path):
    import xarray as xr

    post = bl.sample(bl.Model("y ~ x + (1 | g)", table), draws=30, tune=50, chains=2, seed=1, progress=False)
    post.data.to_netcdf(tmp_path / "post.nc", engine="h5netcdf")
    tree = xr.open_datatree(tmp_path / "post.nc", engine="h5netcdf").load()
    np.testing.assert_array_equal(bl.posterior(post.model, tree).draws("ranef_g"), post.draws("ranef_g"))
    post.save(tmp_path / "post.zarr")
    again = bl.Posterior.load(post.model, tmp_path / "post.zarr")
    np.testing.assert_array_equal(again.draws("fixef"), post.draws("fixef"))
