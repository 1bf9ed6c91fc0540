"""Cells show the library's source with colours."""

import nbformat.v4 as v4
import pytest
from nbconvert import HTMLExporter
from test_floors import watch

from clims_lib import losses
from clims_lib.explore.source import show_source


class Inner:
    def method(self):
        return "```"  # a fence of three must not end the block


def test_source_is_shown_as_it_is_written_from_the_margin():
    shown = show_source(losses.area_loss, Inner.method).data
    first, *lines, last = shown.splitlines()
    assert (first, last) == ("````python", "````")
    assert lines[0] == "def area_loss(cams: Tensor) -> Tensor:"
    start = lines.index("def method(self):")
    assert lines[start - 2 : start] == ["", ""] and lines[start + 1].startswith('    return "```"')
    assert start + 2 == len(lines)


def test_a_page_made_of_it_is_coloured():
    output = v4.new_output("execute_result", {"text/markdown": show_source(Inner.method).data})
    cell = v4.new_code_cell("", outputs=[output])
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(v4.new_notebook(cells=[cell]))
    assert '<span class="k">def</span>' in page and '<span class="nf">method</span>' in page


@pytest.mark.parametrize("wrong", [5, len])
def test_what_has_no_source_is_refused(wrong):
    with pytest.raises(TypeError):
        show_source(wrong)


def test_it_is_imported_without_jupyter(root, tmp_path):
    peers = ("IPython", "ipykernel", "ipywidgets", "anywidget", "jupyterlab", "matplotlib")
    assert watch(root, tmp_path, ["clims_lib.explore.source"], peers) == []
