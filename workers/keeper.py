"""Renews the claims that a worker process holds while their runs go on, and ends runs whose claim is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mirrorneuron.claim import JobRef, Word
from mirrorneuron.connection import AWAY
from mirrorneuron.scripts import Scripts
from workers.runners import RunHandle

log = logging.getLogger(__name__)

REASONS = {
    Word.STALE: "the claim was lost",
    Word.ENDED: "the job has ended",
    Word.MISSING: "the job is gone",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """One token's claims, and what to end when they are lost."""

    job: JobRef
    token: str
    agents: tuple[str, ...]
    handle: RunHandle | None


class Keeper:
    """One thread for all claims of a process; it starts with the first claim and renews every *interval_s*.

    User code never runs in this process, so nothing can keep the thread from its work.
    """

    def __init__(self, scripts: Scripts, interval_s: float) -> None:
        self._scripts = scripts
        self._interval_s = interval_s
        self._holdings: dict[str, Holding] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(
        self, job: JobRef, token: str, agents: Sequence[str], handle: RunHandle | None = None
    ) -> Iterator[None]:
        """Keep these claims alive within the block."""
        with self._lock:
            self._holdings[token] = Holding(job, token, tuple(agents), handle)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._holdings.pop(token, None)

    def _run(self) -> None:
        wait = threading.Event().wait
        while not wait(self._interval_s):
            self.tick()

    def tick(self) -> None:
        """Renew everything once."""
        with self._lock:
            holdings = list(self._holdings.values())
        for holding in holdings:
            try:
                word = self._scripts.renew(holding.job, holding.token, holding.agents)
            except AWAY as error:  # the claim stays ours until it is refused: try again next time
                log.warning("job %s: the claim could not be renewed: %s", holding.job.job_id, error)
                continue
            except Exception:
                log.exception("job %s: the claim could not be renewed", holding.job.job_id)
                continue
            if word is not Word.RENEWED and holding.handle is not None:
                holding.handle.kill(REASONS.get(word, str(word)))
