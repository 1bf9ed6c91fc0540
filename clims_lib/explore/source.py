"""The library's own source in a cell, with colours."""

from __future__ import annotations

import inspect
from textwrap import dedent
from typing import Any


def show_source(*objects: Any) -> object:
    """The source of functions, classes or modules, highlighted, to be shown by a cell.

    It is Markdown, which JupyterLab, nbconvert and the book all colour; IPython's own `Code` brings
    styles for the classic notebook alone and stays black in JupyterLab. Raises TypeError for what
    has no Python source, a number or a builtin.
    """
    from IPython.display import Markdown  # only notebooks show anything

    text = "\n\n\n".join(dedent(inspect.getsource(each)).rstrip() for each in objects)
    return Markdown(f"````python\n{text}\n````")
