"""What a figure shows, in words, for those who cannot see it."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text


def set_up() -> None:
    """Let every figure of pyplot from now on, also one not made here, tell what it shows.

    The words are those written in the figure. Jupyter keeps them beside the picture as
    `metadata["image/png"]["alt"]`, where nbconvert, `ci/book` and screen readers look.
    """
    plt.rcParams["figure.hooks"] = [f"{__name__}:{attach_words.__name__}"]


def attach_words(figure: Figure) -> None:
    """Let a figure hand its words to Jupyter; a hook that pyplot calls with every new figure."""
    # IPython adds the picture itself to what this returns.

    def words(**_: object) -> tuple[dict, dict]:
        return {}, {"image/png": {"alt": describe(figure)}}

    figure._repr_mimebundle_ = words  # type: ignore[attr-defined]


def describe(figure: Figure) -> str:
    """Return the figure's `alt` where somebody wrote one (`report.save_figure` does), else what
    its titles, axes and legends say, and how many pictures it has; "" if nothing."""
    if alt := getattr(figure, "alt", ""):
        return alt
    figure.draw_without_rendering()  # names at ticks are not there before
    pictures = sum(len(axis.images) for axis in figure.axes)
    parts = [f"{pictures} pictures"] if pictures > 1 else []  # one may be a table
    parts += [" ".join(text.get_text().split()) for text in figure.findobj(Text)]
    # numbers at ticks say nothing without the lines beside them
    return "; ".join(dict.fromkeys(p for p in parts if any(map(str.isalpha, p)) and p[0] != "$"))
