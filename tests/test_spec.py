"""Model files: what they may say, what is refused and how, and that writing one and reading it back changes nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import bayeslmm as bl
from bayeslmm.errors import DataError, PriorError, SpecificationError
from bayeslmm.modelfile import ModelFile, dumps, read
from bayeslmm.spec import load, read_table, save, table

MODELS = Path(__file__).resolve().parent.parent / "models"
FULL = """
title = "Scores of pupils"
description = '''
Two lines,
one "quoted" and a back\\slash.'''
source = "simulated"
licence = "CC0"
data = "pupils.csv"
family = "gaussian"
link = "identity"
weights = "w"
offset = "o"
missing = "error"

[stages]
first = "score ~ 1 + ses"
[stages.second.school]
1 = "1 + sector"
ses = {mean = "1 + sector", random = false}
correlated = false

[contrasts]
sector = "sum"
[factors]
sector = ["public", "private"]
school = "sorted"
[priors]
"sd_school[Intercept]" = {name = "HalfNormal", sigma = 10}
sigma = {name = "HalfStudentT", nu = 4, sigma = 2.5}
[sampler]
draws = 500
tune = 400
chains = 2
seed = 7
target_accept = 0.9
[variants.flat]
priors = "flat"
[variants.plain]
formula = "score ~ 1 + (1 | school)"
contrasts = {}
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    pupils = pd.DataFrame(
        {
            "score": rng.normal(size=60),
            "ses": rng.normal(size=60),
            "school": np.repeat([9, 10, 2, 33, 4, 5], 10),
            "sector": np.repeat(["public", "private"], 30),
            "w": rng.uniform(1, 2, 60),
            "o": rng.normal(size=60),
        }
    )
    pupils.to_csv(tmp_path / "pupils.csv", index=False)
    (tmp_path / "model.toml").write_text(FULL, encoding="utf-8")
    return tmp_path


def written(folder, text):
    path = folder / "other.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_read(folder):
    spec = read(folder)
    assert spec == read(folder / "model.toml")
    assert spec.formula == "score ~ 1 + ses + sector + ses:sector + (1 | school)"
    assert spec.stages.levels[0].correlated is False
    assert spec.description == 'Two lines,\none "quoted" and a back\\slash.'
    assert (spec.weights, spec.offset, spec.missing, spec.link) == ("w", "o", "error", "identity")
    assert spec.contrasts == {"sector": "sum"}
    assert spec.factors == {"sector": ("public", "private"), "school": "sorted"}
    assert spec.priors["sigma"] == {"name": "HalfStudentT", "nu": 4, "sigma": 2.5}
    assert spec.sampler == {"draws": 500, "tune": 400, "chains": 2, "seed": 7, "target_accept": 0.9}
    assert spec.names == ("main", "flat", "plain")
    assert spec.data_path == folder / "pupils.csv"


def test_variants_change_only_what_they_name(folder):
    spec = read(folder)
    assert spec.variant("main") is spec is spec.variant(None)
    assert spec.variant("flat") == dataclasses.replace(spec, priors="flat", variants={})
    plain = spec.variant("plain")
    assert (plain.formula, plain.stages, plain.contrasts) == ("score ~ 1 + (1 | school)", None, {})
    with pytest.raises(SpecificationError, match="no variant 'flatt'; it has main, flat, plain"):
        spec.variant("flatt")


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(MODELS.glob("*/model.toml"))])
def test_catalogue_files_survive_writing(name, tmp_path):
    spec = read(MODELS / name)
    assert dataclasses.replace(read(written(tmp_path, dumps(spec))), path=spec.path) == spec


def test_a_full_file_survives_writing(folder):
    spec = read(folder)
    assert dataclasses.replace(read(written(folder, dumps(spec))), path=spec.path) == spec


def test_odd_text_and_numbers_survive_writing(tmp_path):
    spec = ModelFile(
        formula="y ~ 1",
        title='tab\t "quotes" \\ \x7f é 🐑',
        description="\nfirst line empty\n'''\n\"\"\"",
        priors={
            "odd name.with dots": {"name": "Normal", "mu": -1e-7, "sigma": 1e16},
            "x": {"name": "A", "v": [1, 2.5]},
        },
        factors={"a b": ("1", "it's")},
    )
    assert dataclasses.replace(read(written(tmp_path, dumps(spec))), path=spec.path) == spec


def test_what_has_no_text_form_is_refused():
    with pytest.raises(SpecificationError, match="cannot be written"):
        dumps(ModelFile(formula="y ~ 1", priors={"sigma": {"name": "Normal", "mu": object()}}))


