"""How many chains run at a time where nobody said."""

import numpy as np
import pytest

from bayeslmm import nuts


@pytest.mark.parametrize(
    ("seconds", "most", "chosen"),
    [
        ((1e-4, 1.0, 4.0), 4, 1),  # threads that wait for each other
        ((1e-4, 1.0, 1.1), 4, 4),
        ((1e-4, 1.0, 3.5), 4, 4),
        ((1e-4, 1.0, 3.7), 4, 1),
        ((2 * nuts.NO_TRIAL,), 2, 2),  # a gradient that takes its time
        ((), 1, 1),
    ],
)
def test_threads_are_taken_where_they_pay(monkeypatch, seconds, most, chosen) -> None:
    """By the seconds that one gradient, a trial in one thread and a trial in all of them take."""
    clock = iter([time for passed in seconds for time in (0.0, passed)])
    monkeypatch.setattr(nuts.time, "perf_counter", lambda: next(clock))
    calls = []

    def density(x: np.ndarray) -> tuple[float, np.ndarray]:
        calls.append(x)
        return 0.0, x

    assert nuts.chains_at_a_time(lambda: density, np.zeros(3), most) == chosen
    assert len(calls) == {0: 0, 1: 1, 3: 1 + (1 + most) * nuts.TRIAL}[len(seconds)]
    assert list(clock) == []
