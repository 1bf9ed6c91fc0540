"""Which code a result depends on: the definitions that a stage can reach, hashed file by file.

Comments, docstrings and annotations change no result and are left out, so correcting them trains
nothing anew; editing L_BTM does, and only what minimises L_BTM. Syntax trees are read, nothing is
run: a name that a function mentions leads to its definition in this package, and on from there.
"""

from __future__ import annotations

import ast
import hashlib
import symtable
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# They decide where a result lies and how soon it is there, never what it is. What a data set or a
# downloaded file holds is in the keys by its content. And of a table a stage declares the entry
# that it takes: else every method would depend on every other one's loss. What only refuses decides
# nothing either.
PLUMBING = {
    "artifacts",
    "config",
    "devices",
    "settings",
    "settings_masks",
    "typed_toml",
    "sources",
    "stage",
    "stages.methods",
    "data.download",
    "data.splits.make_data",
    "data.splits.open_split",
    "stages.criterion.check_losses",
    "stages.criterion.from_clip",
    "stages.masks.WITH_CRF",
    "stages.segmentations.KINDS",
    "stages.sure_labels.SURE",
    "stages.untrained.TOWERS",
    "stages.walk.WALKS",
}
PLUMBING = {f"clims_lib.{name}" for name in PLUMBING}
STAGE = "make_once"  # who calls it is a stage: to others its folder is an input, not code


@dataclass(frozen=True)
class Definition:
    """A top-level name's source, and {name that it mentions: attributes it takes; None: itself}."""

    text: str
    uses: dict[str, set[str] | None]


@dataclass(frozen=True)
class Module:
    """A module's definitions, and its imports {local name: (module, name in it or "")}."""

    definitions: dict[str, Definition]
    imports: dict[str, tuple[str, str]]


def code_of(*starts: Callable | types.ModuleType, through_stages: bool = False) -> dict[str, str]:
    """{file: hash} of all of clims_lib that these functions, classes or modules can run.

    Files are named from the package's folder, "losses.py". Other stages are not entered unless
    `through_stages`. Raises ValueError for a file that was edited after its import: what would run
    is then not what the file says.
    """
    first = frozenset(start for item in starts for start in _names_of(item))
    files = [(path, path.stat()) for path in sorted(PACKAGE.rglob("*.py"))]
    versions = tuple((path, status.st_mtime_ns, status.st_size) for path, status in files)
    return dict(_hashes(first, through_stages, versions))


@cache
def _hashes(first: frozenset, through_stages: bool, versions: tuple) -> dict[str, str]:
    """`code_of`, for as long as no file changes."""
    texts: dict[str, list[str]] = {}
    for where, name in sorted(reached(first, through_stages)):
        definition = read_module(where).definitions[name]
        texts.setdefault(_file_of(where), []).append(f"{name}\n{definition.text}")
    return {
        file: hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]
        for file, parts in texts.items()
    }


def reached(first: Iterable[tuple[str, str]], through_stages: bool) -> set[tuple[str, str]]:
    """All definitions, (module, name), that some can run, these included."""
    seen, todo = set(first), list(first)
    while todo:
        where, name = todo.pop()
        for found in set(_mentioned(where, name)) - seen:
            if through_stages or STAGE not in read_module(found[0]).definitions[found[1]].uses:
                seen.add(found)
                todo.append(found)
    return seen


def _names_of(item: Callable | types.ModuleType) -> Iterable[tuple[str, str]]:
    if isinstance(item, types.ModuleType):
        return [(item.__name__, name) for name in read_module(item.__name__).definitions]
    return [(item.__module__, item.__qualname__.partition(".")[0])]  # of make in a stage: the stage


def _mentioned(where: str, name: str) -> Iterable[tuple[str, str]]:
    """The (module, name) pairs of this package that a definition mentions."""
    module = read_module(where)
    for used, attributes in module.definitions[name].uses.items():
        if used in module.definitions:
            found = {(where, used)}
        elif used in module.imports:
            target, attribute = module.imports[used]
            known = {} if target in PLUMBING else read_module(target).definitions
            # a module that is handed on as a whole may be used in any way
            wanted = {attribute} if attribute else known if attributes is None else attributes
            found = {pair for each in wanted for pair in _defined(target, each)}
        else:
            continue
        yield from (pair for pair in found if ".".join(pair) not in PLUMBING)


def _defined(where: str, name: str) -> Iterable[tuple[str, str]]:
    """Where a name that a module hands out is defined: there, or where that module has it from."""
    if where in PLUMBING:
        return
    module = read_module(where)
    if name in module.definitions:
        yield where, name
    elif name in module.imports and module.imports[name][1]:
        yield from _defined(*module.imports[name])


_first_seen: dict[str, tuple[int, int]] = {}


