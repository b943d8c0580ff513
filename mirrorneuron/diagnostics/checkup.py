"""Derive from the status of a runtime whether it can run jobs reliably: findings, each with what to do. Pure.

The checks cover the silent failures of a job system on Redis: a server that does not persist, evicts keys or refuses
writes, pools that no node serves, workers of several versions, clocks that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypedDict

from mirrorneuron.job import NodeInfo
from mirrorneuron.pools import LIGHT
from mirrorneuron.text import count, size, span

OLDEST_SERVER: Final = (6, 2)
SLOW_MS: Final = 20.0  # for one round trip: each run of an agent takes several
FULL: Final = 0.9  # share of maxmemory from which the server counts as full
CLOCK_MS: Final = 2_000
SWEEP_MS: Final = 15_000  # several sweeps; a new node makes its first sweep within this time
REFUSALS: Final = (  # words of a refusal, in lower case, and what to do
    ("used memory", "raise maxmemory, or delete ended jobs: mn job cleanup"),
    ("misconf", "it cannot write to its disk: free space there"),
    ("read only", "it is a replica: set MIRROR_NEURON_REDIS_URL to the primary, or to a sentinel:// URL"),
    ("permission", "the user's ACL must allow scripts, and all keys and channels of the namespace"),
)


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  #: works now, but may fail later
    ERROR = "error"  #: jobs are stuck, or may be lost


class Finding(TypedDict):
    """A result of one check."""

    check: str  #: the name of the check
    level: str  #: a Level
    message: str  #: one line
    hint: str  #: what to do; "" if nothing


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """The input of a checkup."""

    url: str = ""  #: URL of the job store, without the password
    error: str = ""  #: why the store cannot be read; then nothing below is known
    error_hint: str = ""  #: what to do about the error
    info: Mapping[str, Any] = field(default_factory=dict)  #: reply of INFO
    saves: str | None = None  #: the server's `save` rule; None if it is not readable
    refusal: str = ""  #: the error reply to a write by a script; "" if it succeeded
    latency_ms: float = 0.0  #: median round trip
    clock_ms: int = 0  #: how far this machine's clock is ahead of the server's
    broker: str = ""  #: URL of the broker, without the password; "" if it is the store's server
    broker_error: str = ""
    version: str = ""  #: of this installation
    pools: Sequence[str] = ()  #: named by this process's settings
    nodes: Sequence[NodeInfo] = ()
    swept_ms: int | None = None  #: since the last sweep; None if there was none
    up_ms: int = 0  #: since the oldest node started
    live_jobs: int = 0


Check: TypeAlias = Callable[[RuntimeStatus], Iterator[Finding]]


def findings(runtime_status: RuntimeStatus) -> list[Finding]:
    """Return the findings of all checks, in the order in which to fix them."""
    if runtime_status.error:
        hint = runtime_status.error_hint or "see the log of the server"
        return [_finding("store", Level.ERROR, runtime_status.error, hint)]
    return [found for check in CHECKS for found in check(runtime_status)]


def worst(found: Sequence[Finding]) -> Level:
    """The most severe level of *found*."""
    return max((Level(each["level"]) for each in found), key=list(Level).index, default=Level.OK)


def _finding(check: str, level: Level, message: str, hint: str = "") -> Finding:
    return Finding(check=check, level=level, message=message, hint=hint)


def _store(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    info = runtime_status.info
    name = str(info.get("server_name", "redis")).capitalize()
    version = str(info.get(f"{name.lower()}_version", info.get("redis_version", "")))
    said = f"{name} {version} at {runtime_status.url} answers in {runtime_status.latency_ms:.1f} ms"
    known = tuple(int(part) for part in str(info.get("redis_version", "")).split(".")[:2] if part.isdecimal())
    if known and known < OLDEST_SERVER:
        yield _finding("store", Level.ERROR, said, "update the server: version 6.2 or later is required")
    elif runtime_status.latency_ms > SLOW_MS:
        yield _finding(
            "store",
            Level.WARNING,
            said,
            "run the nodes near the server: each run of an agent takes several round trips",
        )
    else:
        yield _finding("store", Level.OK, said)


def _writes(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    if runtime_status.refusal:
        yield _finding(
            "writes",
            Level.ERROR,
            f"the server refuses a write: {runtime_status.refusal}",
            _what_to_do(runtime_status.refusal),
        )


def _what_to_do(refusal: str) -> str:
    return next((advice for words, advice in REFUSALS if words in refusal.lower()), "see the log of the server")


def _disk(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    """A restart of the server loses what is not on disk."""
    info = runtime_status.info
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield _finding(
            "disk", Level.ERROR, "the server could not write to its disk", "free space there; see the log of the server"
        )
    elif info.get("aof_enabled"):
        yield _finding("disk", Level.OK, "commits are written to an append-only file")
    elif runtime_status.saves == "":
        said = "nothing is written to disk: all jobs are lost when the server ends"
        yield _finding("disk", Level.WARNING, said, "start the server with `--appendonly yes`")
    else:
        rule = f" (save {runtime_status.saves})" if runtime_status.saves else ""
        said = f"only snapshots are written to disk{rule}: a crash of the server loses what came after the last one"
        yield _finding("disk", Level.WARNING, said, "start the server with `--appendonly yes`")


def _memory(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    used, most = int(runtime_status.info.get("used_memory", 0)), int(runtime_status.info.get("maxmemory", 0))
    policy = str(runtime_status.info.get("maxmemory_policy", "noeviction"))
    if not most:
        yield _finding("memory", Level.OK, f"the server uses {size(used)}; maxmemory is not set")
        return
    said = f"the server uses {size(used)} of {size(most)}"
    if policy != "noeviction":
        text = f"{said}, and evicts keys when it is full ({policy}), also those of jobs"
        yield _finding("memory", Level.ERROR, text, "set maxmemory-policy to noeviction")
    elif used > FULL * most:
        hint = "raise maxmemory, or delete ended jobs: mn job cleanup"
        yield _finding("memory", Level.WARNING, f"{said}: it will soon refuse writes", hint)
    else:
        yield _finding("memory", Level.OK, said)


def _broker(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    if runtime_status.broker_error:
        hint = "start the broker, or set MIRROR_NEURON_BROKER_URL; jobs continue when it is back"
        yield _finding("broker", Level.ERROR, runtime_status.broker_error, hint)
    else:
        said = f"{runtime_status.broker} answers" if runtime_status.broker else "the store's server answers as broker"
        yield _finding("broker", Level.OK, said)


def _nodes(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    serving = [node for node in runtime_status.nodes if not node["stopping"]]
    if not serving:
        level = Level.ERROR if runtime_status.live_jobs else Level.WARNING
        yield _finding(
            "nodes", level, f"no node is alive; {count(runtime_status.live_jobs, 'live job')}", "start one: mn worker"
        )
        return
    hosts = len({node["host"] for node in serving})
    said = (
        f"{count(len(serving), 'worker')} on {count(hosts, 'machine')}; {count(runtime_status.live_jobs, 'live job')}"
    )
    yield _finding("nodes", Level.OK, said)
    served = {pool for node in serving for pool in node["pools"]}
    for pool in (LIGHT, *runtime_status.pools):
        if pool not in served:
            # Every job needs the light pool. Whether it needs another one depends on its manifest.
            level = Level.ERROR if pool == LIGHT else Level.WARNING
            hint = "start one: mn worker" + ("" if pool == LIGHT else f" --pool {pool}")
            yield _finding("nodes", level, f"no node serves pool {pool!r}", hint)
    versions = {node["versions"].get("mirrorneuron", "?") for node in serving} | {runtime_status.version}
    if len(versions) > 1:
        text = f"several versions are in use: {', '.join(sorted(versions))} (here: {runtime_status.version})"
        yield _finding("nodes", Level.WARNING, text, "install one version everywhere")


def _sweeps(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    """Without sweeps the agents of a dead worker are never run again."""
    if not any(not node["stopping"] for node in runtime_status.nodes):
        return
    if runtime_status.swept_ms is None or runtime_status.swept_ms > SWEEP_MS:
        if runtime_status.up_ms <= SWEEP_MS:  # the first sweep is not due yet
            return
        swept_ms = runtime_status.swept_ms
        last = "no sweep has run yet" if swept_ms is None else f"the last sweep was {span(swept_ms)} ago"
        yield _finding("sweeps", Level.ERROR, f"{last}: lost work is not recovered", "see the logs of the nodes")
    else:
        yield _finding("sweeps", Level.OK, "the sweeper runs")


def _clock(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    off = runtime_status.clock_ms
    if abs(off) > CLOCK_MS:
        said = f"the clock here is {span(abs(off))} {'ahead of' if off > 0 else 'behind'} the server's"
        yield _finding(
            "clock", Level.WARNING, said, "synchronize the clocks (NTP): otherwise retries come early or late"
        )


CHECKS: Final[tuple[Check, ...]] = (_store, _writes, _disk, _memory, _broker, _nodes, _sweeps, _clock)
