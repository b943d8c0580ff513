"""The supervisor of a runtime node: runs one Celery worker for light agents and one for each pool, and restarts them.

Single-threaded on purpose: on Linux a worker is killed when the *thread* that started it ends, so the main thread must
start all of them. The supervisor sleeps until a worker ends or writes to stderr, a signal comes, or a restart is due.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from mirrorneuron.errors import SettingsError
from mirrorneuron.limits import wait_until_s
from mirrorneuron.pools import LIGHT
from mirrorneuron.processes.groups import kill_group
from mirrorneuron.processes.parent_death import die_with
from mirrorneuron.processes.reaper import reap_orphans
from mirrorneuron.text import signal_name

logger = logging.getLogger(__name__)

#: Started by its path, this file makes sure that `workers` is this package, whatever else the import path holds.
PROGRAM = Path(__file__).absolute().parents[1] / "__main__.py"

BACKOFF_S = 0.2  #: before the first restart; doubles with each one
BACKOFF_MAX_S = 10.0
SETTLED_S = 60.0  #: after a worker has run this long, its next restart waits for BACKOFF_S again
AT_ONCE_S = 30.0  #: only an end within this time of the start can be a hopeless one
HOPELESS_TRIES = 5  #: hopeless ends in a row after which the supervisor gives up
KILLED_S = 10.0  #: how long the supervisor waits for a killed worker to vanish
TAIL_LINES = 20
EVENTS_S = 10  #: between two heartbeats of Celery, which only Flower reads; `node.registration` has our own
PIPE_BYTES = 65_536  #: the capacity of a pipe: one read takes all that an ended worker left in it

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  #: the signals that stop the node

#: Hopeless ends, which a restart cannot fix: wrong arguments, failed imports, invalid settings. After any other end the
#: worker is restarted without limit, above all while the store or broker is unreachable.
USAGE_CODES = frozenset({2, 64})
HOPELESS_WORDS = re.compile(
    rb"^([\w.]*(ModuleNotFound|Import|Syntax|Indentation|Settings)Error\b|\S+: No module named )"
)


@dataclass(frozen=True)
class WorkerSpec:
    """One worker process to run."""

    name: str  #: for log lines, unique in a node: "light" or the pool
    argv: tuple[str, ...]


def plan_workers(
    node_name: str,
    pools: Mapping[str, int],
    *,
    queue_of: Callable[[str], str],
    light: bool = True,
    level: str = "INFO",
) -> list[WorkerSpec]:
    """Return the workers of the node *node_name*: the light worker, then one for each of *pools* (name -> slots).

    *queue_of* returns the queue of a pool; "light" is the pool of the light agents. Raises SettingsError if *pools*
    has a pool of that name.
    """
    if LIGHT in pools:
        raise SettingsError(f"MIRROR_NEURON_EXECUTOR_POOL_CAPACITIES: the pool name {LIGHT!r} is reserved")

    def spec(name: str, *pool: str) -> WorkerSpec:
        # Celery expands %h and the like in node names.
        host = f"{name}@{node_name}".replace("%", "%%")
        celery = (sys.executable, "-P", str(PROGRAM), "celery", "-A", "workers", "worker")
        quiet = ("--without-gossip", "--without-mingle", f"--heartbeat-interval={EVENTS_S}", "-E", "-l", level)
        return WorkerSpec(name, (*celery, "-Q", queue_of(name), "-n", host, *pool, *quiet))

    workers = [spec(LIGHT, "-P", "solo")] if light else []
    for name, slots in pools.items():
        workers.append(spec(name, "-P", "prefork", "-c", str(slots), "--prefetch-multiplier", "1"))
    return workers


@dataclass
class _Worker:
    """A spec and the state of its process."""

    spec: WorkerSpec
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  #: monotonic
    due_at: float = 0.0  #: monotonic; when to start the child, while there is none
    backoff_s: float = field(default_factory=lambda: BACKOFF_S)  #: before the next restart
    hopeless: int = 0  #: hopeless ends in a row so far
    tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))  #: last stderr of the child
    rest: bytes = b""  #: an unfinished line of stderr


def run(specs: Sequence[WorkerSpec], *, stop_grace_s: float = 30, env: Mapping[str, str] | None = None) -> int:
    """Run *specs* until TERM, INT or HUP (returns 0) or until a worker is hopeless (returns its exit code). Blocks.

    The first signal stops the workers gracefully: each gets TERM and has *stop_grace_s* to finish its runs. A second
    signal, or the end of the grace, kills the workers with their process groups. Call this in the main thread.
    """
    with _signals() as (wakeup, received), selectors.DefaultSelector() as selector:
        selector.register(wakeup, selectors.EVENT_READ)
        fleet = _Fleet([_Worker(spec) for spec in specs], env, selector, wakeup, received)
        try:
            code = fleet.keep_alive()
            fleet.stop(stop_grace_s)
        finally:
            fleet.kill()  # also after an exception: no worker may outlive the supervisor
        return code


@dataclass
class _Fleet:
    workers: list[_Worker]
    env: Mapping[str, str] | None
    selector: selectors.BaseSelector
    wakeup: socket.socket  #: readable once a signal has come
    received: list[int]  #: the TERM, INT and HUP signals so far

    def keep_alive(self) -> int:
        """Start workers when they are due, until a signal (returns 0) or a hopeless worker (returns its code)."""
        while not self.received:
            for worker in self.workers:
                code = self._look_after(worker)
                if code:
                    return code
            due = [worker.due_at for worker in self.workers if worker.child is None]
            self._sleep_until(min(due, default=None))
        return 0

    def stop(self, grace_s: float) -> None:
        """Send TERM to all workers; wait until they have ended, the grace is over, or another signal comes."""
        signals, deadline = len(self.received), time.monotonic() + grace_s
        for worker in self._running():
            _send(worker, signal.SIGTERM)
        while self._running() and time.monotonic() < deadline and len(self.received) == signals:
            self._sleep_until(deadline)

    def kill(self) -> None:
        """Kill the workers that still run, with their process groups."""
        for worker in self._running():
            logger.warning("worker %s did not stop in time: killed", worker.spec.name)
            _kill_group(worker)
        deadline = time.monotonic() + KILLED_S
        while self._running() and time.monotonic() < deadline:
            self._sleep_until(deadline)

    def _running(self) -> list[_Worker]:
        """Reap the ended workers; return the running ones."""
        for worker in self.workers:
            if worker.child and worker.child.poll() is not None:
                self._reap(worker)
        return [worker for worker in self.workers if worker.child]

    def _look_after(self, worker: _Worker) -> int:
        """Start a worker that is due; reap an ended one and schedule its restart. Return the code of a hopeless end."""
        if worker.child is None:
            if time.monotonic() >= worker.due_at:
                self._start(worker)
            return 0
        code = worker.child.poll()
        if code is None:
            return 0
        self._reap(worker)
        lived_s = time.monotonic() - worker.started_at
        worker.hopeless = worker.hopeless + 1 if lived_s < AT_ONCE_S and _is_hopeless(code, worker.tail) else 0
        if worker.hopeless >= HOPELESS_TRIES:
            words = b"\n".join(worker.tail).decode(errors="replace")
            logger.error(
                "worker %s %s %d times in a row:\n%s", worker.spec.name, _how_it_ended(code), HOPELESS_TRIES, words
            )
            return code
        self._postpone(worker, f"{_how_it_ended(code)} after {lived_s:.1f} s", settled=lived_s >= SETTLED_S)
        return 0

    def _postpone(self, worker: _Worker, why: str, *, settled: bool = False) -> None:
        wait_s = BACKOFF_S if settled else worker.backoff_s
        worker.backoff_s = min(2 * wait_s, BACKOFF_MAX_S)
        worker.due_at = time.monotonic() + wait_s
        logger.warning("worker %s %s; restarting in %.1f s", worker.spec.name, why, wait_s)

    def _start(self, worker: _Worker) -> None:
        worker.tail.clear()
        worker.rest = b""
        worker.started_at = time.monotonic()
        try:
            worker.child = _spawn(worker.spec, self.env)
        except OSError as error:  # out of memory or processes: may be temporary
            self._postpone(worker, f"could not be started ({error})")
            return
        assert worker.child.stderr is not None
        os.set_blocking(worker.child.stderr.fileno(), False)
        self.selector.register(worker.child.stderr, selectors.EVENT_READ, worker)
        logger.info("worker %s started (pid %d)", worker.spec.name, worker.child.pid)

    def _reap(self, worker: _Worker) -> None:
        """Forget an ended child, and kill the rest of its process group (pool processes of a killed worker)."""
        assert worker.child is not None
        _kill_group(worker)
        self._read_stderr(worker)
        if worker.rest:
            worker.tail.append(worker.rest)
        self._close_pipe(worker)
        worker.child = None

    def _close_pipe(self, worker: _Worker) -> None:
        pipe = worker.child.stderr if worker.child else None
        if pipe and not pipe.closed:
            self.selector.unregister(pipe)
            pipe.close()

    def _read_stderr(self, worker: _Worker) -> None:
        """Copy the child's stderr to our own, and keep its last lines."""
        pipe = worker.child.stderr if worker.child else None
        if pipe is None or pipe.closed:
            return
        chunk = pipe.read(PIPE_BYTES)
        if chunk == b"":
            self._close_pipe(worker)
        elif chunk:
            with suppress(OSError, ValueError):  # our own stderr may be closed: the workers run on
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
            *lines, rest = (worker.rest + chunk).split(b"\n")
            worker.tail.extend(lines)
            worker.rest = rest[-PIPE_BYTES:]

    def _sleep_until(self, moment: float | None) -> None:
        """Sleep until the monotonic *moment*, a signal (also SIGCHLD: a child has ended), or output of a worker;
        an hour at most."""
        for key, _ in self.selector.select(wait_until_s(moment)):
            if key.data is None:
                with suppress(BlockingIOError):
                    while self.wakeup.recv(4096):
                        pass
            else:
                self._read_stderr(key.data)
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """As process 1 of a container: reap what commands have left behind. Exit codes of workers are not lost."""
        children = [worker.child for worker in self.workers if worker.child]
        for child in children:
            child.poll()
        reap_orphans([child.pid for child in children])


