"""The command line: one model file → fits, posterior, comparison and report, in words, tables or JSON."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayeslmm.errors import BayesLMMError, SpecificationError

if TYPE_CHECKING:
    from rich.console import Console

    from bayeslmm.compare import Comparison
    from bayeslmm.fit import Method as PointMethod
    from bayeslmm.limiting import LimitingPrior
    from bayeslmm.model import Model
    from bayeslmm.posterior import Posterior
    from bayeslmm.result import PointFit

USER_ERROR, NOT_CONVERGED, INTERRUPTED = 1, 3, 130
EXIT_CODES = "Exit codes: 0 done, 1 the model, the data or an option is wrong, 2 the command cannot be read, \
3 a fit did not converge or the sampler's diagnostics failed, 130 interrupted."

app = typer.Typer(
    name="bayeslmm",
    help="One hierarchical model, three answers: REML, the mixed model equations, and the posterior by NUTS.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Method(StrEnum):
    """What `fit` computes: one point fit, or everything."""

    REML = "REML"
    ML = "ML"
    MAP = "MAP"
    ALL = "all"


POINT: dict[Method, PointMethod] = {Method.REML: "REML", Method.ML: "ML", Method.MAP: "MAP"}

File = Annotated[Path, typer.Argument(metavar="FILE", help="A model file (TOML), or the folder of a model.toml.")]
Data = Annotated[Path | None, typer.Option("--data", help="CSV or Parquet file to use in place of the file's own.")]
Variant = Annotated[str | None, typer.Option("--variant", help="One of the file's further models.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the report and the posterior; made if missing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON at full precision, and nothing else.")]
NoSample = Annotated[bool, typer.Option("--no-sample", help="Leave the posterior out.")]
Draws = Annotated[int | None, typer.Option("--draws", min=1, help="Kept draws of each chain.")]
Tune = Annotated[int | None, typer.Option("--tune", min=0, help="Warm-up draws of each chain.")]
Chains = Annotated[int | None, typer.Option("--chains", min=1, help="Number of chains.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Makes the draws reproducible.")]
Sections = Annotated[str | None, typer.Option("--sections", help="Of the report, with commas: model,answers,tests.")]
Simulations = Annotated[int | None, typer.Option("--nsim", min=0, help="Simulations behind the report's checks.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="The report as Markdown, its figures in a folder.")]


@dataclass
class Run:
    """One command: its model and settings, then what has been computed and which files were written."""

    model: Model
    title: str
    sampler: Mapping[str, Any]
    console: Console
    fits: dict[str, PointFit] = field(default_factory=dict)
    posterior: Posterior | None = None
    equations: dict[str, Any] = field(default_factory=dict)
    limiting: LimitingPrior | None = None
    comparison: Comparison | None = None
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The model in words and mathematics."""
        return "\n".join(part for part in (self.title, str(self.model)) if part)

    @property
    def results(self) -> list[PointFit | Posterior]:
        """Fits, then the posterior."""
        return [*self.fits.values(), *([self.posterior] if self.posterior else [])]

    @property
    def trusted(self) -> bool:
        """Whether every fit converged and the diagnostics of the draws are good."""
        drawn = self.posterior is None or self.posterior.diagnostics.ok
        return drawn and all(fit.converged for fit in self.fits.values())


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """The command, its errors as a sentence and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BayesLMMError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(USER_ERROR) from error
        except OSError as error:
            typer.echo(f"A file cannot be read or written: {error}", err=True)
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt:
            typer.echo("Interrupted; nothing more is written.", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run


@app.command(epilog=EXIT_CODES)
@_reported
def fit(
    file: File,
    data: Data = None,
    method: Annotated[
        Method, typer.Option("--method", case_sensitive=False, help="One point fit, or ML, REML and the posterior.")
    ] = Method.ALL,
    variant: Variant = None,
    out: Out = None,
    as_json: AsJson = False,
    draws: Draws = None,
    tune: Tune = None,
    chains: Chains = None,
    seed: Seed = None,
    no_sample: NoSample = False,
    sections: Sections = None,
    nsim: Simulations = None,
    markdown: Markdown = False,
) -> None:
    """Fit by ML and REML, check the limiting prior, sample the posterior, compare, and write a report."""
    settings = {"draws": draws, "tune": tune, "chains": chains, "seed": seed}
    if method in POINT and (no_sample or any(value is not None for value in settings.values())):
        raise typer.BadParameter(f"--method {method} samples nothing, so it takes no option of the sampler.")
    page, run = _page(out, sections, nsim, markdown), _run(file, data, variant, as_json, **settings)
    _print(run.console, run.heading)
    if method in POINT:
        _add_fits(run, POINT[method])
        _print(run.console, f"\n{run.fits[method]}")
    else:
        _add_fits(run, "ML", "REML")
        _add_equations(run)
        if not no_sample:
            _add_posterior(run)
        _add_comparison(run)
    _write(run, out, page)
    _finish(run, as_json)


@app.command(epilog=EXIT_CODES)
@_reported
def sample(
    file: File,
    data: Data = None,
    variant: Variant = None,
    out: Out = None,
    as_json: AsJson = False,
    draws: Draws = None,
    tune: Tune = None,
    chains: Chains = None,
    seed: Seed = None,
) -> None:
    """Sample the posterior by NUTS, the random effects integrated out; --out keeps the draws."""
    run = _run(file, data, variant, as_json, draws=draws, tune=tune, chains=chains, seed=seed)
    _print(run.console, run.heading)
    _add_posterior(run)
    _print(run.console, f"\n{run.posterior}")
    _write(run, out, None)
    _finish(run, as_json)


@app.command(name="compile")
def compile_kernels() -> None:
    """Compile the numerical kernels now, once for an installation, so that the first fit is as quick as any other."""
    from bayeslmm.warm import compile_kernels as compile_now

    compile_now()


@app.command(epilog=EXIT_CODES)
@_reported
def compare(
    file: File,
    data: Data = None,
    variant: Variant = None,
    as_json: AsJson = False,
    draws: Draws = None,
    tune: Tune = None,
    chains: Chains = None,
    seed: Seed = None,
    no_sample: NoSample = False,
) -> None:
    """Put ML, REML and the posterior side by side, and say where they differ and why."""
    run = _run(file, data, variant, as_json, draws=draws, tune=tune, chains=chains, seed=seed)
    _add_fits(run, "ML", "REML")
    if not no_sample:
        _add_posterior(run)
    _add_comparison(run)
    _finish(run, as_json)


@app.command(epilog=EXIT_CODES)
@_reported
def show(file: File, data: Data = None, variant: Variant = None, as_json: AsJson = False) -> None:
    """Print the model: its two stages, terms, sizes and priors. Nothing is fitted."""
    run = _run(file, data, variant, as_json)
    if as_json:
        from bayeslmm.record import model_record

        _print_json({"title": run.title, "model": model_record(run.model), "text": str(run.model)})
    _print(run.console, run.heading)


@app.command(epilog=EXIT_CODES)
@_reported
def models(
    folder: Annotated[Path | None, typer.Argument(help="Folder of model folders; ./models if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models of a folder: what each is about, the size of its data, its formula and its variants."""
    from bayeslmm.spec import data_size, read

    specs = {path.parent.name: read(path) for path in sorted(_models_folder(folder).glob("*/model.toml"))}
    sizes = {name: data_size(spec) for name, spec in specs.items()}
    if as_json:
        keys = ("title", "formula", "names", "source", "licence")
        shapes = {
            name: dict(zip(("rows", "columns"), size or (None, None), strict=True)) for name, size in sizes.items()
        }
        records = {name: {key: getattr(spec, key) for key in keys} for name, spec in specs.items()}
        _print_json([{"name": name, **record, **shapes[name]} for name, record in records.items()])
        return
    for name, spec in specs.items():
        size = sizes[name]
        data = f"{size[0]} rows × {size[1]} columns" if size else "data not shipped: give them with --data"
        variants = f"   variants: {', '.join(spec.variants)}" if spec.variants else ""
        typer.echo(f"{name:<{max(map(len, specs))}}  {spec.title} ({data})\n    {spec.formula}{variants}")


