"""Results → one self-contained HTML page: model, data, answers side by side, checks, figures, how to redo it."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayeslmm import plot
from bayeslmm.compare import AnyResult, Comparison, compare
from bayeslmm.errors import MethodError
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.powerscale import integrates_fixef
from bayeslmm.result import PointFit
from bayeslmm.table import Table, left_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeslmm.limiting import LimitingPrior

DPI = 144
MOST_WRITTEN = 6  # coefficients that are written out in the model's equation
PACKAGES = ("bayeslmm", "numpy", "scipy", "numba", "pandas", "formulaic", "nutpie", "pymc", "arviz")
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d1d9e0; --box: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --page: #111418; --text: #e3e6ea; --soft: #9aa4af; --line: #333b44; --box: #1a1f25; }
}
body { background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; margin: 0 auto;
  max-width: 60rem; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid
  var(--line); padding-bottom: .2rem; }
p.lead, figcaption, caption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4em 0 .8em; }
th, td { padding: .15em .7em; white-space: nowrap; } thead th { border-bottom: 1px solid var(--line); }
tbody th { font-weight: normal; } caption { text-align: left; }
.equation { background: var(--box); border-left: 3px solid var(--line); padding: .7rem 1rem; overflow-x: auto;
  font-family: Cambria, "STIX Two Text", Georgia, serif; font-size: 1.05rem; }
.equation p { margin: .25rem 0; } .stage { color: var(--soft); font: .8rem system-ui, sans-serif; }
pre { background: var(--box); padding: .7rem 1rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 1rem 0 1.6rem; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; margin-top: .3rem; }
"""


def report(
    *results: AnyResult, limiting: LimitingPrior | None = None, path: str | os.PathLike[str] = "report.html"
) -> Path:
    """Write one HTML page about one or more results on one data set, figures included, that needs no other file.

    Parameters
    ----------
    *results : PointFit or Posterior
        What to report; two or more are compared.
    limiting : LimitingPrior, optional
        What `bl.limiting_prior` gave, to be shown too.
    path : path
        Where to write; an existing file is replaced, a missing folder is made.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MethodError
        No result, or results that cannot be compared.

    Examples
    --------
    >>> import tempfile
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data))
    >>> bl.report(fit, path=f"{tempfile.mkdtemp()}/fit.html").name
    'fit.html'
    """
    if not results or not all(isinstance(result, PointFit | Posterior) for result in results):
        raise MethodError("report needs one result of bl.fit or bl.sample, or several on the same data")
    comparison = compare(*results) if len(results) > 1 else None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results, comparison, limiting), encoding="utf-8")
    return path


def page(
    results: Sequence[AnyResult], comparison: Comparison | None = None, limiting: LimitingPrior | None = None
) -> str:
    """The whole page as HTML text."""
    model = results[0].model
    others = [r.model for r in results[1:] if r.model.formula.text != model.formula.text]
    sections = [
        ("The model", _equations(model) + "".join(_equations(other) for other in others)),
        ("The data", _data(model)),
        ("The answers", _answers(results, comparison)),
        ("Can they be trusted?", _checks(results)),
    ]
    if limiting is not None:
        sections.append(("The limit of flat priors", _limiting(limiting)))
    sections += [
        ("The fit in pictures", _pictures(results)),
        ("Priors", _priors(results)),
        ("How to redo it", _reproduce(results, limiting is not None)),
    ]
    body = "".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections)
    title = escape(model.formula.text)
    lead = escape(f"A hierarchical model of {model.design.response}, by bayeslmm {_version('bayeslmm')}.")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{STYLE}</style></head>\n<body><h1>{title}</h1><p class="lead">{lead}</p>\n{body}</body></html>\n'
    )


def _sub(symbol: str, *indices: str) -> str:
    return f"<i>{symbol}</i><sub>{', '.join(escape(index) for index in indices)}</sub>"