@contextmanager
def _signals() -> Iterator[tuple[socket.socket, list[int]]]:
    """Yield a socket that is readable after TERM, INT, HUP or CHLD, and the list of the first three that came.

    A signal that is ignored stays ignored: nohup ignores HUP, and a shell's `&` may ignore INT.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    handlers: dict[int, Callable[[int, FrameType | None], None]]
    handlers = {signal.SIGCHLD: lambda _number, _frame: None}
    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:
            handlers[ending] = note
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    old_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # `mn worker` blocks ENDING until there are these handlers; the starter of the node may have blocked any signal.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield reader, received
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _spawn(spec: WorkerSpec, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()
    return subprocess.Popen(
        spec.argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,  # select does not see bytes that a buffer has already read from the pipe
        process_group=0,  # Ctrl-C in the terminal reaches only the supervisor; a kill reaches the pool processes too
        preexec_fn=lambda: die_with(supervisor),  # safe: there is no other thread
    )


def _send(worker: _Worker, number: signal.Signals) -> None:
    if worker.child:
        worker.child.send_signal(number)


def _kill_group(worker: _Worker) -> None:
    if worker.child:
        kill_group(worker.child.pid)


def _is_hopeless(code: int, tail: Sequence[bytes]) -> bool:
    return code in USAGE_CODES or (code > 0 and any(HOPELESS_WORDS.match(line) for line in tail))


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by signal {signal_name(-code)}"
    return f"exited with code {code}"