def _models_folder(given: Path | None) -> Path:
    """The given folder, ./models, or that of the checkout which the package runs from."""
    places = [given] if given else [Path("models"), Path(__file__).resolve().parents[1] / "models"]
    for place in places:
        if next(place.glob("*/model.toml"), None):
            return place
    raise SpecificationError(f"No folder in {places[0]} holds a model.toml; name the folder: bayeslmm models FOLDER.")


def _run(file: Path, data: Path | None, variant: str | None, as_json: bool, **sampler: int | None) -> Run:
    from rich.console import Console

    from bayeslmm.spec import load, read

    spec = read(file).variant(variant)
    given = {key: value for key, value in sampler.items() if value is not None}
    console = Console(quiet=as_json, soft_wrap=True)
    return Run(load(file, data=data, variant=variant), spec.title, {**spec.sampler, **given}, console)


def _print(console: Console, text: str) -> None:
    """Text as it stands: nothing in it is markup."""
    console.print(text, markup=False, highlight=False)


@contextmanager
def _timed(run: Run, what: str) -> Iterator[list[str]]:
    """One line for a finished step: its name, its time, and what is appended to the list."""
    started, said = time.perf_counter(), list[str]()
    with run.console.status(what):
        yield said
    _print(run.console, f"{what:<24} {time.perf_counter() - started:6.2f} s  {' '.join(said)}".rstrip())


