"""Drawings of the method, one function each: for notebooks, lectures and the README.

`schematics.clims()` returns a matplotlib Figure as wide as a notebook, with its words for those who
cannot see it in `figure.alt`. No data, trained network or GPU is needed. boxes.py has the style,
examples.py the pictures in the panels.
"""

from clims_lib.schematics.maps import cam, clims, puzzle
from clims_lib.schematics.masks import cct, mean_field, walk
from clims_lib.schematics.overview import first_screen, papermill, pipeline

__all__ = [
    "cam",
    "cct",
    "clims",
    "first_screen",
    "mean_field",
    "papermill",
    "pipeline",
    "puzzle",
    "walk",
]
