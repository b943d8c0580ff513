"""Can a runtime keep what jobs are promised? From what is known of it to findings, each with what to do. Pure.

What is looked at are the ways in which a job system on Redis goes wrong in silence: a server that keeps nothing or
throws keys away, one that takes no writes, pools that nobody serves, workers of several versions, clocks that differ.
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
SLOW_MS: Final = 20.0  # for one round trip: each run of an agent takes a few
FULL: Final = 0.9  # of the memory that the server may use
CLOCK_MS: Final = 2_000
SWEEP_MS: Final = 15_000  # some sweeps; a node that has just started makes its first one within this
REFUSALS: Final = (  # what a server says that takes no write, in lower case, and what to do
    ("used memory", "give it more memory (maxmemory), or delete jobs that have ended: mn job cleanup"),
    ("misconf", "it cannot write to its disk: make room there"),
    ("read only", "it is a replica: name the primary in MIRROR_NEURON_REDIS_URL, or Sentinels that know it"),
    ("permission", "its ACL must allow scripts, and all keys and channels of the namespace"),
)


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  #: works, and will not always
    ERROR = "error"  #: jobs are stuck or lost


class Finding(TypedDict):
    """What came of one check."""

    check: str  #: what was looked at, in a word
    level: str  #: a Level
    message: str  #: one line
    hint: str  #: what to do; "" where nothing is to be done


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """All that a checkup rests on."""

    url: str = ""  #: of the job store, without its password
    error: str = ""  #: why the store cannot be asked; nothing below is known then
    error_hint: str = ""  #: what to do about the error
    info: Mapping[str, Any] = field(default_factory=dict)  #: the server's INFO
    saves: str | None = None  #: its snapshot rule; None where it does not tell
    refusal: str = ""  #: what it answers to a write and a script, if not that they are done
    latency_ms: float = 0.0  #: of one round trip
    clock_ms: int = 0  #: by which this machine's clock is ahead of the server's
    broker: str = ""  #: its URL without its password; "" where it is the store's server
    broker_error: str = ""
    version: str = ""  #: of this package here
    pools: Sequence[str] = ()  #: that the settings here name
    nodes: Sequence[NodeInfo] = ()
    swept_ms: int | None = None  #: since the last sweep; None where there was none
    up_ms: int = 0  #: since the first of the nodes has started
    live_jobs: int = 0


Check: TypeAlias = Callable[[RuntimeStatus], Iterator[Finding]]


def findings(runtime_status: RuntimeStatus) -> list[Finding]:
    """What all checks say, in the order in which one would mend things."""
    if runtime_status.error:
        hint = runtime_status.error_hint or "see the log of the server"
        return [_finding("store", Level.ERROR, runtime_status.error, hint)]
    return [found for check in CHECKS for found in check(runtime_status)]


def worst(found: Sequence[Finding]) -> Level:
    """The level of the gravest finding."""
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
        yield _finding("store", Level.ERROR, said, "update the server: its scripts need version 6.2 or later")
    elif runtime_status.latency_ms > SLOW_MS:
        yield _finding(
            "store", Level.WARNING, said, "have nodes near the server: each run of an agent asks it some times"
        )
    else:
        yield _finding("store", Level.OK, said)


def _writes(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    if runtime_status.refusal:
        yield _finding(
            "writes", Level.ERROR, f"the server refuses: {runtime_status.refusal}", _what_to_do(runtime_status.refusal)
        )


def _what_to_do(refusal: str) -> str:
    return next((advice for words, advice in REFUSALS if words in refusal.lower()), "see the log of the server")


def _disk(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    """A server that is restarted forgets what it has not written."""
    info = runtime_status.info
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield _finding("disk", Level.ERROR, "the server could not write to its disk", "make room there; see its log")
    elif info.get("aof_enabled"):
        yield _finding("disk", Level.OK, "what is committed is written to an append-only file")
    elif runtime_status.saves == "":
        said = "nothing is written to disk: jobs end with the server"
        yield _finding("disk", Level.WARNING, said, "start it with `--appendonly yes`")
    else:
        rule = f" (save {runtime_status.saves})" if runtime_status.saves else ""
        said = f"only snapshots are written to disk{rule}: a server that dies loses what came after the last"
        yield _finding("disk", Level.WARNING, said, "start it with `--appendonly yes`")


def _memory(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    used, most = int(runtime_status.info.get("used_memory", 0)), int(runtime_status.info.get("maxmemory", 0))
    policy = str(runtime_status.info.get("maxmemory_policy", "noeviction"))
    if not most:
        yield _finding("memory", Level.OK, f"the server uses {size(used)}, and has no limit")
        return
    said = f"the server uses {size(used)} of {size(most)}"
    if policy != "noeviction":
        told = f"{said}, and throws keys away when it is full ({policy}): those of jobs too"
        yield _finding("memory", Level.ERROR, told, "set maxmemory-policy to noeviction")
    elif used > FULL * most:
        hint = "give it more (maxmemory), or delete jobs that have ended: mn job cleanup"
        yield _finding("memory", Level.WARNING, f"{said}: it soon takes no more", hint)
    else:
        yield _finding("memory", Level.OK, said)


def _broker(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    if runtime_status.broker_error:
        hint = "start it, or set MIRROR_NEURON_BROKER_URL; jobs continue when it is back"
        yield _finding("broker", Level.ERROR, runtime_status.broker_error, hint)
    else:
        said = f"{runtime_status.broker} answers" if runtime_status.broker else "the store's server"
        yield _finding("broker", Level.OK, said)


def _nodes(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    serving = [node for node in runtime_status.nodes if not node["stopping"]]
    if not serving:
        level = Level.ERROR if runtime_status.live_jobs else Level.WARNING
        yield _finding(
            "nodes", level, f"no node is there; {count(runtime_status.live_jobs, 'job')} live", "start one: mn worker"
        )
        return
    hosts = len({node["host"] for node in serving})
    said = (
        f"{count(len(serving), 'worker')} on {count(hosts, 'machine')}; {count(runtime_status.live_jobs, 'job')} live"
    )
    yield _finding("nodes", Level.OK, said)
    served = {pool for node in serving for pool in node["pools"]}
    for pool in (LIGHT, *runtime_status.pools):
        if pool not in served:
            # The light pool opens every job. What the others are needed for depends on the jobs.
            level = Level.ERROR if pool == LIGHT else Level.WARNING
            hint = "start one: mn worker" + ("" if pool == LIGHT else f" --pool {pool}")
            yield _finding("nodes", level, f"no node serves pool {pool!r}", hint)
    versions = {node["versions"].get("mirrorneuron", "?") for node in serving} | {runtime_status.version}
    if len(versions) > 1:
        told = f"several versions are in use: {', '.join(sorted(versions))} (here: {runtime_status.version})"
        yield _finding("nodes", Level.WARNING, told, "have one version everywhere")


def _sweeps(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    """Without a sweeper nothing of a dead worker is taken up."""
    if not any(not node["stopping"] for node in runtime_status.nodes):
        return
    if runtime_status.swept_ms is None or runtime_status.swept_ms > SWEEP_MS:
        if runtime_status.up_ms <= SWEEP_MS:  # the first sweep is still to come
            return
        since = "never" if runtime_status.swept_ms is None else f"{span(runtime_status.swept_ms)} ago"
        yield _finding(
            "sweeps", Level.ERROR, f"the last sweep was {since}: nothing is recovered", "see the nodes' logs"
        )
    else:
        yield _finding("sweeps", Level.OK, "a node looks after lost work")


def _clock(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    off = runtime_status.clock_ms
    if abs(off) > CLOCK_MS:
        said = f"the clock here is {span(abs(off))} {'ahead of' if off > 0 else 'behind'} the server's"
        yield _finding("clock", Level.WARNING, said, "keep clocks in step (NTP): retries come early or late otherwise")


CHECKS: Final[tuple[Check, ...]] = (_store, _writes, _disk, _memory, _broker, _nodes, _sweeps, _clock)
