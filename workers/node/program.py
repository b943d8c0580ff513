"""The program that `mn worker` executes in its own process: the supervisor of one runtime node."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from mirrorneuron.pools import queue
from mirrorneuron.processes.standard_streams import open_missing
from mirrorneuron.text import printable
from workers.node import supervisor

USAGE: Final = 2  #: exit code: a worker cannot be started
BUG: Final = 70  #: exit code: an exception that no code expects


def main(words: Sequence[str]) -> int:
    """Run the node that *words* describe until a signal ends it; return the exit code of `mn worker`."""
    open_missing()
    logging.lastResort = _LogLines(logging.WARNING)
    node = _parser().parse_args(words)
    pools = dict(map(_pool_slots, node.pool))
    specs = supervisor.plan_workers(
        node.name, pools, queue_of=functools.partial(queue, node.namespace), level=node.log_level
    )
    try:
        code = supervisor.run(specs, stop_grace_s=node.stop_grace_seconds)
    except Exception:
        traceback.print_exc()
        return BUG
    if code:
        _print_error("a worker cannot be started, see above")
        return USAGE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mn worker", allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--pool", action="append", default=[], metavar="NAME=SLOTS")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--stop-grace-seconds", type=float, required=True)
    return parser


def _pool_slots(text: str) -> tuple[str, int]:
    name, _, slots = text.rpartition("=")
    return name, int(slots)


class _LogLines(logging.Handler):
    """Print log records to stderr as the commands of `mn` do: `mn: warning: ...`."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_error(f"{record.levelname.lower()}: {record.getMessage()}")


def _print_error(text: str) -> None:
    with suppress(OSError):  # the terminal may be closed
        for line in text.splitlines():
            print(f"mn: {printable(line)}", file=sys.stderr)
