"""What a figure shows, in words, for readers who cannot see it.

The words are those written in the figure. Jupyter keeps them beside the picture as
`metadata["image/png"]["alt"]`, where nbconvert and `ci/book` look.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.text import Text


def attach(figure: Figure) -> None:
    """Let a figure hand its words to Jupyter; a hook that pyplot calls with every new figure."""
    # IPython adds the picture itself to what this returns.
    figure._repr_mimebundle_ = lambda **_: ({}, {"image/png": {"alt": describe(figure)}})


def describe(figure: Figure) -> str:
    """Return the figure's `alt` where somebody wrote one (`report.save_figure` does), else what
    its titles, axes and legends say, and how many pictures it has; "" if nothing."""
    if getattr(figure, "alt", ""):
        return figure.alt
    figure.draw_without_rendering()  # names at ticks are not there before
    pictures = sum(len(axis.images) for axis in figure.axes)
    parts = [f"{pictures} pictures"] if pictures > 1 else []  # one may be a table
    parts += [" ".join(text.get_text().split()) for text in figure.findobj(Text)]
    # numbers at ticks say nothing without the lines beside them
    return "; ".join(dict.fromkeys(p for p in parts if any(map(str.isalpha, p)) and p[0] != "$"))