def _add_fits(run: Run, *methods: PointMethod) -> None:
    from bayeslmm.fit import fit as fit_model

    _print(run.console, "")
    for method in methods:
        with _timed(run, method) as said:
            run.fits[method] = found = fit_model(run.model, method)
            said += [f"logLik {found.loglik:.4f}", "singular" if found.singular else ""]
            said += [] if found.converged else [f"NOT CONVERGED: {found.message}"]


def _add_equations(run: Run) -> None:
    """Henderson's equations at REML's variances, against REML; then the prior on β that goes flat."""
    from bayeslmm.equations import solve
    from bayeslmm.limiting import limiting_prior

    reml = run.fits["REML"]
    if not len(reml.beta) or run.model.family != "gaussian":  # with a formula for σ
        return
    with _timed(run, "mixed model equations") as said:
        found = solve(reml)
        ranef = {g: (found.ranef[g] - reml.ranef[g]).abs().to_numpy().max() for g in reml.ranef}
        run.equations = {"fixef": float(((found.fixef - reml.fixef) / reml.se).abs().max()), "ranef": ranef}
        said.append(f"β is REML's to within {run.equations['fixef']:.1g} standard errors")
    with _timed(run, "limiting prior"):
        run.limiting = limiting_prior(reml)


def _add_posterior(run: Run) -> None:
    from bayeslmm.sample import sample as sample_model

    run.posterior = sample_model(run.model, progress=not run.console.quiet, **run.sampler)


def _add_comparison(run: Run) -> None:
    """ML, REML and posterior side by side, the limiting prior, and the diagnostics in words."""
    from bayeslmm.compare import compare as compare_results

    with _timed(run, "comparison"):
        run.comparison = compare_results(*run.results)
    parts = [str(run.comparison), *([str(run.limiting)] if run.limiting else [])]
    parts += [str(run.posterior.diagnostics)] if run.posterior else []
    _print(run.console, "\n" + "\n\n".join(parts))


def _page(out: Path | None, sections: str | None, nsim: int | None, markdown: bool) -> dict[str, Any]:
    """What the report is to be, refused before anything is computed if it cannot be."""
    if out is None and (sections is not None or nsim is not None or markdown):
        raise typer.BadParameter("--sections, --nsim and --markdown are of the report, which is written with --out.")
    from bayeslmm.report import chosen

    keys = None if sections is None else chosen([key.strip() for key in sections.split(",")], limited=True)
    return {"path": "report.md" if markdown else "report.html", "sections": keys, "nsim": nsim}


def _write(run: Run, out: Path | None, page: dict[str, Any] | None) -> None:
    from bayeslmm.record import to_json

    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    _print(run.console, "")
    if page is not None:
        from bayeslmm.report import report

        about = {**page, "path": out / page["path"], "title": run.title or None}
        with _timed(run, "report"):
            run.files["report"] = report(*run.results, limiting=run.limiting, **about)
    if run.posterior:
        run.files["posterior"] = out / "posterior.nc"
        run.posterior.save(run.files["posterior"])
    run.files["results"] = out / "results.json"
    run.files["results"].write_text(to_json(_record(run)) + "\n", encoding="utf-8")
    for kind, path in run.files.items():
        _print(run.console, f"{kind:<10} {path}")


def _finish(run: Run, as_json: bool) -> None:
    if as_json:
        _print_json(_record(run))
    if not run.trusted:
        raise typer.Exit(NOT_CONVERGED)


def _print_json(record: Any) -> None:
    from bayeslmm.record import to_json

    typer.echo(to_json(record))


def _record(run: Run) -> dict[str, Any]:
    """Everything computed, by name."""
    from bayeslmm.record import fit_record, model_record, posterior_record, table_record

    record: dict[str, Any] = {"model": model_record(run.model), "ok": run.trusted}
    record["fits"] = {method: fit_record(found) for method, found in run.fits.items()}
    if run.equations:
        record["mixed_model_equations"] = run.equations
    if run.limiting:
        table, rate = table_record(run.limiting.table), run.limiting.rate.to_dict()
        record["limiting_prior"] = {"table": table, "rate": rate, "verdict": run.limiting.verdict}
    if run.posterior:
        record["posterior"] = posterior_record(run.posterior)
    if run.comparison:
        table, sentences = table_record(run.comparison.table), run.comparison.sentences
        record["comparison"] = {"table": table, "verdict": run.comparison.verdict, "sentences": sentences}
    return record | {"files": run.files}


def main() -> None:
    """Run the command line."""
    app()
