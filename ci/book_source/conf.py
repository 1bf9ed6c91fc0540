"""Sphinx's settings for `ci/book`: the notebooks as they were executed, and nothing from afar."""

import hashlib
import re
from binascii import a2b_base64
from pathlib import Path
from textwrap import indent

import nbformat
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "CLIMS, a tutorial in notebooks"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["README.md", "notebooks/exercises"]  # index.md includes the README
smartquotes = False  # it would take the -- of options for a dash

nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_ipywidgets_js = {}  # its scripts come from another host, and sliders need a kernel anyway
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
add_module_names = False
maximum_signature_line_length = 80
default_role = "py:obj"  # `name` in a docstring leads to that name where there is one

html_theme = "furo"
html_title = "CLIMS tutorial"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"
templates_path = ["_templates"]


def redirect(app, page: str, source: list[str]) -> None:
    """Let links lead to the README's page, and to exercises as files to download."""
    for old, new in {"(../README.md": "(../index.md", "(exercises/": "(path:exercises/"}.items():
        source[0] = source[0].replace(old, new)


def visit_formula(translator, node: nodes.math | nodes.math_block) -> None:
    """Write MathML: browsers show it, and screen readers read it out, without any script."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def as_plain_text(app, what, name, thing, options, lines: list[str]) -> None:
    """In the library's docstrings `names` are marked up, and what is indented or in columns stays
    as it is; all other signs mean themselves."""
    parts = re.split(r"\n\n+", "\n".join(lines))
    for i, part in enumerate(parts):
        words = re.split(r"(`[^`]*`)", part)
        words[::2] = [re.sub(r"[*_|]", r"\\\g<0>", word) for word in words[::2]]
        kept = re.search(r"^ |\S {2,}\S", part)
        parts[i] = "::\n\n" + indent(part, "    ") if kept else "".join(words)
    lines[:] = "\n\n".join(parts).split("\n")


def describe_figures(app, doctree: nodes.document) -> None:
    """Give a notebook's figures the words that stand beside them in its outputs."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    words = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                name = hashlib.sha256(a2b_base64(output.data["image/png"])).hexdigest()
                words[name] = output.metadata.get("image/png", {}).get("alt")
    for image in doctree.findall(nodes.image):  # myst-nb names a figure's file by its hash
        section = image
        while not isinstance(section, nodes.section):
            section = section.parent
        without = f"Figure of the section: {section.next_node(nodes.title).astext()}"
        image["alt"] = words.get(Path(image["uri"]).stem) or image.get("alt") or without


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (visit_formula, None), (visit_formula, None))
    app.connect("source-read", redirect)
    app.connect("autodoc-process-docstring", as_plain_text)
    app.connect("doctree-read", describe_figures)
