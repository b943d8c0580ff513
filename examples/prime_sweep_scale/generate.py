"""Write a prime sweep of any width: a dispatcher, one executor for each range, a collector and a summary.

python examples/prime_sweep_scale/generate.py --workers 1000 --limit 1000000 --out /tmp/sweep

With the default width and limit the result is the manifest in this file's folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKERS = 40
LIMIT = 100_000

Node = dict[str, Any]
Edge = dict[str, Any]


def executor(node_id: str, script: str, **config: Any) -> Node:
    """Return an executor that runs one script of `payloads/` and emits only what its answer on stdout lists."""
    return {
        "node_id": node_id,
        "agent_type": "executor",
        "config": {
            "runner_module": "host_local",
            # -I -S: no site packages and no user settings, so Python starts in half the time.
            "command": ["python3", "-I", "-S", f"/sandbox/job/{script}"],
            "uploads": [{"source": script, "target": script}],
            "output_message_type": None,
            **config,
        },
    }


def edge(from_node: str, to_node: str, message_type: str) -> Edge:
    return {"from_node": from_node, "to_node": to_node, "message_type": message_type}


def build(workers: int = WORKERS, limit: int = LIMIT) -> dict[str, Any]:
    """Return a manifest that counts the primes below *limit* in *workers* ranges."""
    names = [f"range_{number:0{len(str(workers))}d}" for number in range(1, workers + 1)]
    bounds = [limit * number // workers for number in range(workers + 1)]
    dispatcher = {"node_id": "dispatcher", "agent_type": "router", "role": "root_coordinator"}
    dispatcher["config"] = {"emit_type": "check_range"}
    collector = {"node_id": "collector", "agent_type": "aggregator"}
    collector["config"] = {"complete_after": workers, "output_message_type": "ranges_checked"}
    ranges = [
        executor(name, "check_range.py", environment={"START": str(start), "END": str(end)})
        for name, start, end in zip(names, bounds[:-1], bounds[1:], strict=True)
    ]
    return {
        "manifest_version": "1.0",
        "graph_id": "prime_sweep_scale",
        "job_name": f"Primes below {limit} in {workers} ranges",
        "entrypoints": ["dispatcher"],
        "initial_inputs": {"dispatcher": {"limit": limit}},
        "nodes": [dispatcher, *ranges, collector, executor("summary", "add_up.py")],
        "edges": [
            *(edge("dispatcher", name, "check_range") for name in names),
            *(edge(name, "collector", "range_checked") for name in names),
            edge("collector", "summary", "ranges_checked"),
        ],
    }


def render(manifest: dict[str, Any]) -> str:
    """Return JSON with one node or edge on each line, so that a thousand of them stay readable."""
    fields = []
    for name, value in manifest.items():
        text = json.dumps(value)
        if name in ("nodes", "edges"):
            text = "[\n    " + ",\n    ".join(json.dumps(item) for item in value) + "\n  ]"
        fields.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def write(out: Path, workers: int, limit: int) -> None:
    """Write a bundle to *out*: the manifest and a copy of the payloads."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").write_text(render(build(workers, limit)), encoding="utf-8")
    if out.resolve() != HERE:
        shutil.copytree(HERE / "payloads", out / "payloads", dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a prime sweep bundle of any width.")
    parser.add_argument("--workers", type=int, default=WORKERS, help="number of executors (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=LIMIT, help="count below this (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    args = parser.parse_args()
    if args.workers < 1 or args.limit < args.workers:
        parser.error("--workers must be at least 1 and --limit at least --workers")
    write(args.out, args.workers, args.limit)
    print(f"{args.out}: {args.workers} ranges below {args.limit}")


if __name__ == "__main__":
    main()
