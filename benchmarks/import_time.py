"""The time to import the package and validate a small bundle, compared with `import pydantic` alone.

    python -m benchmarks.import_time [--rounds 15]

Each sample includes the start of a new interpreter. Prints medians and their ratio, and exits with 1 if the goal is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness

GOAL = 2.5
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder))
        sides = (lambda: interpreter(BARE), lambda: interpreter(OURS, folder))
        harness.alternate(1, *sides)  # compiles the modules and fills the page cache
        bare, ours = map(harness.median, harness.alternate(rounds, *sides))
    ratio = ours / bare
    print(f"{'import pydantic':<40} {bare * 1000:9.1f} ms")
    print(f"{'import mirrorneuron, validate a bundle':<40} {ours * 1000:9.1f} ms")
    print(f"{'ratio':<40} {ratio:9.2f}  (goal: at most {GOAL}: {'met' if ratio <= GOAL else 'MISSED'})")
    return int(ratio > GOAL)


if __name__ == "__main__":
    sys.exit(main())