def _equations(model: Model) -> str:
    """The two stages in mathematics."""
    design = model.design
    fixed = [_product(_sub("β", name), name) for name in design.fixed.names]
    if len(fixed) > MOST_WRITTEN:
        fixed = [f"{_sub('x', 'i')}′<i>β</i>"]
    random = [
        _product(_sub("u", effect, f"{group}(i)"), effect) for group in model.groups for effect in model.effects(group)
    ]
    offset = [_sub("offset", "i")] if design.offset is not None else []
    spread = "<i>σ</i>²" if design.weights is None else f"<i>σ</i>² / {_sub('w', 'i')}"
    right = " + ".join([*offset, *fixed, *random, _sub("ε", "i")])
    first = f"{_sub(escape(design.response), 'i')} = {right}, &nbsp; {_sub('ε', 'i')} ~ Normal(0, {spread})"
    lines = [f'<span class="stage">stage 1</span> {first}']
    lines += [f'<span class="stage">stage 2</span> {_second(model, group)}' for group in model.groups]
    stages = f"<pre>{escape(str(model.stages))}</pre>" if model.stages is not None else ""
    return f'<div class="equation">{"".join(f"<p>{line}</p>" for line in lines)}</div>{stages}'


def _product(coefficient: str, name: str) -> str:
    return coefficient if name == "Intercept" else f"{coefficient} {_sub(escape(name), 'i')}"


def _second(model: Model, group: str) -> str:
    parts = []
    for term in (t for t in model.terms if t.group == group):
        vector = ", ".join(_sub("u", effect, "j") for effect in term.effects)
        if len(term.effects) == 1:
            parts.append(f"{vector} ~ Normal(0, {_sub('σ', group, term.effects[0])}²)")
            continue
        shape = "correlated" if term.covariance.pairs else "uncorrelated"
        parts.append(f"({vector}) ~ Normal(0, {_sub('Σ', group)}), {shape}")
    return f"{'; '.join(parts)}, &nbsp; <i>j</i> = 1 … {len(model.levels(group))} ({escape(group)})"


def _data(model: Model) -> str:
    design, y = model.design, model.design.y
    rows = [
        ("rows used", str(design.nobs)),
        *((f"levels of {group}", str(len(model.levels(group)))) for group in model.groups),
        (f"{design.response}: mean, sd", f"{y.mean():.5g}, {y.std(ddof=1):.4g}"),
        (f"{design.response}: smallest, largest", f"{y.min():.5g}, {y.max():.5g}"),
        ("blocks", str(model.products.structure)),
    ]
    return _html(Table("", ("", ""), tuple(rows))) + _list(left_out(model) or ["No row and no column was left out."])


def _answers(results: Sequence[AnyResult], comparison: Comparison | None) -> str:
    if comparison is None:
        (result,) = results
        return f'<div class="wide">{result._repr_html_()}</div>'
    shown = f'<div class="wide">{comparison.page().html}</div>'
    caption = "Estimates with 95 % intervals. Wald intervals for point fits, equal tails for posteriors."
    return shown + _figure(comparison.plot(), caption)


def _checks(results: Sequence[AnyResult]) -> str:
    return _list(sentence for result in results for sentence in _checked(result))


def _checked(result: AnyResult) -> Iterable[str]:
    if isinstance(result, Posterior):
        sizes = result.data["posterior"].sizes
        name = f"Posterior ({result.route} route, {sizes['chain']} chains of {sizes['draw']} draws)"
        return [f"{name}: {sentence}" for sentence in result.diagnostics.sentences]
    state = "converged" if result.converged else f"did not converge: {result.message}"
    singular = " A variance is exactly 0, or a correlation matrix has lost rank." if result.singular else ""
    return [f"{result.method}: {state}, in {result.optimum.evaluations} evaluations.{singular}"]


def _limiting(limiting: LimitingPrior) -> str:
    said = (
        "The prior on the coefficients is β ~ Normal(0, D⁻¹) with D_jj = κ [X′V⁻¹X]_jj, at fixed variances. "
        f"{limiting.verdict}"
    )
    table = limiting.table.map(lambda value: "" if pd.isna(value) else f"{value:.3g}")
    cells = tuple(tuple(str(cell) for cell in row) for row in table.to_numpy())
    caption = (
        "Distances from the Bayesian answer to BLUE, BLUP and REML: parallel to the dashed line, so proportional to κ."
    )
    shown = _html(Table("", tuple(table.columns), cells))
    return f"<p>{escape(said)}</p>{shown}{_figure(plot.limiting(limiting), caption)}"


