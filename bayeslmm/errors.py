"""What can go wrong, and the sentence that says what to do."""

from __future__ import annotations


class BayesLMMError(Exception):
    """Any error that this package raises on purpose; its text says what is wrong, where, and what to do."""


class FormulaError(BayesLMMError, ValueError):
    """A formula that cannot be read. The message shows the formula with a caret under the character.

    Parameters
    ----------
    message : str
        What is wrong and what to write instead.
    text : str
        The formula; empty when the whole of it is missing.
    position : int or None
        Index of the offending character in `text`.
    """

    def __init__(self, message: str, text: str = "", position: int | None = None) -> None:
        self.text, self.position = text, position
        shown = f"\n  {text}" if text else ""
        caret = f"\n  {' ' * position}^" if text and position is not None else ""
        super().__init__(message + shown + caret)


class DataError(BayesLMMError, ValueError):
    """A table that does not fit the model: names the column, the level or the row."""


class UnseenLevelError(DataError):
    """New rows hold a level that the fitted data did not."""


class PriorError(BayesLMMError, ValueError):
    """A prior that is not known, not valid, or given to nothing."""


class SpecificationError(BayesLMMError, ValueError):
    """A model file or a two-stage specification that cannot be read."""


class MethodError(BayesLMMError, ValueError):
    """An argument value, or a combination of arguments, that has no meaning for this model."""


class ImproperPosteriorError(BayesLMMError, ValueError):
    """Flat priors leave the posterior without a finite integral; names the group."""


class ExactFitError(BayesLMMError, ArithmeticError):
    """The model reproduces the response exactly: the residual variance is zero and no density exists."""


class NotSupportedError(BayesLMMError, NotImplementedError):
    """A model that the grammar can say and this package cannot fit; it is never weakened silently."""


class MissingPackageError(BayesLMMError, ImportError):
    """An optional package is needed for this call; the message says how to install it."""
