"""Linear and generalised linear mixed models: REML, the mixed model equations and the posterior, from one model.

Every public name is loaded when first used, so that ``import bayeslmm`` costs nothing.

Examples
--------
>>> import bayeslmm as bl
>>> bl.__version__
'0.1.0'
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayeslmm import errors
    from bayeslmm.anova import anova, ranova
    from bayeslmm.archive import load_fit, save_fit
    from bayeslmm.assurance import assurance
    from bayeslmm.attenuation import attenuation
    from bayeslmm.augment import augment
    from bayeslmm.bootstrap import bootstrap
    from bayeslmm.calibrate import calibrate
    from bayeslmm.coefficients import coefficients
    from bayeslmm.compare import compare
    from bayeslmm.contrasts import contrasts
    from bayeslmm.decomposition import decomposition
    from bayeslmm.diagnose import diagnose
    from bayeslmm.equations import solve
    from bayeslmm.evidence import bayes_factor, evidence
    from bayeslmm.export import export
    from bayeslmm.fit import fit
    from bayeslmm.goodness import calibration_curve, roc, rootogram
    from bayeslmm.graph.convert import to_pymc
    from bayeslmm.influence import influence
    from bayeslmm.information import information
    from bayeslmm.interchange import to_bambi
    from bayeslmm.intervals import confint
    from bayeslmm.laplace_error import laplace_error
    from bayeslmm.limiting import limiting_prior
    from bayeslmm.loo import compare_loo, loo
    from bayeslmm.lrtest import bootstrap_test
    from bayeslmm.means import means
    from bayeslmm.model import Model
    from bayeslmm.oneway import oneway
    from bayeslmm.oneway_power import oneway_power, oneway_size
    from bayeslmm.posterior import Posterior
    from bayeslmm.power import power
    from bayeslmm.predict import predict
    from bayeslmm.priors import Prior
    from bayeslmm.profile import profile
    from bayeslmm.quantile_residuals import quantile_residuals
    from bayeslmm.repca import repca
    from bayeslmm.report import report
    from bayeslmm.response_curves import response_curves
    from bayeslmm.restoration import group_log_likelihood, ranef_draws
    from bayeslmm.result import PointFit
    from bayeslmm.sample import posterior, sample
    from bayeslmm.sidebyside import side_by_side
    from bayeslmm.simulate import simulate
    from bayeslmm.slopes import slopes
    from bayeslmm.spec import load
    from bayeslmm.tidy import glance, tidy
    from bayeslmm.variance_ratio import variance_ratio
    from bayeslmm.variation import icc, r2, variance_partition

__version__ = "0.1.0"

__all__ = [
    "Model",
    "PointFit",
    "Posterior",
    "Prior",
    "anova",
    "assurance",
    "attenuation",
    "augment",
    "bayes_factor",
    "bootstrap",
    "bootstrap_test",
    "calibrate",
    "calibration_curve",
    "coefficients",
    "compare",
    "compare_loo",
    "confint",
    "contrasts",
    "decomposition",
    "diagnose",
    "errors",
    "evidence",
    "export",
    "fit",
    "glance",
    "group_log_likelihood",
    "icc",
    "influence",
    "information",
    "laplace_error",
    "limiting_prior",
    "load",
    "load_fit",
    "loo",
    "means",
    "oneway",
    "oneway_power",
    "oneway_size",
    "posterior",
    "power",
    "predict",
    "profile",
    "quantile_residuals",
    "r2",
    "ranef_draws",
    "ranova",
    "repca",
    "report",
    "response_curves",
    "roc",
    "rootogram",
    "sample",
    "save_fit",
    "side_by_side",
    "simulate",
    "slopes",
    "solve",
    "tidy",
    "to_bambi",
    "to_pymc",
    "variance_partition",
    "variance_ratio",
]

_HOME = {
    "Model": "model",
    "PointFit": "result",
    "Posterior": "posterior",
    "Prior": "priors",
    "anova": "anova",
    "assurance": "assurance",
    "attenuation": "attenuation",
    "augment": "augment",
    "bayes_factor": "evidence",
    "bootstrap": "bootstrap",
    "bootstrap_test": "lrtest",
    "calibrate": "calibrate",
    "calibration_curve": "goodness",
    "coefficients": "coefficients",
    "compare": "compare",
    "compare_loo": "loo",
    "confint": "intervals",
    "contrasts": "contrasts",
    "decomposition": "decomposition",
    "diagnose": "diagnose",
    "evidence": "evidence",
    "export": "export",
    "fit": "fit",
    "glance": "tidy",
    "group_log_likelihood": "restoration",
    "icc": "variation",
    "influence": "influence",
    "information": "information",
    "laplace_error": "laplace_error",
    "limiting_prior": "limiting",
    "load": "spec",
    "load_fit": "archive",
    "loo": "loo",
    "means": "means",
    "oneway": "oneway",
    "oneway_power": "oneway_power",
    "oneway_size": "oneway_power",
    "posterior": "sample",
    "power": "power",
    "predict": "predict",
    "profile": "profile",
    "quantile_residuals": "quantile_residuals",
    "r2": "variation",
    "ranef_draws": "restoration",
    "ranova": "anova",
    "repca": "repca",
    "report": "report",
    "response_curves": "response_curves",
    "roc": "goodness",
    "rootogram": "goodness",
    "sample": "sample",
    "save_fit": "archive",
    "side_by_side": "sidebyside",
    "simulate": "simulate",
    "slopes": "slopes",
    "solve": "equations",
    "tidy": "tidy",
    "to_bambi": "interchange",
    "to_pymc": "graph.convert",
    "variance_partition": "variation",
    "variance_ratio": "variance_ratio",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("bayeslmm.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'bayeslmm' has no attribute {name!r}")
    value = getattr(import_module(f"bayeslmm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """Keeps ``bl.fit`` the function: importing the submodule ``bayeslmm.fit`` would bind the module to that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            if _HOME[name] != name:
                return
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
