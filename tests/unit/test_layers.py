"""Who may import whom: the layers stand here, and nowhere else. A module imports from the rows above its own only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 350  # lines of a module

# A name stands for a module, or for a package with all in it (its own modules only must not form a circle).
LAYERS = """
    errors  job  keys  layout  message  model  strays  suggest  wording
    agent  archive  arguments  claim  conditions  connection  process  reading  settings
    app  manifest  uploads
    arrivals  config_keys  plan  scripts
    chain  checkup  diagnosis  graph  lint  records  validation
    bundle  svg
    bundle_store  index  registry
    store
    control  facts  submission  vitals  waiting
    backend  parts
    client
    api
    aio
    embedded
    mirrorneuron
    chaos
    cli
    workers.forking  workers.garbage  workers.removal  workers.threads
    workers.backlog  workers.bundle_cache  workers.events  workers.failure  workers.held_folder  workers.module_child
    workers.request
    workers.runners  workers.standstill  workers.stopping
    workers.step  workers.announce
    workers.keeper  workers.live_output  workers.module_process  workers.slots
    workers.modules
    workers.runtime
    workers.agents  workers.idle
    workers.attempts  workers.light  workers.sweeper  workers.watch
    workers.visit
    workers.node
    workers.tasks
    workers.supervisor
"""
RANKS = {name: rank for rank, row in enumerate(LAYERS.split("\n")) for name in row.split()}
FACES = {"mirrorneuron", "workers"}  # they load what they offer on first use, so they import whatever they like
ALLOWED = {("mirrorneuron.cli.worker", "workers.supervisor")}  # `mn worker` is a node; nobody imports the command

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in sorted(FACES)
    for path in sorted((ROOT / package).rglob("*.py"))
}


def layer(module: str) -> str:
    """The name under which a module stands in LAYERS."""
    parts = module.removeprefix("mirrorneuron.").split(".")
    return ".".join(parts[:2]) if parts[0] == "workers" else parts[0]


def imported_modules(module: str) -> Iterator[str]:
    """Modules of both packages that *module* imports, at its top or anywhere within."""
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
    assert layer(module) in RANKS, f"give {module} its place in LAYERS"
    for target in imported_modules(module):
        if layer(target) != layer(module) and (module, target) not in ALLOWED:
            assert layer(target) in RANKS, f"{module} imports {target}, which has no place in LAYERS"
            assert RANKS[layer(target)] < RANKS[layer(module)], f"{module} imports {target}"


def test_the_job_system_knows_nothing_of_its_nodes() -> None:
    ours = [module for module in SOURCES if module.startswith("mirrorneuron")]
    found = {(m, target) for m in ours for target in imported_modules(m) if target.startswith("workers")}
    assert found <= ALLOWED


def test_there_is_no_circle() -> None:
    """Also within a package that stands in LAYERS as a whole."""
    graph = {module: set(imported_modules(module)) for module in SOURCES.keys() - FACES}
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_module_is_short(module: str) -> None:
    assert len(SOURCES[module].read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - FACES))
def test_no_import_is_hidden_to_break_a_circle(module: str) -> None:
    """Neither within a function nor under TYPE_CHECKING."""
    tree = ast.parse(SOURCES[module].read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.lineno for node in found if node not in tree.body] == []


def test_validating_a_manifest_loads_neither_celery_nor_redis() -> None:
    program = """
import sys, mirrorneuron
mirrorneuron.validate_manifest({"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["a"],
    "nodes": [{"node_id": "a", "agent_type": "router"}]})
heavy = {"celery", "kombu", "redis", "pydantic_settings", "flower", "typer", "rich", "asyncio"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_nodes_child_process_loads_no_celery() -> None:
    """Each module agent's child imports this alone: what it does not load, it need not wait for."""
    program = (
        "import sys, workers.module_child; print(sorted({'celery', 'redis', 'pydantic_settings'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
