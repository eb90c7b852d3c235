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
    from bayeslmm.bootstrap import bootstrap
    from bayeslmm.coefficients import coefficients
    from bayeslmm.compare import compare
    from bayeslmm.equations import solve
    from bayeslmm.fit import fit
    from bayeslmm.graph.convert import to_pymc
    from bayeslmm.interchange import to_bambi
    from bayeslmm.intervals import confint
    from bayeslmm.limiting import limiting_prior
    from bayeslmm.lrtest import bootstrap_test
    from bayeslmm.model import Model
    from bayeslmm.posterior import Posterior
    from bayeslmm.predict import predict
    from bayeslmm.priors import Prior
    from bayeslmm.profile import profile
    from bayeslmm.report import report
    from bayeslmm.restoration import group_log_likelihood, ranef_draws
    from bayeslmm.result import PointFit
    from bayeslmm.sample import posterior, sample
    from bayeslmm.simulate import simulate
    from bayeslmm.spec import load

__version__ = "0.1.0"

__all__ = [
    "Model",
    "PointFit",
    "Posterior",
    "Prior",
    "anova",
    "bootstrap",
    "bootstrap_test",
    "coefficients",
    "compare",
    "confint",
    "errors",
    "fit",
    "group_log_likelihood",
    "limiting_prior",
    "load",
    "posterior",
    "predict",
    "profile",
    "ranef_draws",
    "ranova",
    "report",
    "sample",
    "simulate",
    "solve",
    "to_bambi",
    "to_pymc",
]

_HOME = {
    "Model": "model",
    "PointFit": "result",
    "Posterior": "posterior",
    "Prior": "priors",
    "anova": "anova",
    "bootstrap": "bootstrap",
    "bootstrap_test": "lrtest",
    "coefficients": "coefficients",
    "compare": "compare",
    "confint": "intervals",
    "fit": "fit",
    "group_log_likelihood": "restoration",
    "limiting_prior": "limiting",
    "load": "spec",
    "posterior": "sample",
    "predict": "predict",
    "profile": "profile",
    "ranef_draws": "restoration",
    "ranova": "anova",
    "report": "report",
    "sample": "sample",
    "simulate": "simulate",
    "solve": "equations",
    "to_bambi": "interchange",
    "to_pymc": "graph.convert",
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
