"""How many threads BLAS may use: one where its matrices are small, or where chains already fill the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

# Rows of a dense remainder from which a second thread pays; below, waking it costs more than the work (a fit of 1 ms
# took 100 ms on a busy machine of two cores).
THREADS_FROM = 512


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Within, BLAS uses one thread if `when`, and what it used before otherwise."""
    if not when:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
