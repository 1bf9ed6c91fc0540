"""The site, as a browser sees it: whole, readable on a phone, and nothing in it comes from afar."""

import functools
import json
import re
import statistics
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urldefrag

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

for package in ("sphinx", "myst_nb", "furo"):
    pytest.importorskip(package, reason="needs the extra `book`")

import run_book  # noqa: E402

from clims_lib.__main__ import main  # noqa: E402

PHONE = {"width": 390, "height": 844}
LOOK = """() => ({
    width: document.documentElement.scrollWidth,
    anchors: [...document.querySelectorAll("[id]")].map(element => element.id),
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
    images: [...document.images].map(image => [image.src, image.alt.trim(), image.naturalWidth]),
})"""


EXECUTED = ("00_setup_and_data", "02_clims_losses")  # pictures and charts of all kinds


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    """The site of two notebooks of the tiny profile, the others as they are committed."""

    def run(*command):
        return subprocess.run(
            [sys.executable, "-m", "clims_lib", *command], cwd=root, capture_output=True, text=True
        )

    numbers = [name[:2] for name in EXECUTED]
    tutorial = run("tutorial", "--profile", "tiny", "--only", *numbers)
    assert tutorial.returncode == 0, tutorial.stderr
    folder = tmp_path_factory.mktemp("book") / "site"
    book = run("book", "--profile", "tiny", "--out", folder)
    assert (book.returncode, book.stderr) == (0, "")  # Sphinx has nothing to complain about
    return folder


@pytest.fixture(scope="module")
def visit(site, browser):
    """Every page after a visit with a phone, what was asked for and what went wrong meanwhile."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        page = browser.new_page(viewport=PHONE)
        requests, errors, looks = set(), [], {}
        page.on("request", lambda request: requests.add(request.url))
        page.on("pageerror", lambda error: errors.append((page.url, str(error))))
        page.on(
            "console",
            lambda message: (
                errors.append((page.url, message.text)) if message.type == "error" else None
            ),
        )
        for path in sorted(site.rglob("*.html")):
            url = home + path.relative_to(site).as_posix()
            page.goto(url)
            looks[url] = SimpleNamespace(**page.evaluate(LOOK))
        yield SimpleNamespace(home=home, page=page, requests=requests, errors=errors, looks=looks)
        server.shutdown()


def modules_of(root):
    """The files of all modules but packages and the command's own."""
    return [path for path in (root / "clims_lib").rglob("*.py") if path.stem[0] != "_"]


def test_the_library_is_listed_once_in_the_order_to_read_it(root):
    page = run_book.library()
    listed = re.findall(r"^   ~([\w.]+)$", page, re.MULTILINE)
    paths = [path.relative_to(root).with_suffix("").parts for path in modules_of(root)]
    assert sorted(listed) == sorted(map(".".join, paths))  # each of them, and none twice
    order = ["losses", "stages.methods", "stages.clip", "data.voc", "miniworld.world"]
    order += ["explore.cams", "results.tables", "commands.course", "config"]
    places = [listed.index(f"clims_lib.{name}") for name in order]
    assert places == sorted(places) and places[0] == 0


@pytest.mark.slow
def test_all_pages_are_there(visit, root):
    names = [url.removeprefix(visit.home) for url in visit.looks]
    notebooks = [f"notebooks/{p.stem}.html" for p in (root / "notebooks").glob("*.*")]
    library = (path.relative_to(root).with_suffix("") for path in modules_of(root))
    modules = [f"api/{'.'.join(path.parts)}.html" for path in library]
    assert len(notebooks) >= 8 and len(modules) >= 60
    assert {"index.html", "results.html", *notebooks, *modules} <= set(names)


@pytest.mark.slow
def test_nothing_comes_from_elsewhere_and_nothing_fails(visit):
    assert not [url for url in visit.requests if not url.startswith((visit.home, "data:"))]
    assert not visit.errors


@pytest.mark.slow
def test_every_link_leads_somewhere(visit):
    links = {
        link for look in visit.looks.values() for link in look.links if link.startswith(visit.home)
    }
    assert len(links) > 200
    broken = []
    for link in sorted(links):
        url, anchor = urldefrag(link)
        url += "index.html" if url.endswith("/") else ""
        found = url in visit.looks or visit.page.request.get(url).ok
        if not found or anchor and anchor not in visit.looks[url].anchors:
            broken.append(link)
    assert not broken
    front = visit.looks[visit.home + "index.html"].links  # the README's links to the notebooks
    assert visit.home + "notebooks/02_clims_losses.html" in front


@pytest.mark.slow
def test_pages_fit_on_a_phone(visit):
    assert not {url: look.width for url, look in visit.looks.items() if look.width > PHONE["width"]}


@pytest.mark.slow
def test_every_figure_is_shown_and_described(visit):
    images = [image for look in visit.looks.values() for image in look.images]
    assert not [source for source, alt, width in images if not alt or not width]
    for name in EXECUTED:
        words = [alt for _, alt, _ in visit.looks[f"{visit.home}notebooks/{name}.html"].images]
        assert len(words) > 4 and not [alt for alt in words if alt.startswith("Figure of")]


@pytest.mark.slow
def test_search_finds(visit):
    visit.page.goto(visit.home + "search.html?q=leak")
    visit.page.wait_for_selector("#search-results li a")
    found = visit.page.locator("#search-results li a").all_inner_texts()
    assert any(text.startswith("05 Train, boat, person") for text in found)


def test_results_are_those_of_the_committed_file(root):
    page = run_book.results_page()
    rows = json.loads((root / "data/results/mini.json").read_text())["rows"]
    scores = [100 * r["miou"] for r in rows if r["method"] == "clims" and r["split"] == "test"]
    expected = f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"
    assert f'<th scope="row">clims</th><td>{expected}</td>' in page


def test_what_lives_in_a_running_notebook_is_left_out():
    bar = new_output("display_data", {run_book.WIDGET: {}, "text/plain": "0%|"})
    figure = new_output("display_data", {"image/png": "aaaa"})
    notebook = new_notebook(
        metadata={"widgets": {}},
        cells=[new_markdown_cell("A bar"), new_code_cell("show()", outputs=[bar, figure])],
    )
    shown = run_book.without_widgets(notebook)
    assert shown.cells[1].outputs == [figure] and "widgets" not in shown.metadata


def test_only_a_site_is_replaced(tmp_path, capsys):
    (tmp_path / "holiday.txt").touch()
    assert main(["book", "--out", str(tmp_path)]) == 1
    assert "delete it yourself or choose another folder" in capsys.readouterr().err
    assert (tmp_path / "holiday.txt").exists()
    assert main(["book", "--profile", "minni"]) == 1
    assert "no profile 'minni'; did you mean mini?" in capsys.readouterr().err
