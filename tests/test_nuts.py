"""How many chains run at a time where nobody said."""

import time

import numpy as np
import pytest

from bayeslmm.nuts import NO_TRIAL, chains_at_a_time


def waiting(seconds: float):
    """A density that leaves Python's lock to others while it takes its time."""

    def density(x: np.ndarray) -> tuple[float, np.ndarray]:
        time.sleep(seconds)
        return 0.0, x

    return density


def counting(x: np.ndarray) -> tuple[float, np.ndarray]:
    """A density that holds the lock all the time."""
    return float(sum(range(2000))), x


@pytest.mark.parametrize(
    ("density", "most", "chosen"),
    [
        (counting, 4, 1),
        (waiting(NO_TRIAL / 4), 4, 4),
        (waiting(2 * NO_TRIAL), 2, 2),
        (counting, 1, 1),
    ],
)
def test_threads_are_taken_where_they_pay(density, most, chosen) -> None:
    assert chains_at_a_time(lambda: density, np.zeros(3), most) == chosen
