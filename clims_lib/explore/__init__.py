"""The four explorers, one call each: explorer(profile) in the last line of a notebook's cell.

Each `..._figure(profile)` is the picture that stands in for it where no widget can be shown.
"""

from clims_lib.explore.cams import cam_explorer, cam_figure
from clims_lib.explore.crf import crf_figure, crf_tuner
from clims_lib.explore.losses import loss_explorer, loss_figure
from clims_lib.explore.prompts import prompt_figure, prompt_lab

__all__ = [
    "cam_explorer",
    "cam_figure",
    "crf_figure",
    "crf_tuner",
    "loss_explorer",
    "loss_figure",
    "prompt_figure",
    "prompt_lab",
]
