"""Any result → a figure that reads on a light and on a dark page."""

from bayeslmm.plot.results import caterpillar, density, forest, groups, limiting, residuals

__all__ = ["caterpillar", "density", "forest", "groups", "limiting", "residuals"]