def test_load_builds_the_model_that_the_arguments_would(folder):
    data = pd.read_csv(folder / "pupils.csv")
    data["school"] = pd.Categorical(data["school"].astype(str), categories=["2", "4", "5", "9", "10", "33"])
    data["sector"] = pd.Categorical(data["sector"], categories=["public", "private"])
    priors = {
        "sd_school[Intercept]": bl.Prior("HalfNormal", sigma=10),
        "sigma": bl.Prior("HalfStudentT", nu=4, sigma=2.5),
    }
    contrasts = {"sector": "sum"}
    direct = bl.Model(
        read(folder).formula, data, priors=priors, weights="w", offset="o", contrasts=contrasts, missing="error"
    )
    loaded = load(folder)
    np.testing.assert_array_equal(loaded.X, direct.X)
    np.testing.assert_array_equal(loaded.design.y, direct.design.y)
    np.testing.assert_array_equal(loaded.design.weights, direct.design.weights)
    np.testing.assert_array_equal(loaded.design.offset, direct.design.offset)
    assert loaded.design.random[0].levels == ("2", "4", "5", "9", "10", "33")
    assert loaded.priors == direct.priors
    assert "Level 2, school j" in str(loaded)
    assert load(folder, variant="flat").priors.flat


def test_data_may_be_given_in_place_of_the_file(folder):
    data = pd.read_csv(folder / "pupils.csv")
    data.iloc[:40].to_csv(folder / "fewer.csv", index=False)
    data.to_parquet(folder / "pupils.parquet")
    expected = load(folder).X
    for given in (
        data,
        pl.from_pandas(data),
        data.to_dict("list"),
        folder / "pupils.parquet",
        str(folder / "pupils.csv"),
    ):
        np.testing.assert_array_equal(load(folder, data=given).X, expected)
    fewer = load(folder, data=folder / "fewer.csv")
    assert fewer.X.shape == (40, 4)
    assert fewer.design.random[0].levels == ("2", "9", "10", "33")


def test_factors_read_numbers_as_they_stand(tmp_path):
    (tmp_path / "d.csv").write_text("y,g,h\n1,01,1.0\n2,1,2.0\n3,,3.5\n", encoding="utf-8")
    spec = ModelFile(
        formula="y ~ 1", path=tmp_path / "model.toml", data="d.csv", factors={"g": "sorted", "h": "sorted"}
    )
    frame = table(spec)
    assert list(frame["g"].cat.categories) == ["01", "1"]
    assert frame["g"].isna().tolist() == [False, False, True]
    numbers = table(spec, {"y": [1, 2], "g": [10.0, 9.0], "h": [2, 1]})
    assert list(numbers["g"].cat.categories) == ["9", "10"]


def test_saved_models_load_as_the_same_model(folder):
    original = load(folder)
    path = save(original, folder / "copy.toml", title="A copy", sampler={"draws": 10})
    copy = load(path)
    assert read(path).title == "A copy"
    assert read(path).sampler == {"draws": 10}
    np.testing.assert_array_equal(copy.X, original.X)
    np.testing.assert_array_equal(copy.design.y, original.design.y)
    np.testing.assert_array_equal(copy.design.weights, original.design.weights)
    assert copy.design.random[0].levels == original.design.random[0].levels
    assert copy.priors == original.priors
    assert copy.stages == original.stages


def test_formulas_for_zeros_and_dispersion_are_saved(tmp_path):
    rng = np.random.default_rng(1)
    data = {"y": rng.poisson(1.0, 40), "x": rng.normal(size=40), "z": rng.normal(size=40), "g": list("abcd") * 10}
    options = {"family": "zero_inflated_negativebinomial", "zero": "~ z", "dispersion": "~ x"}
    model = bl.Model("y ~ 1 + (1 | g)", data, **options)
    copy = load(save(model, tmp_path / "m.toml"))
    assert {key: copy.arguments[key] for key in options} == options
    assert list(copy.design.further) == list(model.design.further)
    for name, block in model.design.further.items():
        np.testing.assert_array_equal(copy.design.further[name].X, block.X)


def test_saving_keeps_text_that_looks_like_numbers_and_its_order(tmp_path):
    data = {"y": [1.0, 0.1 + 0.2, 3.0, 4.0, 5.5, 7.0], "g": ["10", "9", "01", "10", "9", "01"]}
    model = bl.Model("y ~ 1 + (1 | g)", data, priors="flat")
    copy = load(save(model, tmp_path / "m.toml"))
    assert copy.design.random[0].levels == model.design.random[0].levels == ("01", "10", "9")
    assert copy.design.y[1] == 0.1 + 0.2
    assert copy.priors.flat


