"""Checks of the store's server: a server that does not persist, evicts keys, or refuses what jobs need.

What the server did not tell, because an ACL or a managed server forbids INFO or CONFIG, is a warning and not a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mirrorneuron.diagnostics.finding import RIGHTS, Finding, Level, RuntimeStatus, finding
from mirrorneuron.store.rights import Role
from mirrorneuron.text import count, size, span

OLDEST_SERVER: Final = (6, 2)
SLOW_MS: Final = 20.0  # for one round trip: each run of an agent takes several
FULL: Final = 0.9  # share of maxmemory from which the server counts as full
CROWDED: Final = 0.8  # share of maxclients
ENOUGH_JOBS: Final = 50  # kept jobs from which the memory of one is estimated
SOON_MS: Final = 30 * 86_400_000  # until the memory is full, if jobs are kept for ever
HOUR_S: Final = 3_600
SHOWN: Final = 12  # refusals in one line
OTHERS: Final = (
    "dragonfly",
    "kvrocks",
    "garnet",
    "keydb",
)  # servers that only speak the protocol: `NAME_version` in INFO
REFUSALS: Final = (  # words of a refusal, in lower case, and what to do
    ("used memory", "raise maxmemory, or delete ended jobs: mn job cleanup"),
    ("misconf", "it cannot write to its disk: free space there"),
    ("read only", "it is a replica: set MIRROR_NEURON_REDIS_URL to the primary, or to a sentinel:// URL"),
    ("permission", f"the user's ACL must allow scripts, and all keys and channels of the namespace; {RIGHTS}"),
)


def store(status: RuntimeStatus) -> Iterator[Finding]:
    info = status.info
    if not info:
        said = f"the server at {status.url} answers in {status.latency_ms:.1f} ms; its version was not told"
        yield finding("store", Level.WARNING, f"{said} (INFO is refused)", f"allow INFO; {RIGHTS}")
        return
    name = str(info.get("server_name", "redis")).capitalize()
    version = str(info.get(f"{name.lower()}_version", info.get("redis_version", "")))
    other = next((name for name in OTHERS if f"{name}_version" in info), None)
    if other:
        name, version = other.capitalize(), str(info[f"{other}_version"])
    said = f"{name} {version} at {status.url} answers in {status.latency_ms:.1f} ms"
    known = tuple(int(part) for part in str(info.get("redis_version", "")).split(".")[:2] if part.isdecimal())
    if known and known < OLDEST_SERVER:
        yield finding("store", Level.ERROR, said, "update the server: version 6.2 or later is required")
    elif other:
        hint = "use Redis or Valkey: this server is not tested"
        if other == "dragonfly":
            hint += "; scripts need its flag --default_lua_flags=allow-undeclared-keys"
        yield finding("store", Level.WARNING, said, hint)
    elif status.latency_ms > SLOW_MS:
        hint = "run the nodes near the server: each run of an agent takes several round trips"
        yield finding("store", Level.WARNING, said, hint)
    else:
        yield finding("store", Level.OK, said)


def cluster(status: RuntimeStatus) -> Iterator[Finding]:
    """Celery's queues and the reads over several jobs need one server that holds all keys."""
    if status.cluster or status.info.get("cluster_enabled") or status.info.get("redis_mode") == "cluster":
        said = "the server is in cluster mode, which is not supported" + (
            f": {status.cluster}" if status.cluster else ""
        )
        yield finding(
            "cluster", Level.ERROR, said, "use one server (cluster-enabled no), with Sentinel if you need failover"
        )


def writes(status: RuntimeStatus) -> Iterator[Finding]:
    if status.refusal:
        said = f"the server refuses a write: {status.refusal}"
        advice = next(
            (advice for words, advice in REFUSALS if words in status.refusal.lower()), "see the log of the server"
        )
        yield finding("writes", Level.ERROR, said, advice)


def rights(status: RuntimeStatus) -> Iterator[Finding]:
    if status.refusals is None:
        return
    if not status.refusals:
        yield finding("rights", Level.OK, f"user {status.user!r} may do what a {status.role} needs")
        return
    more = f" and {len(status.refusals) - SHOWN} more" if len(status.refusals) > SHOWN else ""
    said = f"user {status.user!r} may not use what a {status.role} needs: {', '.join(status.refusals[:SHOWN])}{more}"
    roles = " or ".join(role for role in Role if role is not status.role)
    hint = f"allow it in the user's ACL; {RIGHTS}; for the user of a {roles}: mn doctor --role"
    yield finding("rights", Level.ERROR, said, hint)


