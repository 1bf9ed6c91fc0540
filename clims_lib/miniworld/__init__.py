"""MiniWorld: drawn scenes with exact masks, in which every train stands on a railroad.

Pictures come from world.py, their data set from dataset.py; scene.py puts a picture together from
grounds and objects, which drawing.py's pen draws.
"""

from clims_lib.miniworld.dataset import write_dataset
from clims_lib.miniworld.scene import (
    CLASSES,
    GROUNDS,
    HOME,
    NOUNS,
    STANDING,
    Scene,
    Thing,
    draw_scene,
)
from clims_lib.miniworld.world import Corpus, make_corpus, target_scene, web_scene

__all__ = [
    "CLASSES",
    "GROUNDS",
    "HOME",
    "NOUNS",
    "STANDING",
    "Corpus",
    "Scene",
    "Thing",
    "draw_scene",
    "make_corpus",
    "target_scene",
    "web_scene",
    "write_dataset",
]
