"""How the numerical kernels are compiled, and what is said while they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba import njit


def kernel(function: Any) -> Any:
    """Compile for speed, cached on disk, without the interpreter's lock."""
    return njit(cache=True, nogil=True, error_model="numpy")(function)


@contextmanager
def compilation_notice(function: Any) -> Iterator[None]:
    """Within, a line on the terminal while a kernel is compiled for the first time on this machine.

    Parameters
    ----------
    function : compiled function
        The kernel that is about to be called.
    """
    stored = Path(function.stats.cache_path)
    if function.signatures or any(stored.glob(f"*.{function.__name__}-*.nbi")):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("Compiling the numerical kernels, once for this installation …"):
        yield
