"""The house of clims_lib: its modules live in rooms, and imports go down only, without circles.

`pytest -s tests/test_floors.py` prints the floors, a map for readers: start where a room is lowest.
"""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# Top to bottom: a module imports from its own room and from rooms below. Names are folders and flat
# modules of clims_lib; flat modules that are not named are pieces.
ROOMS = {
    "commands": ("__main__", "commands"),  # what a shell starts
    "explore": ("explore",),  # widgets
    "results": ("results",),  # tables, claims, the report
    "plots": ("plots", "schematics"),  # above the stages: what computes does not draw
    "stages": ("stages",),  # settings, disk and pieces together
    "data": ("data", "miniworld"),  # pictures and masks on disk; knows the pieces' 255 and fill
    "pieces": (),  # the method: tensors in, tensors out; no disk, so nothing of data
    "foundations": (
        "config",
        "settings",
        "settings_masks",
        "typed_toml",
        "artifacts",
        "stage",
        "sources",
        "devices",
        "labels",
    ),
}
Imports = dict[str, dict[str, set[str]]]  # {module: {module it imports from: names imported}}


def read_imports(package: Path) -> Imports:
    """Read who imports what from whom, also inside functions; not what only type checkers see."""
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = file
    found = {module: defaultdict(set) for module in files}
    for module, file in files.items():
        for target, name in _targets(_statements(ast.parse(file.read_text()))):
            if f"{target}.{name}" in files:
                found[module][f"{target}.{name}"].add(name)
            elif target in files:
                found[module][target].add(name)
    return found


def _statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    unseen = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in node.orelse if unseen else ast.iter_child_nodes(node):
        yield from _statements(child)


def _targets(statements: Iterator[ast.Import | ast.ImportFrom]) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of `from module import name`, (module, module) of `import module`."""
    for statement in statements:
        for alias in statement.names:
            if isinstance(statement, ast.Import):
                yield alias.name, alias.name
            elif statement.level:
                raise ValueError(f"write it absolutely: {ast.unparse(statement)}")
            else:
                yield statement.module, alias.name


def room_of(module: str) -> str:
    """Return the room of clims_lib.<module>; the package's own __init__ counts as a foundation."""
    name = (module.split(".") + ["config"])[1]
    return next((room for room, names in ROOMS.items() if name in names), "pieces")


def arrows_up(imports: Imports) -> list[str]:
    """Say which module imports which names from a room above its own."""
    order = list(ROOMS)
    return [
        f"{module} ({room_of(module)}) imports {', '.join(sorted(names))} from {target} "
        f"({room_of(target)}), a room above: move what is imported down, or the importer up"
        for module, targets in imports.items()
        for target, names in targets.items()
        if order.index(room_of(target)) < order.index(room_of(module))
    ]


def circle(imports: Imports) -> str:
    """Say which modules import each other in a circle, and what; "" where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        around = list(zip(error.args[1][1:], error.args[1], strict=False))
        return "; ".join(
            f"{a} imports {', '.join(sorted(imports[a][b]))} from {b}" for a, b in around
        )
    return ""


def floors(imports: Imports) -> dict[str, int]:
    """Return each module's floor: 1, or one above the highest that it imports from."""
    found = {}
    for module in TopologicalSorter(imports).static_order():
        found[module] = 1 + max((found[target] for target in imports[module]), default=0)
    return found


