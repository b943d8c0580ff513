"""Write the output of running commands to the store while they run, for `mn logs --follow`.

Memory is bounded: when a command prints faster than the store takes it, the middle is left out here and counted. The
output in a run's result (`workers.runners.output_capture`) is not affected. A run's live output is written before its
commit, so a client that sees the job's end finds all of it.
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
from workers.runners.output_capture import HeadAndTail
from workers.runners.protocol import Echo

WRITE_EVERY_S: Final = 0.25  # between two writes
CHUNK_BYTES: Final = 16 * 1024  # of one entry
HALF_BYTES: Final = 64 * 1024  # kept of one stream between two writes: this many of the first bytes, and of the last

log = logging.getLogger(__name__)


class LiveOutput:
    """Collects the output of this process's runs. A thread, started with the first output, writes it to the store.

    The store keeps at most *kept_bytes* per job; 0 turns live output off.
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
        """Yield the function that takes the output of one run. The output is written before the block ends."""
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
            yield echo if self._kept_bytes else _discard
        finally:
            with self._lock:
                for stream in streams.values():
                    stream.over = True
            if streams:
                self.write_pending()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._printed.wait()
            pause.wait(WRITE_EVERY_S)
            self._printed.clear()
            self.write_pending()

    def write_pending(self) -> None:
        """Write what was collected since the last write."""
        with self._writing:
            self._write_chunks()

    def _write_chunks(self) -> None:
        with self._lock:
            chunks = [(stream.job_id, chunk) for stream in self._streams for chunk in stream.take()]
            self._streams = [stream for stream in self._streams if not stream.over]
        for job_id, rows in groupby(sorted(chunks, key=lambda row: row[0]), key=lambda row: row[0]):
            try:
                self._store.scripts.log(job_id, [chunk for _, chunk in rows], self._kept_bytes)
            except Exception:  # the runs continue, and their results hold the output too
                log.warning("job %s: some live output was not written and is lost", job_id, exc_info=True)


class _Stream:
    """One stream of one run, between two writes."""

    def __init__(self, job_id: str, agent_id: str, name: str) -> None:
        self.job_id = job_id
        self.over = False  #: the run has ended
        self._agent_and_name = (agent_id, name)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept = HeadAndTail(HALF_BYTES, HALF_BYTES)

    def add(self, chunk: bytes) -> None:
        self._kept.add(chunk)

    def take(self) -> list[tuple[str, str, str]]:
        """Return what is to be written, and forget it: (agent, stream, text), each at most `CHUNK_BYTES` undecoded."""
        kept, self._kept = self._kept, HeadAndTail(HALF_BYTES, HALF_BYTES)
        kept.trim()
        texts = list(self._texts(kept.head))
        if kept.dropped:
            texts.append(f"\n[... {kept.dropped} bytes left out of the live output ...]\n")
        texts += self._texts(kept.tail)
        if self.over:
            texts.append(self._decoder.decode(b"", final=True))
        return [(*self._agent_and_name, text) for text in texts if text]

    def _texts(self, data: bytearray) -> Iterator[str]:
        for at in range(0, len(data), CHUNK_BYTES):
            yield self._decoder.decode(bytes(data[at : at + CHUNK_BYTES]))


def _discard(_stream: str, _chunk: bytes) -> None:
    """Take the output of a run when live output is off."""
