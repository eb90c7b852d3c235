"""Results → one page that a colleague can read: model, data, answers, tests, means, checks, figures, how to redo it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bayeslmm.account import Account
from bayeslmm.anova import check_same_data
from bayeslmm.appraisal import the_diagnostics, the_figures, the_limit
from bayeslmm.compare import AnyResult
from bayeslmm.document import Block, Document, Section
from bayeslmm.errors import MethodError
from bayeslmm.exposition import the_data, the_model, the_priors
from bayeslmm.findings import in_short, the_answers, the_means, the_tests, the_variance
from bayeslmm.posterior import Posterior
from bayeslmm.reproduction import installed, seconds_of, the_reproduction
from bayeslmm.result import PointFit

if TYPE_CHECKING:
    from bayeslmm.limiting import LimitingPrior

SECTIONS: Mapping[str, tuple[str, Callable[[Account], list[Block]]]] = MappingProxyType(
    {
        "summary": ("In short", in_short),
        "model": ("The model", the_model),
        "data": ("The data", the_data),
        "answers": ("The answers", the_answers),
        "tests": ("Tests and intervals", the_tests),
        "means": ("Means, contrasts and slopes", the_means),
        "variance": ("Where the variance lies", the_variance),
        "diagnostics": ("Can they be trusted?", the_diagnostics),
        "limit": ("The limit of flat priors", the_limit),
        "figures": ("The fit in pictures", the_figures),
        "priors": ("Priors", the_priors),
    }
)
REPRODUCTION = ("reproduction", "How to redo it")
KEYS = (*SECTIONS, REPRODUCTION[0])


def report(
    *results: AnyResult,
    limiting: LimitingPrior | None = None,
    path: str | os.PathLike[str] = "report.html",
    title: str | None = None,
    sections: str | Iterable[str] | None = None,
    nsim: int | None = None,
    seed: int = 0,
) -> Path:
    """Write one page about one or more results on one data set: HTML with its figures inside, or Markdown.

    Tests, means, shares of variance and checks are of the first fit by REML, else of the first point fit, else of the
    posterior; figures of effects are of the posterior where there is one. What a model does not have is said, with the
    reason. Of models with more than 5000 rows, or 300 effects outside the largest group, the page leaves out simulations,
    refits and profiles, of more than 50,000 also the checks of residuals, and says so.

    Parameters
    ----------
    *results : PointFit or Posterior
        What to report; two or more are compared.
    limiting : LimitingPrior, optional
        What `bl.limiting_prior` gave, to be shown too.
    path : path
        Where to write; an existing file is replaced, a missing folder is made. A name that ends in ``.md`` gives Markdown,
        its figures in a folder of that name beside it.
    title : str, optional
        Of the page; the formula, if not given.
    sections : sequence of str, optional
        Which of "summary", "model", "data", "answers", "tests", "means", "variance", "diagnostics", "limit", "figures",
        "priors", "reproduction"; all, if not given.
    nsim : int, optional
        Simulations behind the checks, as for `bl.diagnose`; 0 for none.
    seed : int
        Of these simulations: the same seed gives the same page, but for its last line, which has date and times.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MethodError
        No result, results of different data, or an unknown section.

    Examples
    --------
    >>> import tempfile
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data))
    >>> bl.report(fit, path=f"{tempfile.mkdtemp()}/fit.html", sections=["model", "data", "answers"]).name
    'fit.html'
    """
    if not results or not all(isinstance(result, PointFit | Posterior) for result in results):
        raise MethodError("report needs one result of bl.fit or bl.sample, or several on the same data")
    check_same_data(results)  # type: ignore[arg-type]
    account = Account(results, limiting, nsim, seed)
    place = Path(path)
    document(account, chosen(sections, limiting is not None), title).write(place)
    return place


def chosen(sections: str | Iterable[str] | None, limited: bool) -> list[str]:
    """The keys of the sections asked for, in the page's order."""
    if sections is None:
        return [key for key in KEYS if key != "limit" or limited]
    given = [sections] if isinstance(sections, str) else list(sections)
    unknown = [str(key) for key in given if key not in KEYS]
    if unknown or not given:
        raise MethodError(f"sections: {', '.join(unknown) or 'none given'}; they are {', '.join(KEYS)}")
    if "limit" in given and not limited:
        raise MethodError('the section "limit" needs limiting=bl.limiting_prior(fit)')
    return [key for key in KEYS if key in given]


def document(account: Account, keys: Sequence[str], title: str | None = None) -> Document:
    """The page, built section by section; its last line says when, and what took how long."""
    made: list[Section] = []
    spent = dict.fromkeys(keys, 0.0)
    for key in keys:
        started = time.perf_counter()
        if key == "summary" and "diagnostics" in keys:  # the summary quotes the checks
            _ = account.diagnoses
            spent["diagnostics"], started = time.perf_counter() - started, time.perf_counter()
        if key == REPRODUCTION[0]:
            made.append(Section(*REPRODUCTION, the_reproduction(account, made)))
        else:
            name, build = SECTIONS[key]
            made.append(Section(key, name, build(account)))
        spent[key] += time.perf_counter() - started
    formula, response = account.model.formula.text, account.model.design.response
    about = f"{formula}. " if title else ""
    kind = "hierarchical" if account.model.groups else "linear"
    lead = f"{about}A {kind} model of {response}, by bayeslmm {installed('bayeslmm')}."
    return Document(title or formula, lead, made, _last_line(account, spent))


def _last_line(account: Account, spent: Mapping[str, float]) -> str:
    slow = [f"{key} {seconds:.1f} s" for key, seconds in spent.items() if seconds >= 0.5]
    times = [
        f"page {sum(spent.values()):.1f} s" + (f" ({', '.join(slow)})" if slow else ""),
        *seconds_of(account.results),
    ]
    return f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {', '.join(times)}."