def _pictures(results: Sequence[AnyResult]) -> str:
    posteriors = [result for result in results if isinstance(result, Posterior)]
    points = [result for result in results if isinstance(result, PointFit)]
    best = posteriors[0] if posteriors else next((fit for fit in points if fit.method == "REML"), points[0])
    who = "posterior means" if posteriors else f"the {best.method} fit" if isinstance(best, PointFit) else ""
    shown = []
    if posteriors:
        same = [fit for fit in points if fit.model.formula.text == best.model.formula.text]
        marked = f", with {', '.join(fit.method for fit in same)} marked" if same else ""
        caption = f"Posterior densities{marked}; the bar holds 95 %."
        shown.append(_figure(plot.density(posteriors[0], *same), caption))
    if best.model.groups:
        shown.append(_figure(plot.groups(best), f"Data and {who}, level by level."))
        for group in best.model.groups:
            caption = f"Effects of {group}, sorted, with 95 % intervals, from {who}."
            shown.append(_figure(plot.caterpillar(best, group), caption))
    shown.append(
        _figure(plot.residuals(best), f"Residuals of {who}: no pattern on the left, a straight line on the right.")
    )
    return "".join(shown)


def _priors(results: Sequence[AnyResult]) -> str:
    users = [r for r in results if isinstance(r, Posterior) or r.method == "MAP"]
    tables = dict.fromkeys(tuple(result.model.priors.describe()) for result in users or results)
    said = "" if users else "<p>REML and ML use no prior; MAP and the posterior would use these.</p>"
    header = ("parameter", "prior", "")
    return said + "".join(_html(Table("", header, rows, labels=3)) for rows in tables)


def _reproduce(results: Sequence[AnyResult], limited: bool) -> str:
    lines = ["import bayeslmm as bl", "", f"model = bl.Model({_arguments(results[0].model)})"]
    names = []
    for i, result in enumerate(results):
        model = "model"
        if result.model.formula.text != results[0].model.formula.text or result.model.priors != results[0].model.priors:
            model = f"model_{i + 1}"
            lines.append(f"{model} = bl.Model({_arguments(result.model)})")
        name = (result.method if isinstance(result, PointFit) else "post").lower()
        names.append(name if name not in names else f"{name}_{i + 1}")
        lines.append(f"{names[-1]} = {_call(result, model)}")
    shown = [*names, f"limiting=bl.limiting_prior({names[0]})"] if limited else names
    lines += [f"bl.report({', '.join(shown)})"]
    versions = [(name, _version(name)) for name in PACKAGES] + [("Python", platform.python_version())]
    known = tuple((name, found) for name, found in versions if found)
    return f"<pre>{escape(chr(10).join(lines))}</pre>" + _html(Table("", ("package", "version"), known))


def _arguments(model: Model) -> str:
    given = model.arguments
    shown = [repr(given["formula"]), "data"]
    for name in ("weights", "offset", "priors", "contrasts"):
        value = given[name]
        if value is not None:
            shown.append(f"{name}={value!r}" if isinstance(value, str | dict) else f"{name}={name}")
    return ", ".join([*shown, *([f"missing={given['missing']!r}"] if given["missing"] != "drop" else [])])


def _call(result: AnyResult, model: str) -> str:
    if isinstance(result, PointFit):
        held = f", fixed={dict(result.fixed)!r}" if result.fixed else ""
        joint = ', fixef="joint"' if result.method == "MAP" and not integrates_fixef(result) else ""
        return f'bl.fit({model}, "{result.method}"{joint}{held})'
    sizes, attrs = result.data["posterior"].sizes, result.data.attrs
    options: dict[str, Any] = {"draws": sizes["draw"], "chains": sizes["chain"]}
    options |= {name: attrs[name] for name in ("tune", "seed", "target_accept") if name in attrs}
    return f"bl.sample({model}, {', '.join(f'{k}={v!r}' for k, v in options.items())}, route={result.route!r})"


def _version(package: str) -> str:
    if package == "bayeslmm":
        from bayeslmm import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _html(table: Table) -> str:
    return f'<div class="wide">{table.html}</div>'


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _figure(figure: Figure, caption: str) -> str:
    """A figure as an embedded PNG without background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, transparent=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    width = round(float(figure.get_figwidth()) * 96)
    image = f'<img src="data:image/png;base64,{encoded}" width="{width}" alt="{escape(caption)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
