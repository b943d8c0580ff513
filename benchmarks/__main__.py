"""Run all benchmarks except the soak, one after the other: `python -m benchmarks [--strict] [NAME ...]`."""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = ("import_time", "vs_celery", "scale", "recovery")


def main() -> int:
    """Each benchmark runs in a new process, so that none starts with modules that another has imported."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a benchmark fails or misses its goal")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))} (choose from {', '.join(NAMES)})")
    failed = []
    for name in options.names or NAMES:
        print(f"==> {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed or missed a goal: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
