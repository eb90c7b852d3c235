"""How the numerical kernels are compiled."""

from __future__ import annotations

from typing import Any

from numba import njit


def kernel(function: Any) -> Any:
    """Compile for speed, cached on disk, without the interpreter's lock."""
    return njit(cache=True, nogil=True, error_model="numpy")(function)
