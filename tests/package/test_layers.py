"""The layers of modules, defined only here: a module imports only from rows above its own row."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 350  # most lines of a module

# Each name is a package or module in `mirrorneuron`, or in `workers` if it begins with `workers.`.
LAYERS = """
    errors  job  limits  pools  server_url  text
    message  processes
    agent  bundle  settings
    drawing  embedded  modules  reference  store
    dispatch
    diagnostics
    api
    aio
    mirrorneuron
    chaos
    cli
    workers.celery_overrides  workers.lifecycle
    workers.disk
    workers.modules  workers.runners
    workers.task_announcer  workers.recovery
    workers.runtime
    workers.agents  workers.node
    workers.attempt  workers.claim_runs
    workers.visit
    workers.tasks
    workers.__main__
"""
RANKS = {name: rank for rank, row in enumerate(LAYERS.split("\n")) for name in row.split()}
FACES = {"mirrorneuron", "workers"}  # they import on first use, by name, and are not checked
#: this runs in the interpreter of a command, whose modules it may not change
PROGRAM = {"workers.runners.warm_server"}

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in sorted(FACES)
    for path in sorted((ROOT / package).rglob("*.py"))
}


def layer(module: str) -> str:
    """The name of *module* in LAYERS."""
    parts = module.removeprefix("mirrorneuron.").split(".")
    return ".".join(parts[:2]) if parts[0] == "workers" else parts[0]


def imported_modules(module: str) -> Iterator[str]:
    """Modules of both packages that *module* imports, at its top or in functions."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.split(".")[0] in FACES)
            case ast.ImportFrom(level=0, module=str(source), names=names) if source.split(".")[0] in FACES:
                for alias in names:
                    deeper = f"{source}.{alias.name}"
                    yield deeper if deeper in SOURCES else source
            case ast.ImportFrom(level=level):
                assert level == 0, f"{module} has a relative import"


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - FACES))
def test_imports_point_down(module: str) -> None:
    assert layer(module) in RANKS, f"add {layer(module)} to LAYERS"
    for target in imported_modules(module):
        if layer(target) != layer(module):
            assert layer(target) in RANKS, f"{module} imports {target}, which is not in LAYERS"
            assert RANKS[layer(target)] < RANKS[layer(module)], f"{module} imports {target}"


def test_mirrorneuron_does_not_import_workers() -> None:
    ours = [module for module in SOURCES if module.startswith("mirrorneuron")]
    assert {(m, target) for m in ours for target in imported_modules(m) if target.startswith("workers")} == set()


def test_there_is_no_import_cycle() -> None:
    """Modules of one package in LAYERS must not form a cycle either."""
    graph = {module: set(imported_modules(module)) for module in SOURCES.keys() - FACES}
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_module_is_short(module: str) -> None:
    assert len(SOURCES[module].read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - FACES - PROGRAM))
def test_every_import_is_at_the_top_of_its_module(module: str) -> None:
    """No import in a function or under TYPE_CHECKING, where it could hide a cycle."""
    tree = ast.parse(SOURCES[module].read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.lineno for node in found if node not in tree.body] == []


def test_validating_a_manifest_loads_neither_celery_nor_redis() -> None:
    program = """
import sys, mirrorneuron
mirrorneuron.validate_manifest({"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["a"],
    "nodes": [{"node_id": "a", "agent_type": "router"}]})
heavy = {"celery", "kombu", "redis", "psutil", "pydantic", "pydantic_settings", "flower", "typer", "rich", "asyncio"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