def disk(status: RuntimeStatus) -> Iterator[Finding]:
    """A restart of the server loses what is not on disk."""
    info = status.info
    advice = "start the server with `--appendonly yes`"
    if not info:
        said = "whether jobs are written to disk was not told (INFO is refused)"
        yield finding("disk", Level.WARNING, said, f"check that `appendonly` is `yes`, or allow INFO; {RIGHTS}")
    elif info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        said = "the server could not write to its disk"
        yield finding("disk", Level.ERROR, said, "free space there; see the log of the server")
    elif info.get("aof_enabled"):
        yield finding("disk", Level.OK, "commits are written to an append-only file")
    elif "aof_enabled" not in info:
        yield finding(
            "disk", Level.WARNING, "whether jobs are written to disk was not told", "check the server's persistence"
        )
    elif status.saves == "":
        said = "nothing is written to disk: all jobs are lost when the server ends"
        yield finding("disk", Level.WARNING, said, advice)
    elif status.saves is None:
        said = (
            "there is no append-only file; whether snapshots are written to disk was not told (CONFIG GET is refused)"
        )
        yield finding("disk", Level.WARNING, said, advice)
    else:
        said = f"only snapshots are written to disk (save {status.saves})"
        said += ": a crash of the server loses what came after the last one"
        yield finding("disk", Level.WARNING, said, advice)


def memory(status: RuntimeStatus) -> Iterator[Finding]:
    info = status.info
    if "used_memory" not in info or "maxmemory" not in info:
        said = "memory in use, its limit and the eviction policy were not told" + ("" if info else " (INFO is refused)")
        hint = "check that maxmemory-policy is noeviction, or allow INFO; "
        yield finding("memory", Level.WARNING, said, hint + RIGHTS)
        return
    used, most = int(info["used_memory"]), int(info["maxmemory"])
    policy = str(info.get("maxmemory_policy", ""))
    if not most:
        yield finding("memory", Level.OK, f"the server uses {size(used)}; maxmemory is not set")
        return
    said = f"the server uses {size(used)} of {size(most)}"
    if not policy:
        yield finding(
            "memory", Level.WARNING, f"{said}; its eviction policy was not told", "check that it is noeviction"
        )
    elif policy != "noeviction":
        text = f"{said}, and evicts keys when it is full ({policy}), also those of jobs"
        yield finding("memory", Level.ERROR, text, "set maxmemory-policy to noeviction")
    elif used > FULL * most:
        hint = "raise maxmemory, or delete ended jobs: mn job cleanup"
        yield finding("memory", Level.WARNING, f"{said}: it will soon refuse writes", hint)
    else:
        yield finding("memory", Level.OK, said)


def retention(status: RuntimeStatus) -> Iterator[Finding]:
    """The memory of the jobs that will be kept at once, if as many are submitted each hour as in the last one."""
    info = status.info
    limit = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    empty = int(info.get("used_memory_startup", 0))
    if not limit or "used_memory" not in info or status.kept_jobs < ENOUGH_JOBS or not status.recent_jobs:
        return
    each = (int(info["used_memory"]) - empty) / status.kept_jobs
    rate = f"at the present rate ({count(status.recent_jobs, 'job')} in the last hour, {size(round(each))} each)"
    cleanup = "delete ended jobs regularly: mn job cleanup --older-than 1h"
    if not status.retention_s:
        left_ms = round(1000 * HOUR_S * (limit - int(info["used_memory"])) / (each * status.recent_jobs))
        said = f"{rate} the server's {size(limit)} are full in {span(left_ms)}: ended jobs are kept for ever"
        soon = left_ms < SOON_MS
        yield finding(
            "retention",
            Level.WARNING if soon else Level.OK,
            said,
            f"set MIRROR_NEURON_RETENTION_SECONDS, or {cleanup}" if soon else "",
        )
        return
    needed = round(empty + each * status.recent_jobs * max(1.0, status.retention_s / HOUR_S))
    said = f"{rate} the jobs of {span(1000 * status.retention_s)} need {size(needed)}, of the server's {size(limit)}"
    full = needed > FULL * limit
    hint = f"lower MIRROR_NEURON_RETENTION_SECONDS, raise maxmemory, or {cleanup}" if full else ""
    yield finding("retention", Level.WARNING if full else Level.OK, said, hint)


def connections(status: RuntimeStatus) -> Iterator[Finding]:
    used, most = int(status.info.get("connected_clients", 0)), int(status.info.get("maxclients", 0))
    if most and used > CROWDED * most:
        said = f"{used} of {count(most, 'connection')} are in use: new nodes and clients will soon be refused"
        yield finding("connections", Level.WARNING, said, "raise maxclients on the server")


def replicas(status: RuntimeStatus) -> Iterator[Finding]:
    """Replication is asynchronous: without `min-replicas-to-write` a cut-off primary accepts ends that are lost."""
    info = status.info
    replicated = int(info.get("connected_slaves", 0)) > 0 or status.url.startswith("sentinel://")
    if not replicated:
        return
    if not info:
        said = "whether `min-replicas-to-write` is set was not told (INFO is refused)"
    elif "min_slaves_good_slaves" in info:  # the server reports it only if the setting is in effect
        return
    else:
        said = "the server has replicas but no `min-replicas-to-write`: a failover loses jobs, also ended ones"
    yield finding(
        "replicas", Level.WARNING, said, "set min-replicas-to-write 1 and min-replicas-max-lag on each server"
    )
