"""In a real browser: JupyterLab and Voila show the explorers; sliders move, pictures follow.

Headless Chromium, driven by Playwright with the keyboard alone. What it saw is kept as pictures in
outputs/screenshots/.
"""

import json
import os
import socket
import subprocess
import sys
import time

import nbformat
import pytest

from clims_lib import explore
from clims_lib.config import load_profile

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `test`")
pytestmark = pytest.mark.slow
# {explorer: (a text that only it has, {the control that is moved: keys that move it})}
MOVES = {
    "cams": ("opacity", {"method": ["ArrowDown"] * 2, "threshold": ["ArrowLeft", "Home"]}),
    "losses": ("weighted terms", {"mask": ["ArrowRight"] * 4}),
    "prompts": ("template", {"class text": ["End", "s"], "picture": ["ArrowDown"]}),
    "crf": ("sharpness", {"threshold": ["ArrowLeft", "Home"]}),
}
LOOK = """async (box) => {
    const digest = async (image) => {
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return bytes.reduce((sum, byte) => (31 * sum + byte) | 0, bytes.length);
    };
    const images = await Promise.all([...box.querySelectorAll('img')].map(digest));
    return [images, box.lastElementChild.innerText];
}"""
DONE = """() => {
    if (document.querySelector('[data-mime-type="application/vnd.jupyter.stderr"] .ansi-red-fg'))
        return 'failed';
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
    return prompts.length > 0 && prompts.every((p) => /\\[\\d+\\]/.test(p.textContent)) && 'done';
}"""


@pytest.fixture(scope="module")
def tiny():
    """The tiny profile, with everything trained that an explorer shows."""
    profile = load_profile("tiny")
    for name in ("cam_explorer", "loss_explorer", "prompt_lab", "crf_tuner"):
        getattr(explore, name)(profile)
    return profile


@pytest.fixture(scope="module")
def screenshots(root):
    folder = root / "outputs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(180_000)  # for busy machines
    return page


@pytest.fixture(scope="module")
def environment(root, tmp_path_factory):
    """Settings of Jupyter's that depend on nobody's home folder."""
    home = tmp_path_factory.mktemp("jupyter")
    settings = home / "settings"
    for name, values in {
        # every cell is in the page, so that what is out of sight can be waited for
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return os.environ | {
        "PYTHONPATH": str(root),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "CLIMS_PYTHON": sys.executable,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "spaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(command, port, environment, log):
    """Start a server, wait until it listens, yield its address, stop it and its kernels."""
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        for _ in range(180):
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def lab(root, environment, tiny, tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks with the tiny profile."""
    folder, port = tmp_path_factory.mktemp("notebooks"), free_port()
    for path in (root / "notebooks").glob("0[2456]_*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = cell.source.replace('PROFILE = "mini"', 'PROFILE = "tiny"')
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / path.name)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.token=",
        "--ServerApp.password=",
        f"--ServerApp.root_dir={folder}",
    ]
    yield from serve(command, port, environment, folder / "lab.log")


@pytest.fixture(scope="module")
def voila(root, environment, tiny, tmp_path_factory):
    """The address of ci/explore with the tiny profile."""
    pytest.importorskip("voila", reason="voila is not installed")
    port = free_port()
    command = [str(root / "ci" / "explore"), "--profile", "tiny", "--port", str(port)]
    log = tmp_path_factory.mktemp("voila") / "voila.log"
    yield from serve(command, port, environment, log)


def look(box):
    """[digests of the pictures, the numbers] of an explorer; looks again where one changes."""
    for _ in range(50):
        try:
            return box.evaluate(LOOK)
        except playwright.Error:
            time.sleep(0.1)
    raise AssertionError("the pictures never come to rest")


def settled(box, before):
    """Wait until an explorer shows something else and nothing new for half a second."""
    now = before
    for _ in range(60):
        time.sleep(0.5)
        now, last = look(box), now
        if now == last != before:
            return now
    raise AssertionError(f"pictures and numbers did not follow: {now}")


def move(page, name, screenshots, where):
    """Move an explorer's controls with the keyboard; pictures and numbers must follow."""
    mark, moves = MOVES[name]
    box = page.locator(".clims-explorer", has_text=mark)
    box.scroll_into_view_if_needed()
    box.locator("img").last.wait_for()
    now = before = look(box)
    assert len(before[0]) >= 3
    box.screenshot(path=screenshots / f"{where}_{name}_before.png")
    for control, keys in moves.items():
        handle = box.locator(".jupyter-widgets", has=page.get_by_text(control, exact=True)).last
        handle.locator(".noUi-handle, input, select").first.focus()
        for key in keys:
            page.keyboard.press(key)
        now = settled(box, now)
    box.screenshot(path=screenshots / f"{where}_{name}_after.png")
    assert now[0] != before[0] and now[1] != before[1]


@pytest.mark.parametrize(
    "start, names",
    [("02", ("prompts", "losses")), ("04", ("crf",)), ("05", ("cams",)), ("06", ("cams",))],
)
def test_notebooks_in_jupyterlab(page, lab, root, screenshots, start, names):
    notebook = next((root / "notebooks").glob(f"{start}_*.ipynb")).name
    page.goto(f"{lab}/lab/tree/{notebook}?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    state = page.wait_for_function(DONE).json_value()
    page.screenshot(path=screenshots / f"lab_{start}.png")
    assert state == "done", f"a cell of {notebook} failed: see lab_{start}.png"
    for name in names:
        move(page, name, screenshots, f"lab_{start}")
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Shut Down Kernel", exact=True).click()


def test_the_page_for_a_lecture_hall(page, voila, screenshots):
    page.goto(voila)
    page.wait_for_function("document.querySelectorAll('.clims-explorer img').length >= 13")
    assert "import" not in page.inner_text("body")  # no code
    page.screenshot(path=screenshots / "voila.png")
    for name in MOVES:
        move(page, name, screenshots, "voila")
