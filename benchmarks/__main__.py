"""Run the benchmarks, one after the other: `python -m benchmarks [--quick] [--json FILE] [--write-docs] [NAME ...]`.

Without names, all run except the soak, which is a program of its own (`python -m benchmarks.soak`).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import harness, page
from benchmarks.row import lines, missed
from benchmarks.size import FULL, QUICK, Size

#: modules of this package with `rows(size)`, in the order in which they run
NAMES = ("compare", "cost", "node", "crowd", "scale", "import_time", "recovery")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and workers are ended
    failed: list[str] = []
    if options.from_json:
        measured = json.loads(options.from_json.read_text("utf-8"))
    else:
        measured, failed = run(options.names or NAMES, QUICK if options.quick else FULL)
    if options.json:
        options.json.write_text(json.dumps(_merged(options.json, measured), indent=1) + "\n", "utf-8")
    if options.write_docs:
        page.RESULTS.write_text(json.dumps(_merged(page.RESULTS, measured), indent=1) + "\n", "utf-8")
        page.write()
    misses = sum(missed(found["rows"]) for found in measured.values())
    print(f"goals missed: {misses}", *(f"failed: {name}" for name in failed), sep="\n")
    return int(bool(failed) or (options.strict and misses > 0))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts, to see that it works; the figures say nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows; other benchmarks in FILE are kept")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="from_json", help="measure nothing; take FILE")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md and the table of README.md")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))} (choose from {', '.join(NAMES)})")
    if options.quick and options.write_docs:
        parser.error("--write-docs needs the figures of a full run")
    return options


def run(names: tuple[str, ...], size: Size) -> tuple[dict[str, Any], list[str]]:
    """Run the benchmarks *names* and print their rows. Returns what was measured, and which of them failed."""
    measured: dict[str, Any] = {}
    failed = []
    for name in names:
        print(f"==> {name}", flush=True)
        measured[name] = {"machine": harness.facts(), "rows": []}
        try:
            for row in _rows(name, size):
                measured[name]["rows"].append(row)
                print(*lines(row), sep="\n", flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return measured, failed


def _rows(name: str, size: Size) -> Iterator[dict[str, Any]]:
    for row in import_module(f"benchmarks.{name}").rows(size):
        yield row.json()


def _merged(file: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What *file* holds, with the benchmarks that were measured now in place of the older ones."""
    kept: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        kept = json.loads(file.read_text("utf-8"))
    both = {**kept, **measured}
    return {name: both[name] for name in NAMES if name in both}


if __name__ == "__main__":
    sys.exit(main())
