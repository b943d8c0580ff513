"""Checks the Python source of modules without importing it: the file, its syntax, the class, its method `handle`.

Only what makes every run fail is an error. A name that the source may bind at run time is not judged.
"""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from mirrorneuron.bundle.parse import shown
from mirrorneuron.bundle.suggest import did_you_mean
from mirrorneuron.bundle.uploads import Sources

MAX_BYTES: Final = 2 * 1024 * 1024  #: of a source file; a larger one is not read
_DYNAMIC: Final = frozenset({"__getattr__", "exec", "eval", "globals", "setattr", "vars", "__dict__", "modules"})
_AGENT: Final = "Agent"
_OURS: Final = "mirrorneuron"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a module. One that is not *fatal* is a warning: another machine may not have it."""

    message: str
    hint: str = ""
    fatal: bool = True


class Modules:
    """Checks the modules of one bundle; reads each file once."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._parsed: dict[str, Source | str] = {}
        self._known: dict[tuple[str, str | None], Finding | None] = {}

    def check(self, module: str, module_source: str | None) -> Finding | None:
        """The problem of the class *module*, `package.module:Class`; both values have passed the other checks."""
        key = module, module_source
        if key not in self._known:
            name, _, class_name = module.partition(":")
            self._known[key] = self._look(name, class_name, module_source)
        return self._known[key]

    def _look(self, name: str, class_name: str, module_source: str | None) -> Finding | None:
        folder = self._folder(module_source)
        file, missing = _find(folder, name) if folder else (None, "")
        if missing:
            return Finding(missing, _nearest_file(folder, name))
        if file is None:
            if _installed(name):
                return None
            place = "payloads/" if module_source is None else f"the folder of module_source {shown(module_source)}"
            hint = _nearest_file(folder, name) or "install it on every node, or add it to the bundle"
            return Finding(f"module {shown(name)} is not in {place}, and is not installed here", hint, fatal=False)
        source = self._source(file)
        problem, hint = (source, "") if isinstance(source, str) else source.problem(class_name) or ("", "")
        return Finding(f"{self._sources.name(file)}: {problem}", hint) if problem else None

    def _folder(self, module_source: str | None) -> Path | None:
        """The folder that goes on the import path."""
        root = self._sources.folder
        if root is None or module_source is None:
            return root
        place = root / module_source
        return place if place.is_dir() else place.parent

    def _source(self, file: Path) -> Source | str:
        key = os.path.realpath(file)
        if key not in self._parsed:
            self._parsed[key] = _parse(file)
        return self._parsed[key]


def _find(folder: Path, name: str) -> tuple[Path | None, str]:
    """The file of the module *name* in *folder*, or why it must be missing; neither if it may be elsewhere."""
    place = folder
    *packages, last = name.split(".")
    for package in packages:
        if not os.path.isdir(place / package):
            return None, _missing_in(place, folder, name)
        place = place / package
    for file in (place / last / "__init__.py", place / f"{last}.py"):
        if os.path.isfile(file):
            return file, ""
    return None, _missing_in(place, folder, name)


def _missing_in(package: Path, folder: Path, name: str) -> str:
    """The problem if *package*, a package of the bundle, lacks a module; "" if the module may come from elsewhere."""
    init = package / "__init__.py"
    if package == folder or not os.path.isfile(init):
        return ""
    try:
        text = init.read_bytes()
    except OSError:
        return ""
    if b"__path__" in text or b"sys.modules" in text:
        return ""
    tail = name.split(".")[len(package.relative_to(folder).parts)]
    if any(entry.startswith(f"{tail}.") for entry in os.listdir(package)):
        return ""  # a compiled module, like `fast.cpython-311-x86_64-linux-gnu.so`
    return f"package {shown(str(package.relative_to(folder)).replace(os.sep, '.'))} has no module {shown(tail)}"


def _installed(name: str) -> bool:
    """True if the first package of *name* can be found here. Imports nothing."""
    top = name.partition(".")[0]
    if top in sys.modules or top in sys.stdlib_module_names:
        return True
    try:
        return PathFinder.find_spec(top) is not None
    except (ImportError, ValueError, OSError):
        return True


def _nearest_file(folder: Path | None, name: str) -> str:
    if folder is None:
        return ""
    *packages, last = name.split(".")
    try:
        names = sorted(os.listdir(folder.joinpath(*packages)))[:1000]
    except OSError:
        return ""
    modules = tuple(entry.removesuffix(".py") for entry in names if entry.endswith(".py"))
    return did_you_mean(last, modules)


