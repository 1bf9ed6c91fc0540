"""The frame that the explorers share: labelled controls, pictures side by side, numbers.

An explorer is one function from its controls' values to a View; a Panel calls it at every change.
Pictures are PNGs of arrays, not figures: fast enough to follow a slider.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
from PIL import Image

from clims_lib.explore.cases import Cases
from clims_lib.explore.html import heading, message

WIDTH = 320  # pixels that small pictures are enlarged to
LOOKS = {"border": "1px solid #8886", "padding": "0.75rem", "width": "100%", "grid_gap": "0.5rem"}


@dataclass(frozen=True)
class View:
    """What an explorer shows: pictures uint8 (H, W, 3) by their captions, and numbers as HTML."""

    pictures: dict[str, np.ndarray]
    numbers: str


def png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 (H, W, 3); a small picture is enlarged by a whole factor, pixels as squares.

    Raises ValueError for other arrays.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
    picture, out = Image.fromarray(pixels), io.BytesIO()
    factor = max(1, WIDTH // picture.width)
    size = factor * picture.width, factor * picture.height
    picture.resize(size, Image.Resampling.NEAREST).save(out, "PNG", compress_level=1)
    return out.getvalue()


class _Keys(anywidget.AnyWidget):
    """Leaves the keyboard to the control that has the focus.

    JupyterLab takes a menu's keys for commands on cells: without this, an arrow chooses another
    cell instead of another class, and X cuts the cell.
    """

    _esm = """
    document.addEventListener("focusin", ({target}) => {
        if (target.closest(".clims-explorer")) target.dataset.lmSuppressShortcuts = "true";
    });
    export default {render() {}};
    """


class Panel(widgets.VBox):
    """Controls, pictures and numbers that follow look(**the controls' values) -> View.

    A ValueError of `look` is shown as a sentence, and the pictures stay as they were. Its views
    always have the same number of pictures. title: what stands where no widget can be shown.
    """

    def __init__(
        self,
        title: str,
        controls: Mapping[str, widgets.Widget],
        look: Callable[..., View],
        buttons: Sequence[widgets.Button] = (),
    ):
        self.controls, self._look = dict(controls), look
        self._drawn: dict[str, Any] | None = None
        self.images: list[widgets.Image] = []
        self.captions: list[widgets.HTML] = []
        self.numbers = widgets.HTML()
        columns = "repeat(auto-fit, minmax(19rem, 1fr))"
        for control in self.controls.values():
            control.layout.width, control.style.description_width = "auto", "8.5rem"
            control.observe(self.redraw, "value")
        grid = widgets.GridBox(
            [*self.controls.values(), *buttons],
            layout=widgets.Layout(grid_template_columns=columns, grid_gap="0.25rem 1.5rem"),
        )
        self._row = widgets.GridBox(layout=widgets.Layout(grid_gap="0.75rem"))
        self._title = title
        super().__init__([_Keys(), grid, self._row, self.numbers], layout=widgets.Layout(**LOOKS))
        self.add_class("clims-explorer")
        self.redraw()

    def redraw(self, _change: object = None) -> None:
        """Show what the controls ask for, unless it is what is shown already."""
        values = {name: control.value for name, control in self.controls.items()}
        if values == self._drawn:  # a class brought a picture with it: one change, two calls
            return
        self._drawn = values
        try:
            view = self._look(**values)
        except ValueError as error:
            self.numbers.value = message(str(error))
            return
        if not self.images:
            self._add_pictures(len(view.pictures))
        for image, text, (title, pixels) in zip(
            self.images, self.captions, view.pictures.items(), strict=True
        ):
            image.value, text.value = png(pixels), heading(title)
        self.numbers.value = view.numbers

    def _add_pictures(self, count: int) -> None:
        self.images = [widgets.Image(format="png", layout={"width": "100%"}) for _ in range(count)]
        self.captions = [widgets.HTML() for _ in range(count)]
        self._row.children = [
            widgets.VBox(pair) for pair in zip(self.captions, self.images, strict=True)
        ]
        self._row.layout.grid_template_columns = f"repeat({count}, minmax(0, {WIDTH}px))"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        # Readers of a stored notebook, on GitHub for instance, are shown this line.
        bundle["text/plain"] = (
            f"{self._title}: run this cell in JupyterLab to move its controls; "
            "the figure above is what it shows."
        )
        return bundle


def slider(
    title: str, value: float, low: float, high: float, step: float, tip: str, form: str = ".2f"
) -> widgets.FloatSlider:
    """A slider that redraws while it moves; arrow keys move it by `step`."""
    return widgets.FloatSlider(
        value,
        min=low,
        max=high,
        step=step,
        description=title,
        tooltip=tip,
        readout_format=form,
        continuous_update=True,
    )


def pickers(cases: Cases) -> dict[str, widgets.Dropdown]:
    """Two menus: a class of the data set, and a picture that holds it."""
    klass = widgets.Dropdown(
        options=cases.classes,
        value=cases.first,
        description="class",
        tooltip="whose map, mask and numbers are shown",
    )
    picture = widgets.Dropdown(
        options=cases.pictures(cases.first),
        description="picture",
        tooltip="pictures that hold nothing else come first",
    )

    def follow(change: dict) -> None:
        picture.options = cases.pictures(change["new"])

    klass.observe(follow, "value")
    return {"klass": klass, "picture": picture}
