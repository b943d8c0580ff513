"""What a side of a comparison can do. Each is started the way its own documents say, with two slots."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module, util
from typing import Final, Protocol

from benchmarks import harness

SLOTS: Final = 2
OURS: Final = "MirrorNeuron"
CELERY: Final = "Celery prefork"
HUEY: Final = "Huey"
DRAMATIQ: Final = "Dramatiq"
URL_VARIABLE: Final = "BENCH_URL"  #: the peers' modules read it when they are imported, here and in their workers
RESULT_S: Final = 120  #: for which a side waits for one result

#: side -> the package that must be installed, and our module that uses it
MODULES: Final[Mapping[str, tuple[str, str]]] = {
    OURS: ("mirrorneuron", "benchmarks.ours"),
    CELERY: ("celery", "benchmarks.peer_celery"),
    HUEY: ("huey", "benchmarks.peer_huey"),
    DRAMATIQ: ("dramatiq", "benchmarks.peer_dramatiq"),
}
#: Submits one job, and returns what waits for its result and checks it.
Submit = Callable[[int], Callable[[], object]]


class Side(Protocol):
    """One software with its workers. The number of a job is a part of its input."""

    pid: int  #: of the parent of the workers

    def chain(self, job: int) -> Callable[[], object]:
        """Submit three steps of Python that pass a small dict; return what waits for the result."""

    def fan(self, job: int, width: int) -> None:
        """Run one source, *width* steps of Python, and one join, to their end."""

    def command(self, job: int) -> Callable[[], object]:
        """Submit one command; return what waits for the result."""

    def ended(self, job: int) -> Callable[[], object]:
        """Run a chain to its end; return what waits for its result once more, as a new caller would."""


@contextmanager
def sides() -> Iterator[dict[str, Side]]:
    """The sides that are installed, each with its own server and workers; all of them run during the block."""
    with ExitStack() as stack:
        found: dict[str, Side] = {}
        for name, (package, module) in MODULES.items():
            if util.find_spec(package) is not None:
                url = stack.enter_context(harness.server())
                os.environ[URL_VARIABLE] = url
                found[name] = stack.enter_context(import_module(module).running(url))
        yield found
