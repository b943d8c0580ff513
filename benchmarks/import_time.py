"""The time to import the package and validate a small bundle, compared with `import pydantic` alone.

Each sample includes the start of a new interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.row import Row, at_most
from benchmarks.size import Size

GOAL = 2.5
PEER = "`import pydantic`"
BARE = "import pydantic"
OURS = "import sys, mirrorneuron; mirrorneuron.validate_manifest(sys.argv[1])"
MANIFEST: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "review",
    "entrypoints": ["ingress"],
    "nodes": [
        {"node_id": "ingress", "agent_type": "router", "config": {"emit_type": "work"}},
        {"node_id": "worker", "agent_type": "executor", "config": {"command": ["true"], "upload_path": "input.txt"}},
        {"node_id": "reviewer", "agent_type": "aggregator", "config": {"complete_after": 1}},
    ],
    "edges": [
        {"from_node": "ingress", "to_node": "worker", "message_type": "work", "conditions": {"expr": "body.ready"}},
        {"from_node": "worker", "to_node": "reviewer", "message_type": "executor_result"},
    ],
}


def write_bundle(folder: Path) -> None:
    (folder / "payloads").mkdir()
    (folder / "payloads" / "input.txt").write_text("text")
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))


def interpreter(program: str, *arguments: str) -> float:
    """Return the seconds of a new interpreter that runs *program*. Bytecode is cached, as for an installed package."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program, *arguments]
    return harness.seconds(lambda: subprocess.run(command, cwd=harness.ROOT, env=env, check=True))


def rows(size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder))
        sides = (lambda: interpreter(OURS, folder), lambda: interpreter(BARE))
        harness.alternate(1, *sides)  # compiles the modules and fills the page cache
        ours, bare = (1000 * harness.median(side) for side in harness.alternate(size.starts, *sides))
    figures = {"MirrorNeuron": ours, PEER: bare}
    yield Row("import, and validate a small bundle", "ms", figures, (at_most(GOAL, PEER),))