def _parse(file: Path) -> Source | str:
    """The source of *file*, or its problem."""
    try:
        if file.stat().st_size > MAX_BYTES:
            return Source()
        text = file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes warn, and are not errors
            tree = ast.parse(text, file.name)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        return f"{line}syntax error: {error.msg}"
    except ValueError as error:  # NUL bytes
        return f"is not Python source: {error}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (RecursionError, MemoryError):
        return Source()
    return Source(tree)


class Source:
    """One parsed source file; without a tree every name may exist."""

    def __init__(self, tree: ast.Module | None = None) -> None:
        self._bound: dict[str, list[ast.AST]] = {}
        self._open = tree is None
        if tree is not None:
            for name, node in _bindings(tree.body):
                self._bound.setdefault(name, []).append(node)
            self._open = "*" in self._bound or any(_is_dynamic(node) for node in ast.walk(tree))

    def problem(self, class_name: str) -> tuple[str, str] | None:
        """Problem and hint if the class is missing or cannot be an agent; None if there is no problem to see."""
        nodes = self._bound.get(class_name)
        if nodes is None:
            if self._open:
                return None
            classes = tuple(name for name, found in self._bound.items() if isinstance(found[-1], ast.ClassDef))
            return f"has no class {class_name}", did_you_mean(class_name, classes)
        if len(nodes) > 1:
            return None
        match nodes[0]:
            case ast.FunctionDef(decorator_list=[]) | ast.AsyncFunctionDef(decorator_list=[]):
                return f"{class_name} is a function, not a class", "write a subclass of mirrorneuron.Agent"
            case ast.ClassDef(decorator_list=[]) as found:
                return self._class_problem(found, class_name)
        return None

    def _class_problem(self, found: ast.ClassDef, name: str) -> tuple[str, str] | None:
        if all(isinstance(base, ast.Name) and base.id == "object" for base in found.bases) and not found.keywords:
            return f"class {name} is not a subclass of mirrorneuron.Agent", f"write class {name}(Agent)"
        handles = [node for bound, node in _bindings(found.body) if bound == "handle"]
        if handles:
            return _handle_problem(handles[0], name) if len(handles) == 1 else None
        if all(self._is_agent(base) for base in found.bases) and not found.keywords and not self._open:
            methods = tuple(bound for bound, node in _bindings(found.body) if isinstance(node, ast.FunctionDef))
            hint = did_you_mean("handle", methods) or "write def handle(self, message, context)"
            return f"class {name} has no method handle", hint
        return None

    def _is_agent(self, base: ast.expr) -> bool:
        """True if *base* is `Agent` or `mirrorneuron.Agent`, imported from this package."""
        match base:
            case ast.Name(id=name):
                nodes = self._bound.get(name, [])
                return len(nodes) == 1 and _imports_agent(nodes[0], name)
            case ast.Attribute(value=ast.Name(id="mirrorneuron"), attr="Agent"):
                return [type(node) for node in self._bound.get(_OURS, [])] == [ast.Import]
        return False


def _imports_agent(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.ImportFrom) or node.module != _OURS:
        return False
    return any(alias.name == _AGENT and (alias.asname or alias.name) == name for alias in node.names)


def _handle_problem(node: ast.AST, name: str) -> tuple[str, str] | None:
    if isinstance(node, ast.AsyncFunctionDef) and not node.decorator_list:
        return f"line {node.lineno}: {name}.handle is async, which is not supported yet", "use a plain def"
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return None
    if any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in _own_nodes(node)):
        return f"line {node.lineno}: {name}.handle is a generator", "use context.emit instead of yield"
    given = node.args
    names = [*given.posonlyargs, *given.args]
    least = len(names) - len(given.defaults)
    if (len(names) < 3 and given.vararg is None) or least > 3 or None in given.kw_defaults:
        hint = "write def handle(self, message, context)"
        return f"line {node.lineno}: {name}.handle cannot be called with a message and a context", hint
    return None


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions and classes inside it."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            stack.extend(ast.iter_child_nodes(node))


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Names that statements bind in their own scope, with the node that binds each."""
    stack: list[ast.AST] = list(reversed(body))
    while stack:
        node = stack.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    yield alias.asname or alias.name.partition(".")[0], node
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, node
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node
                stack.extend(reversed(list(ast.iter_child_nodes(node))))
            case ast.Lambda():
                pass
            case _:
                stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _is_dynamic(node: ast.AST) -> bool:
    """True for code that may bind names that cannot be seen, such as `globals()[name] = ...`."""
    match node:
        case ast.Attribute(attr="handle", ctx=ast.Store()):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
            return name in _DYNAMIC
        case ast.Global():
            return True
    return False
