"""Pictures for people: arrays in, a matplotlib Figure out; no function here computes a result.

colours.py says what has which colour, pictures.py turns arrays into pictures, panels.py lays these
out, charts.py plots numbers, words.py says what a figure shows to those who cannot see it.
"""

import matplotlib.pyplot as plt

from clims_lib.plots.charts import bars, curves, heat_table, oracle_chart, points, ranked, spreads
from clims_lib.plots.colours import COLOURS, METHOD_COLOURS, NEUTRAL, colours_of, shown_palette
from clims_lib.plots.panels import gallery, grid, legend_of
from clims_lib.plots.pictures import coloured, heatmap, map_over, outline, overlay, picture, signed
from clims_lib.plots.words import attach_words, describe, set_up

__all__ = [
    "COLOURS",
    "METHOD_COLOURS",
    "NEUTRAL",
    "attach_words",
    "bars",
    "coloured",
    "colours_of",
    "curves",
    "describe",
    "gallery",
    "grid",
    "heat_table",
    "heatmap",
    "legend_of",
    "map_over",
    "oracle_chart",
    "outline",
    "overlay",
    "picture",
    "plt",
    "points",
    "ranked",
    "set_up",
    "shown_palette",
    "signed",
    "spreads",
]
