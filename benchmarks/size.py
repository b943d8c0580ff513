"""How much work a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Counts of one run. The goals are for FULL; QUICK only shows that everything works."""

    rounds: int  #: turns of each side; a figure is the median of its turns
    serial: int  #: chains in a row, for the latency
    burst: int  #: chains at once, for the rate
    fan: int  #: width of the narrow fan
    wide: int  #: width of the wide fan
    commands: int
    waits: int  #: terminal waits in a row
    submissions: int
    live_jobs: int  #: that need nothing, while the node is watched
    waiters: int  #: waits at a time in one process
    watch_s: float  #: how long an idle node is watched
    routers: tuple[int, int, int]  #: widths of the fans of routers: two are compared, the third is the widest allowed
    starts: int  #: new interpreters, for the time to import
    kills: int  #: of each kind of worker, for the recovery
    leases_ms: tuple[int, ...]  #: leases of claims, for the recovery


FULL = Size(
    rounds=5,
    serial=40,
    burst=200,
    fan=100,
    wide=1_000,
    commands=40,
    waits=500,
    submissions=300,
    live_jobs=20_000,
    waiters=1_000,
    watch_s=10,
    routers=(1_000, 10_000, 99_998),
    starts=15,
    kills=3,
    leases_ms=(6_000, 2_000),
)
QUICK = Size(
    rounds=1,
    serial=3,
    burst=6,
    fan=3,
    wide=6,
    commands=3,
    waits=20,
    submissions=5,
    live_jobs=20,
    waiters=20,
    watch_s=1,
    routers=(10, 20, 30),
    starts=1,
    kills=1,
    leases_ms=(1_000,),
)