def test_what_a_file_cannot_keep_is_refused(tmp_path):
    data = {"y": [1.0, 2.0, 3.0, 4.0], "g": ["a", "a", "NA", "NA"]}
    with pytest.raises(DataError, match="other missing values"):
        save(bl.Model("y ~ 1 + (1 | g)", data), tmp_path / "m.toml")
    model = bl.Model("y ~ 1 + (1 | g)", data, weights=[1, 2, 1, 2])
    with pytest.raises(SpecificationError, match="weights is an array"):
        save(model, tmp_path / "m.toml")


MALFORMED = {
    "not TOML": ("formula = y ~ x", "not valid TOML.*line 1"),
    "unknown key": ('formla = "y ~ x"', "unknown key 'formla'; did you mean 'formula'. The keys are title"),
    "no model": ('data = "d.csv"', "states no model"),
    "both": ('formula = "y ~ x"\n[stages]\nfirst = "y ~ x"', "both a formula and stages"),
    "formula no text": ("formula = 3", "formula must be text"),
    "contrasts no table": ('formula = "y ~ x"\ncontrasts = "sum"', r"contrasts must be a table, \[contrasts\]"),
    "coding no text": ('formula = "y ~ x"\ncontrasts = {x = 3}', "a coding such as"),
    "factors no list": ('formula = "y ~ x"\nfactors = {x = true}', "give x its levels in order"),
    "factors empty": ('formula = "y ~ x"\nfactors = {x = []}', "give x its levels in order"),
    "level twice": ('formula = "y ~ x"\nfactors = {x = ["a", "a"]}', "listed twice"),
    "sampler key": ('formula = "y ~ x"\nsampler = {draw = 3}', "unknown key 'draw'; did you mean 'draws'"),
    "sampler type": ('formula = "y ~ x"\nsampler = {draws = 3.5}', "draws must be a whole number"),
    "sampler bool": ('formula = "y ~ x"\nsampler = {target_accept = true}', "target_accept must be a number"),
    "priors word": ('formula = "y ~ x"\npriors = "vague"', 'priors is "flat" or a table'),
    "prior without name": ('formula = "y ~ x"\npriors = {sigma = {sigma = 3}}', r"write sigma = \{name"),
    "prior a number": ('formula = "y ~ x"\npriors = {sigma = 3}', r"write sigma = \{name"),
    "stages key": ('[stages]\nfrist = "y ~ x"', "unknown key 'frist'; did you mean 'first'"),
    "stages without first": ('[stages.second.g]\n1 = "1"', "give the first stage"),
    "stages wrong": ('[stages]\nfirst = "y ~ x"\nsecond = {g = {z = "1"}}', "'z' is no coefficient"),
    "variant key": ('formula = "y ~ x"\n[variants.a]\ndata = "e.csv"', r"\[variants.a\]: unknown key 'data'"),
    "variant called main": ('formula = "y ~ x"\n[variants.main]\nfamily = "poisson"', '"main" is taken'),
    "variant no table": ('formula = "y ~ x"\nvariants = {a = 3}', "a variant is a table"),
    "variant wrong inside": ('formula = "y ~ x"\n[variants.a]\nsampler = {draws = "x"}', "must be a whole number"),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_say_what_to_do(text, message, tmp_path):
    with pytest.raises(SpecificationError, match=message):
        read(written(tmp_path, text))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(SpecificationError, match="There is no model file"):
        read(tmp_path / "absent.toml")
    with pytest.raises(SpecificationError, match="There is no model file"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no data file .*d\.csv"):
        load(written(tmp_path, 'formula = "y ~ 1 + (1 | g)"\ndata = "d.csv"'))
    with pytest.raises(DataError, match="names no data"):
        load(written(tmp_path, 'formula = "y ~ 1 + (1 | g)"'))
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(SpecificationError, match="cannot be read"):
        read(tmp_path / "latin.toml")


def test_data_files_that_do_not_fit(folder):
    (folder / "empty.csv").write_text("", encoding="utf-8")
    (folder / "broken.parquet").write_text("no", encoding="utf-8")
    for name in ("empty.csv", "broken.parquet"):
        with pytest.raises(DataError, match="cannot be read"):
            read_table(folder / name)
    (folder / "d.xlsx").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"end in \.csv or \.parquet"):
        read_table(folder / "d.xlsx")
    data = pd.read_csv(folder / "pupils.csv")
    with pytest.raises(DataError, match="school"):
        load(folder, data=data.drop(columns="school"))
    with pytest.raises(DataError, match="'sector' holds 'church'; its declared levels are public, private"):
        load(folder, data=data.assign(sector="church"))


def test_errors_of_priors_and_columns_come_through(folder):
    text = FULL.replace("sigma = 10", "sigma = -10")
    with pytest.raises(PriorError):
        load(written(folder, text))
    with pytest.raises(DataError, match="ww"):
        load(written(folder, FULL.replace('weights = "w"', 'weights = "ww"')))
