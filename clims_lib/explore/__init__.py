"""The four explorers, one call each: explorer(profile) in the last line of a notebook's cell.

Each `..._figure(profile)` is the picture that stands in for it where no widget can be shown.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "cam_explorer": "cams",
    "cam_figure": "cams",
    "crf_figure": "crf",
    "crf_tuner": "crf",
    "loss_explorer": "losses",
    "loss_figure": "losses",
    "prompt_figure": "prompts",
    "prompt_lab": "prompts",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """An explorer, imported on its first use: `source` beside them needs no widgets."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
