"""One thread per process, no display, seeded generators: the same run everywhere."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYTENSOR_FLAGS", "traceback__limit=0")  # or every node copies lines of pytest's deep stack

import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings


def refresh_compiled_kernels() -> None:
    """Give all kernel files one time stamp: numba's disk cache looks at a function's own file, not at what it calls."""
    files = sorted((Path(__file__).parent.parent / "bayeslmm").glob("[eg]*/*.py"))
    newest = max(file.stat().st_mtime_ns for file in files)
    for file in files:
        if file.stat().st_mtime_ns != newest:
            os.utime(file, ns=(newest, newest))


refresh_compiled_kernels()

settings.register_profile(
    "bayeslmm",
    deadline=None,  # the first example compiles kernels
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bayeslmm")


@cache
def lme4_is_installed() -> bool:
    """Whether Rscript runs here and finds lme4."""
    if shutil.which("Rscript") is None:
        return False
    probe = ["Rscript", "-e", "quit(status = !requireNamespace('lme4', quietly = TRUE))"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first, so that no worker is left alone with a long one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("r") and not lme4_is_installed():
        pytest.skip("Rscript with lme4 is not installed")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts the same in every test."""
    return np.random.default_rng(20261120)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return Path(__file__).resolve().parents[1]
