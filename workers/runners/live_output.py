"""What running commands print, passed on to the store while they run, for `mn logs --follow`.

It never grows: of what a command prints faster than it can be passed on, the middle is left out here and counted. The
run's own record of its output (`workers.runners.output_capture`) is not touched by that. What a run has printed is
written before its commit is, so whoever sees a job's end finds all of it.
"""

from __future__ import annotations

import codecs
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Final

from mirrorneuron.store.job_store import Store
from workers.lifecycle.threads import started
from workers.runners.protocol import Echo

FLUSH_S: Final = 0.25  # between two writes
CHUNK_BYTES: Final = 16 * 1024  # of one entry
HALF_BYTES: Final = 64 * 1024  # of one stream between two writes: that many of the first, and of the last

log = logging.getLogger(__name__)


class LiveOutput:
    """Collects what the runs of this process print; a thread, which starts with the first, writes it.

    At most *kept_bytes* of a job are kept in the store; 0 turns all of this off.
    """

    def __init__(self, store: Store, kept_bytes: int) -> None:
        self._store = store
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._streams: list[_Stream] = []
        self._printed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def of(self, job_id: str, agent_id: str) -> Iterator[Echo]:
        """Take what one run prints, within the block."""
        streams: dict[str, _Stream] = {}

        def echo(name: str, chunk: bytes) -> None:
            with self._lock:
                if name not in streams:
                    streams[name] = _Stream(job_id, agent_id, name)
                    self._streams.append(streams[name])
                streams[name].add(chunk)
                if self._thread is None:
                    self._thread = started("live output", self._run)
            self._printed.set()

        try:
            yield echo if self._kept_bytes else _deaf
        finally:
            with self._lock:
                for stream in streams.values():
                    stream.over = True
            if streams:
                self.flush()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._printed.wait()
            pause.wait(FLUSH_S)
            self._printed.clear()
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last time."""
        with self._writing:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            chunks = [(stream.job_id, chunk) for stream in self._streams for chunk in stream.take()]
            self._streams = [stream for stream in self._streams if not stream.over]
        for job_id, rows in groupby(sorted(chunks, key=lambda row: row[0]), key=lambda row: row[0]):
            try:
                self._store.scripts.log(job_id, [chunk for _, chunk in rows], self._kept_bytes)
            except Exception:  # the runs go on, and their output is in their results
                log.warning("job %s: some live output was not written and is lost", job_id, exc_info=True)


class _Stream:
    """One stream of one run, between two writes."""

    def __init__(self, job_id: str, agent_id: str, name: str) -> None:
        self.job_id = job_id
        self.over = False  #: the run has ended
        self._head = (agent_id, name)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = bytearray()
        self._last = bytearray()
        self._left_out = 0  #: bytes between the two

    def add(self, chunk: bytes) -> None:
        room = max(0, HALF_BYTES - len(self._first))
        self._first += chunk[:room]
        self._last += chunk[room:]
        if len(self._last) > 2 * HALF_BYTES:  # in big steps, so that each byte is moved once
            self._leave_out()

    def take(self) -> list[tuple[str, str, str]]:
        """What is to be written: (agent, stream, text), each of `CHUNK_BYTES` at most before decoding."""
        self._leave_out()
        texts = list(self._texts(self._first))
        if self._left_out:
            texts.append(f"\n[... {self._left_out} bytes left out of the live output ...]\n")
        texts += self._texts(self._last)
        if self.over:
            texts.append(self._decoder.decode(b"", final=True))
        self._first.clear()
        self._last.clear()
        self._left_out = 0
        return [(*self._head, text) for text in texts if text]

    def _texts(self, what: bytearray) -> Iterator[str]:
        for at in range(0, len(what), CHUNK_BYTES):
            yield self._decoder.decode(bytes(what[at : at + CHUNK_BYTES]))

    def _leave_out(self) -> None:
        spare = max(0, len(self._last) - HALF_BYTES)
        del self._last[:spare]
        self._left_out += spare


def _deaf(_stream: str, _chunk: bytes) -> None:
    """Take nothing."""
