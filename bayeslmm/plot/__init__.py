"""Any result → a figure that reads on a light and on a dark page."""

from bayeslmm.plot.draws import density, prior_posterior, spaghetti
from bayeslmm.plot.effects import effects_qq, pairs, shrinkage
from bayeslmm.plot.kinds import captions, draw
from bayeslmm.plot.means import contrasts, profiles
from bayeslmm.plot.results import caterpillar, forest, groups, limiting, residuals

__all__ = [
    "captions",
    "caterpillar",
    "contrasts",
    "density",
    "draw",
    "effects_qq",
    "forest",
    "groups",
    "limiting",
    "pairs",
    "prior_posterior",
    "profiles",
    "residuals",
    "shrinkage",
    "spaghetti",
]
