"""Speed against other packages: every task by every program, side by side in one run, in one table.

Each program works in a process of its own with a time limit; the programs of a task take turns, round after round, so that
a busy minute of the machine falls on all of them. Ratios are the result; seconds belong to the machine.

    python tests/speed/bench.py [--only NAME ...] [--repeats N] [--limit SECONDS] [--threads N] [--out FILE] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tasks import FROM_R, TASKS, Task, installed, write_tables

HERE = Path(__file__).parent
HEADER = ("task", "program", "first call", "warm", "CPU", "÷ bayeslmm", "same answer?", "note")


@dataclass
class Timing:
    """What one program did for one task, over the rounds."""

    task: str
    program: str
    first: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # processor seconds of the process, warm calls
    rates: list[float] = field(default_factory=list)  # effective draws a second, warm calls
    found: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""

    @property
    def seconds(self) -> float | None:
        """Median of the warm calls; of the first ones for what happens once a process."""
        return median(self.warm or self.first) if self.first else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", action="append", choices=[task.name for task in TASKS], help="a task; may be repeated"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds, each a fresh process per program")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that one process may take")
    parser.add_argument("--threads", type=int, default=1, help="threads of BLAS and OpenMP, for every program alike")
    parser.add_argument("--out", type=Path, help="write every number as JSON")
    parser.add_argument("--quick", action="store_true", help="one round, and no process longer than 30 s")
    given = parser.parse_args()
    if given.quick:
        given.repeats, given.limit = 1, min(given.limit, 30.0)
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(given.threads)
    return given


def main() -> int:
    given = arguments()
    tasks = [task for task in TASKS if not given.only or task.name in given.only]
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), {task.table for task in tasks})
        warm_up(tasks, folder, given.limit)
        timings = {task.name: time_task(task, folder, given) for task in tasks}
    rows = [row for task in tasks for row in rows_of(task, timings[task.name])]
    print(table(rows))
    conditions = f"rounds {given.repeats}, threads {given.threads}, limit {given.limit:g} s"
    print(f"\n{machine()}; {', '.join(versions(timings))}; {conditions}.")
    if given.out:
        every = [asdict(timing) for timings_ in timings.values() for timing in timings_]
        given.out.write_text(json.dumps({"machine": machine(), "timings": every}, indent=1), encoding="utf-8")
    return 0


def warm_up(tasks: list[Task], folder: str, limit: float) -> None:
    """Compile what is not in numba's disk cache, and fill the system's file cache, before anything is timed."""
    for task in tasks:
        if task.kind not in ("compile", "build"):
            run(task, "bayeslmm", folder, 10 * limit)


def time_task(task: Task, folder: str, given: argparse.Namespace) -> list[Timing]:
    timings = [Timing(task.name, program) for program in task.programs]
    for timing in timings:
        if not installed(timing.program):
            timing.trouble = "not installed"
    for _ in range(1 if task.once else given.repeats):
        for timing in timings:
            if not timing.trouble:
                print(f"{task.name}: {timing.program}", file=sys.stderr)
                add(timing, run(task, timing.program, folder, given.limit))
    return timings


def add(timing: Timing, answer: dict[str, Any]) -> None:
    if "trouble" in answer:
        timing.trouble = answer["trouble"]
        return
    first, *warm = answer.pop("seconds")
    timing.first.append(first)
    timing.warm.extend(warm)
    timing.cpu.extend(answer.pop("cpu", [])[1:])
    effective = answer.pop("effective", [])
    timing.rates.extend(draws / taken for draws, taken in zip(effective[1:], warm, strict=bool(effective)))
    timing.found = answer


def run(task: Task, program: str, folder: str, limit: float) -> dict[str, Any]:
    """The worker's answer, or what kept it from one."""
    with tempfile.TemporaryDirectory() as empty:
        variables = {**os.environ, "NUMBA_CACHE_DIR": empty} if task.kind == "compile" else dict(os.environ)
        try:
            done = subprocess.run(
                command(task, program, folder, limit),
                capture_output=True,
                text=True,
                timeout=limit if task.kind != "compile" else 10 * limit,
                env=variables,
                cwd=HERE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"trouble": f"not done in {limit:g} s"}
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode:
        return {"trouble": f"failed: {lines[-1] if lines else done.returncode}"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def command(task: Task, program: str, folder: str, limit: float) -> list[str]:
    if program not in FROM_R:
        return [sys.executable, "programs.py", task.name, program, folder, str(limit)]
    state = "fresh" if task.kind == "fresh" else "warm"
    asked = [task.formula, task.method, str(limit), state, program, task.family]
    return ["Rscript", "lme4.R", f"{folder}/{task.table}.csv", *asked]


def rows_of(task: Task, timings: list[Timing]) -> Iterator[tuple[str, ...]]:
    ours = timings[0]
    for timing in timings:
        if timing.trouble:
            yield task.title, timing.program, "", "", "", "", "", timing.trouble
            continue
        yield (
            task.title,
            timing.program,
            duration(median(timing.first)),
            duration(median(timing.warm)) if timing.warm else "",
            duration(median(timing.cpu)) if timing.cpu else "",
            ratio(timing.seconds, ours.seconds),
            agreement(timing, ours) if timing is not ours else "",
            note(task, timing, timings),
        )


def ratio(seconds: float | None, ours: float | None) -> str:
    return f"{seconds / ours:.2f}" if seconds and ours else ""


def duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def agreement(timing: Timing, ours: Timing) -> str:
    """Log-likelihood less ours, or the largest gap between posterior means in posterior sds."""
    if "loglik" in timing.found and "loglik" in ours.found:
        return f"{timing.found['loglik'] - ours.found['loglik']:+.1e}"
    if "mean" in timing.found and "mean" in ours.found:
        pairs = zip(timing.found["mean"], ours.found["mean"], ours.found["sd"], strict=True)
        return f"means within {max(abs(a - b) / sd for a, b, sd in pairs):.2f} sd"
    return ""


def note(task: Task, timing: Timing, timings: list[Timing]) -> str:
    parts = []
    seconds = timing.seconds or float("nan")
    if timing.rates:
        rate = median(timing.rates)
        parts.append(f"{rate:,.0f} effective draws/s")
        if task.per_second:
            parts.append(f"target {task.per_second:,.0f}/s {verdict(rate >= task.per_second)}")
    if "mib" in timing.found:
        parts.append(f"memory +{timing.found['mib']:.0f} MiB")
    if timing.program != "bayeslmm":
        return ", ".join(parts)
    if task.seconds:
        parts.append(f"target {duration(task.seconds)} {verdict(seconds <= task.seconds)}")
    for program, share in (("lme4", task.of_lme4), ("glmmTMB", task.of_tmb)):
        theirs = next((t.seconds for t in timings if t.program == program), None)
        if share and theirs:
            parts.append(f"target {share:.2g} × {program} {verdict(seconds <= share * theirs)}")
    return ", ".join(parts)


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in range(len(HEADER))]
    lines = [HEADER, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> str:
    return f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"


def versions(timings: dict[str, list[Timing]]) -> list[str]:
    found = {t.program: t.found["version"] for timings_ in timings.values() for t in timings_ if "version" in t.found}
    return [f"{program} {number}" for program, number in found.items() if program != "gpboost Cholesky"]


if __name__ == "__main__":
    sys.exit(main())
