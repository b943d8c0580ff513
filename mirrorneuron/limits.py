"""Limits and switches that several modules share, and that must not load the settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, overload

MOST: Final = 10**12  #: upper bound of every integer setting: 31 years in ms, 1 TB in bytes
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
MAX_NODES: Final = 100_000  #: of one manifest
MAX_EDGES: Final = 1_000_000
LONGEST_WAIT_S: Final = 3600.0  #: `poll` and epoll take a C int of milliseconds, 24.8 days at most
ALLOW_UNSANDBOXED: Final = "MIRROR_NEURON_ALLOW_UNSANDBOXED"
_TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})  # the words that Settings reads as true


def unsandboxed_allowed(environ: Mapping[str, str]) -> bool:
    """The setting `allow_unsandboxed` in *environ*, for validation, which does not load the other settings."""
    return environ.get(ALLOW_UNSANDBOXED, "").lower() in _TRUE


@overload
def wait_until_s(due: float) -> float: ...


@overload
def wait_until_s(due: None) -> None: ...


@overload
def wait_until_s(due: float | None) -> float | None: ...


def wait_until_s(due: float | None) -> float | None:
    """Return how long one call may wait for the monotonic moment *due*: at most LONGEST_WAIT_S, never negative.

    None (no deadline) stays None. The caller must loop until *due*: the wait may end before it.
    """
    return None if due is None else min(max(0.0, due - time.monotonic()), LONGEST_WAIT_S)


#: of a job's metadata, as JSON: it is read with each row of a list
MAX_METADATA_BYTES: Final = 16 * 1024
