"""A figure that a notebook shows as a picture, whatever backend pyplot has."""

from io import BytesIO

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A matplotlib figure that pyplot does not hold, displayed where it is the last value of a cell.

    A notebook learns to draw plain figures only when pyplot makes its first one, which this package never lets it do.
    """

    def _repr_png_(self) -> bytes:
        """The picture as PNG."""
        picture = BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
