"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import pandas as pd
import pytest
from typer.testing import CliRunner

import bayeslmm as bl
from bayeslmm.cli import app

SMALL = ("--draws", "50", "--tune", "100", "--chains", "2", "--seed", "1")
MODEL = """
title = "Six batches"
data = "data.csv"
formula = "y ~ x + (1 | g)"

[sampler]
draws = 50
tune = 100
chains = 2
seed = 1
"""


@pytest.fixture(autouse=True)
def _in_the_checkout(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.fixture
def small(tmp_path):
    """A folder with a model file of 24 rows and settings for a short run."""
    g = [i // 4 for i in range(24)]
    x = [i % 4 for i in range(24)]
    y = [3.0 + 0.5 * b + 0.8 * (a % 3) + 0.37 * ((7 * i) % 5) for i, (a, b) in enumerate(zip(g, x, strict=True))]
    pd.DataFrame({"y": y, "x": x, "g": [f"g{a}" for a in g]}).to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "model.toml").write_text(MODEL)
    return tmp_path


def run(*arguments, code=0):
    """Run a command; check its exit code, and that nobody is shown a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], terminal_width=200)
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def edited(folder, old, new):
    path = folder / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize("method", ["REML", "ML", "MAP", "reml"])
def test_one_method_prints_its_summary(method):
    result = run("fit", "models/sleepstudy", "--method", method)
    assert "Reaction times in a sleep deprivation study" in result.stdout
    assert bl.fit(bl.load("models/sleepstudy"), method.upper()).summary() in result.stdout


def test_one_method_as_json_has_every_digit():
    fit = bl.fit(bl.load("models/sleepstudy"))
    found = json.loads(run("fit", "models/sleepstudy/model.toml", "--method", "REML", "--json").stdout)
    reml = found["fits"]["REML"]
    assert found["ok"] is True
    assert found["model"]["groups"] == {"Subject": 18}
    assert reml["loglik"] == fit.loglik
    assert reml["fixef"] == fit.fixef.to_dict()
    assert reml["sd"]["Subject"]["Days"] == fit.sd["Subject"]["Days"]
    assert reml["corr"]["Subject"]["Days"]["Intercept"] == fit.corr["Subject"].loc["Intercept", "Days"]
    assert reml["ranef"]["Subject"]["308"]["Days"] == fit.ranef["Subject"].loc["308", "Days"]
    assert "posterior" not in found


def test_map_has_null_criteria_in_json():
    found = json.loads(run("fit", "models/sleepstudy", "--method", "MAP", "--json").stdout)["fits"]["MAP"]
    assert found["aic"] is None
    assert found["logposterior"] is not None


def test_a_variant_is_fitted():
    result = run("fit", "models/sleepstudy", "--variant", "intercepts", "--method", "ML")
    assert "Reaction ~ Days + (1 | Subject)" in result.stdout
    assert "People differ in level only" in result.stdout


def test_other_data_take_the_place_of_the_files_own(small):
    half = pd.read_csv(small / "data.csv").iloc[:16]
    half.to_csv(small / "half.csv", index=False)
    found = json.loads(run("fit", small, "--data", small / "half.csv", "--method", "REML", "--json").stdout)
    assert found["model"]["nobs"] == 16


def test_fit_without_sampling_compares_and_checks_the_limit(small):
    result = run("fit", small, "--no-sample")
    for said in ("mixed model equations", "limiting prior", "Comparison of ML, REML", "in proportion to κ"):
        assert said in result.stdout
    assert "sampling" not in result.stdout


def test_fit_without_fixed_effects_has_no_limit(small):
    path = edited(small, "y ~ x + (1 | g)", "y ~ 0 + (1 | g)")
    assert "limiting prior" not in run("fit", path, "--no-sample").stdout


def test_one_fit_writes_a_report_and_no_draws(small):
    found = json.loads(run("fit", small, "--method", "ML", "--out", small / "out", "--json").stdout)
    assert set(found["files"]) == {"report", "results"}
    assert "maximum likelihood" in (small / "out" / "report.html").read_text(encoding="utf-8")


def test_the_report_is_what_was_asked_for(small):
    options = ("--method", "REML", "--out", small / "out", "--sections", "data, model", "--nsim", "0", "--markdown")
    run("fit", small, *options)
    text = (small / "out" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Six batches\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## The model", "## The data"]
    assert "they are summary, model" in run("fit", small, "--out", small / "out", "--sections", "modle", code=1).stderr
    assert "written with --out" in run("fit", small, "--method", "REML", "--markdown", code=2).stderr


@pytest.mark.slow
def test_the_main_job_writes_report_posterior_and_results(tmp_path):
    out = tmp_path / "made" / "here"
    result = run("fit", "models/sleepstudy/model.toml", "--out", out)
    for said in ("stage 2", "logLik -871.8141", "Comparison of ML, REML, posterior", "slope", "The draws look sound"):
        assert said in result.stdout
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "<html" in report
    assert "http-equiv" not in report
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["mixed_model_equations"]["fixef"] < 1e-9
    assert found["limiting_prior"]["rate"]["fixef"] == pytest.approx(1.0, abs=0.01)
    assert set(found["files"]) == {"report", "posterior", "results"}
    model = bl.load("models/sleepstudy")
    again = bl.Posterior.load(model, out / "posterior.nc")
    assert again.fixef.to_dict() == found["posterior"]["fixef"]
    assert [row["parameter"] for row in found["comparison"]["table"]] == list(again.summary().index)


def test_too_few_draws_are_reported_and_exit_3(small):
    result = run("sample", small, code=3)
    assert "Too few effective draws" in " ".join(result.stdout.split())
    assert "Draws: 2 chains × 50" in result.stdout


def test_sample_keeps_the_draws_and_the_seed_repeats_them(small):
    run("sample", small, "--out", small / "one", "--seed", "7", code=3)
    found = json.loads(run("sample", small, "--seed", "7", "--json", code=3).stdout)
    model = bl.load(small)
    kept = bl.Posterior.load(model, small / "one" / "posterior.nc")
    assert found["posterior"]["fixef"] == kept.fixef.to_dict()
    assert found["posterior"]["diagnostics"]["ok"] is False
    assert not (small / "one" / "report.html").exists()


def test_options_go_before_the_files_settings(small):
    assert "Draws: 3 chains × 60" in run("sample", small, "--draws", "60", "--chains", "3", code=3).stdout


def test_compare_as_json_is_the_table(small):
    found = json.loads(run("compare", small, "--json", *SMALL, code=3).stdout)
    row = found["comparison"]["table"][0]
    assert row["parameter"] == "fixef[Intercept]"
    assert row["REML"]["estimate"] == found["fits"]["REML"]["fixef"]["Intercept"]
    assert row["posterior"]["estimate"] == found["posterior"]["fixef"]["Intercept"]


def test_a_fit_that_did_not_converge_is_printed_and_exits_3(small, monkeypatch):
    module = import_module("bayeslmm.fit")
    honest = module.fit

    def lost(*args, **kwargs):
        fit = honest(*args, **kwargs)
        return replace(fit, optimum=replace(fit.optimum, converged=False, message="try other start values"))

    monkeypatch.setattr(module, "fit", lost)
    result = run("fit", small, "--method", "REML", code=3)
    assert "NOT CONVERGED: try other start values" in result.stdout


def test_show_prints_the_model_and_fits_nothing(small):
    result = run("show", small)
    assert str(bl.load(small)) in result.stdout
    assert "logLik" not in result.stdout
    assert json.loads(run("show", small, "--json").stdout)["model"]["coefficients"] == ["Intercept", "x"]


def test_models_lists_the_catalogue(small):
    result = run("models")
    for name in ("sleepstudy", "pastes", "Reaction ~ Days + (Days | Subject)", "variants: intercepts, uncorrelated"):
        assert name in result.stdout
    assert "Reaction times in a sleep deprivation study (180 rows × 3 columns)" in result.stdout
    found = {entry["name"]: entry for entry in json.loads(run("models", "--json").stdout)}
    assert (found["penicillin"]["rows"], found["penicillin"]["columns"]) == (144, 3)


def test_models_of_another_folder(small):
    folder = small / "mine" / "batches"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(MODEL)
    said = "batches  Six batches ({})\n    y ~ x + (1 | g)\n".format
    assert run("models", small / "mine").stdout == said("data not shipped: give them with --data")
    assert json.loads(run("models", small / "mine", "--json").stdout)[0]["rows"] is None
    (folder / "data.csv").write_text((small / "data.csv").read_text())
    assert run("models", small / "mine").stdout == said("24 rows × 3 columns")


def test_models_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "sleepstudy" in run("models").stdout


@pytest.mark.parametrize("command", ["fit", "sample", "compare", "show"])
def test_a_missing_file_is_a_sentence(command, tmp_path):
    result = run(command, tmp_path / "none.toml", code=1)
    assert "There is no model file" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("formula = ", "formula = = ", "is not valid TOML"),
        ("formula = ", "fromula = ", "did you mean 'formula'"),
        ('"y ~ x + (1 | g)"', '"y ~ x + (1 | g"', "^"),
        ('"y ~ x + (1 | g)"', '"y ~ z + (1 | g)"', "z"),
        ('"y ~ x + (1 | g)"', '"y ~ x + (1 | h)"', "h"),
        ('"data.csv"', '"nothing.csv"', "There is no data file"),
        ('"data.csv"', '"model.toml"', "data files end in .csv or .parquet"),
        ("draws = 50", 'draws = "many"', "draws must be a whole number"),
        ("[sampler]", "[priors]\nsd_h = {name = 'HalfNormal', sigma = 1}\n[sampler]", "sd_h"),
        ('title = "Six batches"', 'family = "poisson"', "poisson"),
    ],
)
def test_a_wrong_model_file_is_a_sentence(small, old, new, said):
    result = run("fit", edited(small, old, new), "--method", "REML", code=1)
    assert said in result.stderr
    assert "Error: " in result.stderr


def test_a_missing_variant_lists_those_there_are():
    assert "intercepts" in run("fit", "models/sleepstudy", "--variant", "none", code=1).stderr


def test_a_missing_column_of_other_data_is_named(small):
    pd.DataFrame({"y": [1.0, 2.0], "g": ["a", "b"]}).to_csv(small / "short.csv", index=False)
    assert "'x'" in run("fit", small, "--data", small / "short.csv", code=1).stderr


def test_a_folder_without_models_is_a_sentence(tmp_path):
    assert "holds a model.toml" in run("models", tmp_path, code=1).stderr


def test_an_output_folder_that_is_a_file_is_a_sentence(small):
    result = run("fit", small, "--method", "REML", "--out", small / "data.csv", code=1)
    assert "cannot be read or written" in result.stderr


@pytest.mark.parametrize(
    "options",
    [("--method", "OLS"), ("--draws", "0"), ("--chains", "none"), ("--wrong",), ("--method", "REML", "--draws", "10")],
)
def test_a_wrong_option_is_a_usage_error(options):
    result = run("fit", "models/sleepstudy", *options, code=2)
    assert "Usage" in result.stderr


def test_an_interrupted_run_says_so(small, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("bayeslmm.sample"), "sample", stop)
    assert "Interrupted" in run("sample", small, code=130).stderr


@pytest.mark.parametrize("command", ["fit", "sample", "compare", "models", "show"])
def test_help_states_the_exit_codes(command):
    text = " ".join(run(command, "--help").stdout.split())
    assert "3 a fit did not converge or the sampler's diagnostics failed" in text


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from bayeslmm.cli import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([m for m in ('numpy', 'pandas', 'numba', 'pymc', 'arviz', 'matplotlib', 'nutpie') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_readme_prints_what_its_example_prints(root, tmp_path, monkeypatch, capsys):
    readme = (root / "README.md").read_text(encoding="utf-8")
    code = readme.partition("```python\n")[2].partition("```")[0].replace("compare.png", f"{tmp_path}/compare.png")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    summary, _, said = printed.partition("\nAs the prior")
    assert summary.strip() in readme
    assert said.split("\n")[0] in readme
    names = [line.split()[0] for line in said.splitlines() if " ± " in line and not line.startswith("±")]
    assert len(names) == 6
    assert all(f"\n {name} " in readme for name in names)
    assert (tmp_path / "compare.png").stat().st_size > 10_000