def draw(imports: Imports) -> str:
    """Return the map: rooms from top to bottom, in each the floors with their modules."""
    lines, heights = [], floors(imports)
    packages = {m.rpartition(".")[0] for m in imports} | {"clims_lib"}  # an empty one is no module
    for room in ROOMS:
        inside = [m for m in imports if room_of(m) == room and (imports[m] or m not in packages)]
        lines.append(room)
        for floor in sorted({heights[m] for m in inside}, reverse=True):
            names = sorted(m.partition(".")[2] for m in inside if heights[m] == floor)
            lines.append(f"  {floor:2}  {'  '.join(names)}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def imports(root) -> Imports:
    return read_imports(root / "clims_lib")


def test_no_module_imports_from_a_room_above(imports):
    assert not arrows_up(imports), "\n".join(arrows_up(imports))


def test_no_circle(imports):
    assert not circle(imports), circle(imports)
    print(f"\n{draw(imports)}")


def test_every_folder_has_a_room(root):
    folders = {file.parent.name for file in (root / "clims_lib").glob("*/*.py")}
    named = {name for names in ROOMS.values() for name in names}
    assert folders <= named, f"name the room of {sorted(folders - named)} in ROOMS"


def test_what_is_found_in_a_toy_house(tmp_path):
    house = tmp_path / "clims_lib"
    for name, text in {
        "__init__.py": "",
        "config.py": "def f():\n    from clims_lib.stages.walk import go, stop\n",
        "seeds.py": "import clims_lib.crf\nimport torch\n",
        "crf.py": "from clims_lib import seeds\nfrom clims_lib.config import f\n",
        "stages/__init__.py": "",
        "stages/walk.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from clims_lib.explore import panel\nelse:\n    from clims_lib import crf\n",
        "explore/panel.py": "from clims_lib.stages import walk",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    found = read_imports(house)
    assert {m: dict(t) for m, t in found.items() if t} == {
        "clims_lib.config": {"clims_lib.stages.walk": {"go", "stop"}},
        "clims_lib.seeds": {"clims_lib.crf": {"clims_lib.crf"}},
        "clims_lib.crf": {"clims_lib.seeds": {"seeds"}, "clims_lib.config": {"f"}},
        "clims_lib.stages.walk": {"clims_lib.crf": {"crf"}},
        "clims_lib.explore.panel": {"clims_lib.stages.walk": {"walk"}},
    }
    (up,) = arrows_up(found)
    assert up.startswith(
        "clims_lib.config (foundations) imports go, stop from clims_lib.stages.walk (stages)"
    )
    found["clims_lib.config"].clear()
    assert not arrows_up(found) and "clims_lib.crf imports seeds from clims_lib.seeds" in circle(
        found
    )
    found["clims_lib.seeds"].clear()
    assert not circle(found)
    heights = floors(found)
    assert [heights[f"clims_lib.{m}"] for m in ("config", "seeds", "crf", "stages.walk")] == [
        1,
        1,
        2,
        3,
    ]
    assert "stages\n   3  stages.walk\ndata\npieces\n   2  crf\n   1  seeds\n" in draw(found)


WATCH = """
import importlib, json, os, random, sys, threading, warnings

modules, blocked = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Wall())
import clip, numpy, torch, torchvision.models.segmentation  # theirs is not our doing

if "matplotlib" not in blocked:
    import matplotlib.pyplot

def state():
    matplotlib = sys.modules.get("matplotlib")
    return {
        "environ": dict(os.environ),
        "warnings": list(warnings.filters),
        "rcParams": matplotlib and dict(matplotlib.rcParams),
        "random": (random.getstate(), str(numpy.random.get_state())),
        "torch.random": torch.get_rng_state().tolist(),
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        "threads": threading.enumerate(),
        "folder": os.getcwd(),
        "path": list(sys.path),
    }

happened = []
def listen(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        happened.append(f"{arguments[0]} written")
    elif event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "socket.connect"):
        happened.append(f"{event} {arguments}")

before = state()
sys.addaudithook(listen)
start = threading.Thread.start
threading.Thread.start = lambda self: happened.append("a thread started") or start(self)
for name in modules:
    importlib.import_module(name)
after = state()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps(changed + happened))
"""


def watch(root: Path, folder: Path, modules: list[str], blocked: tuple[str, ...] = ()) -> list[str]:
    """Import modules in a process of their own; return what global state that changed."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "HOME": str(folder)}
    call = subprocess.run(
        [sys.executable, "-B", "-c", WATCH, json.dumps(modules), json.dumps(blocked)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert call.returncode == 0, call.stderr[-2000:]
    return json.loads(call.stdout)


def test_the_method_needs_no_jupyter_and_no_matplotlib(root, imports, tmp_path):
    pieces = [m for m in imports if room_of(m) in ("pieces", "foundations")]
    assert {"clims_lib.losses", "clims_lib.cam", "clims_lib.crf", "clims_lib.cct"} <= set(pieces)
    peers = (
        "IPython",
        "ipywidgets",
        "ipykernel",
        "jupyterlab",
        "papermill",
        "nbformat",
        "matplotlib",
    )
    assert watch(root, tmp_path, pieces, peers) == []
    assert not list(tmp_path.iterdir())


def test_importing_changes_nothing_global(root, imports, tmp_path):
    assert watch(root, tmp_path, [m for m in imports if room_of(m) != "commands"]) == []


def test_a_change_would_be_seen(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import os, threading, warnings, matplotlib\n"
        "os.environ['X'] = '1'\nwarnings.simplefilter('ignore')\n"
        "matplotlib.rcParams['figure.dpi'] = 7\nthreading.Thread(target=print, args=()).start()\n"
        "open('left.txt', 'w').close()\n"
    )
    found = watch(tmp_path, tmp_path, ["loud"])
    assert {"environ", "warnings", "rcParams", "a thread started", "left.txt written"} <= set(found)