def read_module(name: str) -> Module:
    """A module of this package, read again when its file has changed."""
    status = _path_of(name).stat()
    version = (status.st_mtime_ns, status.st_size)
    if version != _first_seen.setdefault(name, version):
        _check_loaded(name)
    return _read(name, version)


@cache
def _read(name: str, version: tuple[int, int]) -> Module:
    text = _path_of(name).read_text(encoding="utf-8")
    text = ast.unparse(ast.fix_missing_locations(_Bare().visit(ast.parse(text))))
    scopes = symtable.symtable(text, name, "exec").get_children()
    tables = {(scope.get_name(), scope.get_lineno()): scope for scope in scopes}
    found: dict[str, Definition] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in _statements(ast.parse(text).body):
        inside = [local for n in ast.walk(node) for local in _imports_of(n).items()]
        imports |= dict(inside)
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        source, scope = ast.unparse(node), tables.get((getattr(node, "name", ""), node.lineno))
        uses = _uses(node, _locals_of(scope) if scope else set())
        uses |= dict.fromkeys(name for name, _ in inside)  # a function's own imports
        for target in _targets(node):
            before = found.get(target, Definition("", {}))
            others = {name: taken for name, taken in uses.items() if name != target}
            found[target] = Definition(f"{before.text}\n{source}", before.uses | others)
    return Module(found, imports)


class _Bare(ast.NodeTransformer):
    """Drop what changes no result: docstrings and the annotations of functions."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        return node


def _statements(body: list[ast.stmt]) -> Iterable[ast.stmt]:
    """Top-level statements, also in `with`, `try` and `if`, but not a type checker's or main's."""
    for node in body:
        if isinstance(node, ast.If):
            if not {"TYPE_CHECKING", "__name__"} & {n.id for n in _all_names(node.test)}:
                yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.With | ast.Try):
            yield from _statements(node.body)
        else:
            yield node


def _targets(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    stored = [n.id for n in _all_names(node) if isinstance(n.ctx, ast.Store)]
    changed = [n for n in ast.walk(node) if isinstance(n, ast.Subscript | ast.Attribute)]
    inside = [
        n.value.id
        for n in changed
        if isinstance(n.value, ast.Name) and isinstance(n.ctx, ast.Store)
    ]  # TABLE["x"] = ... is a part of TABLE
    return [*stored, *inside]


def _uses(node: ast.stmt, local: set[str]) -> dict[str, set[str] | None]:
    """What a statement mentions that is not its own local variable."""
    taken: dict[str, set[str]] = {}
    for attribute in (n for n in ast.walk(node) if isinstance(n, ast.Attribute)):
        if isinstance(attribute.value, ast.Name):
            taken.setdefault(attribute.value.id, set()).add(attribute.attr)
            attribute.value.id = ""  # counted; what is left stands by itself
    alone = dict.fromkeys(n.id for n in _all_names(node) if n.id)
    found = {**taken, **alone}
    return {name: attributes for name, attributes in found.items() if name not in local}


def _locals_of(scope: symtable.SymbolTable) -> set[str]:
    """Names that are local wherever a function or one inside it mentions them."""
    own = {s.get_name() for s in scope.get_symbols() if s.is_local()}
    free = {s.get_name() for s in scope.get_symbols() if s.is_global()}
    for child in scope.get_children():
        own |= _locals_of(child)
        free |= {s.get_name() for s in child.get_symbols() if s.is_global()}
    return own - free


def _all_names(node: ast.AST) -> list[ast.Name]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Name)]


def _imports_of(node: ast.AST) -> dict[str, tuple[str, str]]:
    """{local name: (module of this package, name in it or "")} of an import statement."""
    found: dict[str, tuple[str, str]] = {}
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            target = (whole, "") if _find(whole) else (str(node.module), alias.name)
            found[alias.asname or alias.name] = target
    return found


def _check_loaded(name: str) -> None:
    """Raise ValueError unless what is loaded is what the file says now."""
    path, loaded = _path_of(name), vars(sys.modules[name]) if name in sys.modules else {}
    text = path.read_text(encoding="utf-8")
    for code in compile(text, str(path), "exec", dont_inherit=True).co_consts:
        function = loaded.get(code.co_name) if isinstance(code, types.CodeType) else None
        if isinstance(function, types.FunctionType) and function.__code__ != code:
            raise ValueError(
                f"{_file_of(name)} was edited after it was imported, so its old code would run "
                "under the new one's name: restart the kernel"
            )


def _find(name: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*name.split("."))
    return next(filter(Path.is_file, (base.with_suffix(".py"), base / "__init__.py")), None)


def _path_of(name: str) -> Path:
    path = _find(name)
    if path is None:
        raise ValueError(f"no module {name} in {PACKAGE.parent}")
    return path


def _file_of(name: str) -> str:
    return _path_of(name).relative_to(PACKAGE).as_posix()
