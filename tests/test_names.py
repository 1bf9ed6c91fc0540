"""In the library a public name means one thing: no two modules define the same one."""

import ast
from collections import defaultdict

TWICE = {"__all__"}


def names_of(source: str) -> set[str]:
    """Functions, classes and constants that a module defines at its top."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def test_definitions_are_found():
    source = "from x import y\nA, B = 1, 2\nC: int = 3\ndef f(): D = 4\nclass G: h = 5\n"
    assert names_of(source) == {"A", "B", "C", "f", "G"}


def test_a_public_name_is_defined_in_one_module(root):
    modules = defaultdict(set)
    for path in sorted((root / "clims_lib").rglob("*.py")):
        if path.parent.name == "commands":  # these are named as they are called: clims train
            continue
        for name in names_of(path.read_text()):
            if name in TWICE or not name.startswith("_"):
                modules[name].add(str(path.relative_to(root)))
    several = {name for name, where in modules.items() if len(where) > 1}
    clashes = {name: sorted(modules[name]) for name in several - TWICE}
    assert not clashes, f"give each its own name: {clashes}"
    assert several >= TWICE, f"no longer defined twice, take it off the list: {TWICE - several}"
