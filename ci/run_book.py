"""Builds a static site of the executed notebooks: `clims book`.

The pages: the README in front, notebooks, committed results, benchmarks, the library's docstrings.
Sphinx makes them as ci/book_source says; this script only lays out what it reads.
"""

import os
import shutil
import tempfile
from pathlib import Path

import nbformat

from clims_lib.artifacts import read_json
from clims_lib.config import PROFILES, ROOT, Profile, load_profile
from clims_lib.results.report import origin, tables

try:
    from sphinx.cmd.build import main as sphinx
except ImportError as error:
    raise RuntimeError("Sphinx is missing; python -m pip install -e '.[book]' brings it") from error

FOUNDATIONS = ("config", "settings", "settings_masks", "artifacts", "stage", "sources", "devices")
FOUNDATIONS += ("typed_toml", "labels")
# (title, words, folder, modules that a reader begins with), in the order to read them.
ROOMS = (
    (
        "Pieces",
        "The method: tensors and plain arguments in, tensors out.",
        ".",
        ("losses", "objectives", "prompts", "oracle", "clip_model", "finetune", "cam"),
    ),
    (
        "Stages",
        "Settings, disk and pieces together. The registry of all methods comes first.",
        "stages",
        ("methods", "clip", "networks", "maps", "walk", "cams", "masks", "measures"),
    ),
    ("Data", "VOC's layout, downloads, splits.", "data", ("voc", "splits")),
    (
        "MiniWorld",
        "The drawn data set.",
        "miniworld",
        ("world", "dataset", "scene", "captions", "drawing"),
    ),
    ("Explorers", "Sliders in a notebook's cell.", "explore", ("cams",)),
    (
        "Figures",
        "Arrays in, matplotlib figures out; the colours of methods and classes.",
        "plots",
        ("charts", "panels", "pictures"),
    ),
    (
        "Drawings",
        "The method as boxes and arrows; one style, pictures of the MiniWorld in the panels.",
        "schematics",
        ("overview", "maps", "masks"),
    ),
    ("Results", "Tables, claims and the report.", "results", ("tables", "claims")),
    ("Commands", "What `clims` can be asked for.", "commands", ("course", "library")),
    ("Foundations", "What the rest stands on: profiles, keys, folders, devices.", ".", FOUNDATIONS),
)
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(profile: str, out: Path) -> None:
    """Build the site of a profile's executed notebooks; others are shown as they are committed."""
    build(load_profile(profile), out.resolve())
    print(
        f"{out / 'index.html'}: open it in a browser, or serve it to others with\n"
        f"python -m http.server -d {out}"
    )


def build(profile: Profile, out: Path) -> None:
    """Replace the folder `out` with the site, once the whole of it is there.

    Raises ValueError where `out` holds something else, or when Sphinx cannot build it.
    """
    if out.exists() and not (out / "searchindex.js").is_file():
        raise ValueError(
            f"{out} is not a site of ci/book; delete it yourself or choose another "
            "folder with --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".book-", dir=out.parent) as temporary:
        pages, site = Path(temporary, "pages"), Path(temporary, "site")
        lay_out(profile, pages)
        print("Building the pages (half a minute) ...", flush=True)
        if sphinx(["-b", "html", "-q", "-d", f"{temporary}/trees", str(pages), str(site)]):
            raise ValueError("Sphinx stopped; its message above says at which page")
        if out.exists():
            shutil.rmtree(out)
        os.replace(site, out)


def lay_out(profile: Profile, pages: Path) -> None:
    """Put what the site is made from into one folder; links between the files stay as they are."""
    shutil.copytree(ROOT / "ci" / "book_source", pages)
    for page in ("README.md", "ci/benchmarks/README.md"):
        (pages / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, pages / page)
    benchmarks = Path("ci/benchmarks/results")  # the plots of that README
    shutil.copytree(ROOT / benchmarks, pages / benchmarks)
    (pages / "results.md").write_text(results_page(), encoding="utf-8")
    with (pages / "library.rst").open("a") as page:
        page.write(library())
    shutil.copytree(ROOT / "notebooks", pages / "notebooks")
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = profile.outputs / source.name
        if not executed.is_file():
            print(f"{source.name}: not executed with {profile.name}, shown as it is committed")
            executed = source
        notebook = without_widgets(nbformat.read(executed, as_version=4))
        nbformat.write(notebook, pages / "notebooks" / source.name)


def library() -> str:
    """The library's modules as reStructuredText: room by room, in the order of ROOMS."""
    parts = []
    for title, words, folder, first in ROOMS:
        stems = {path.stem for path in (ROOT / "clims_lib" / folder).glob("[a-z]*.py")}
        if folder == ".":
            below = stems & set(FOUNDATIONS)
            stems = below if title == "Foundations" else stems - below
        modules = [*first, *sorted(stems - set(first))]
        prefix = "clims_lib" if folder == "." else f"clims_lib.{folder}"
        lines = "\n".join(f"   ~{prefix}.{stem}" for stem in modules)
        table = f".. autosummary::\n   :toctree: api\n\n{lines}"
        parts.append(f"{title}\n{'-' * len(title)}\n\n{words}\n\n{table}\n")
    return "\n".join(parts)


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out what lives only in a running notebook: bars and sliders."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    notebook.metadata.pop("widgets", None)
    return notebook


def results_page() -> str:
    """The committed results as Markdown: every number is computed here from data/results."""
    parts = [
        "# Results",
        "What `ci/results` and `ci/sample` measured, as committed in "
        "`data/results`: per cent, mean ± standard deviation over training seeds where there "
        "are several.",
    ]
    for file in sorted((ROOT / "data" / "results").glob("*.json")):
        if (PROFILES / f"{file.stem}.toml").is_file():
            profile, results = load_profile(file.stem), read_json(file)
            parts += [f"## {profile.name}", f"{profile.note} Measured with {origin(results)}."]
            parts += [
                f"### {title}\n\n{lines}"
                for title, lines in tables(results, split=profile.headline).items()
            ]
    return "\n\n".join(parts)
