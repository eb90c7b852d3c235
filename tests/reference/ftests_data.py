"""The table on which the F tests are compared with lmerTest: unbalanced, without random numbers.

`python ftests_data.py table.csv && Rscript make_ftests.R table.csv ftests.json` renews the numbers.
"""

import sys
from math import sin

import pandas as pd

CLASSES = "abc", "pqr", "uv"


def unbalanced() -> pd.DataFrame:
    """96 rows: three factors in uneven cells, a covariate, two crossed grouping factors, weights."""
    rows = []
    for i in range(96):
        a, b, c = (int(abs(sin(i * step)) * size) for step, size in ((1.7, 3), (2.9, 3), (0.83, 2)))
        g, h = i % 8, (i * 5 + i // 7) % 6
        x = round(2.0 * sin(0.37 * i) + 0.02 * i, 3)
        between, crossed, noise = sin(7.0 * g + 1.0), sin(3.0 * h + 0.5), 1.5 * sin(12.9898 * i * i)
        y = 5 + a - 0.8 * b * (a == 2) + 0.6 * c + 0.5 * x * (1 + (a == 1)) + 1.5 * between + crossed + noise
        names = [letters[k] for letters, k in zip(CLASSES, (a, b, c), strict=True)]
        rows.append([*names, f"g{g}", f"h{h}", x, 1 + i % 4, round(y, 4)])
    return pd.DataFrame(rows, columns=["a", "b", "c", "g", "h", "x", "w", "y"])


if __name__ == "__main__":
    unbalanced().to_csv(sys.argv[1], index=False)
