"""Checks of the runtime nodes: pools without a node, several versions, no sweeps, clocks that differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mirrorneuron.diagnostics.finding import RIGHTS, Finding, Level, RuntimeStatus, finding
from mirrorneuron.pools import LIGHT, worker_command
from mirrorneuron.text import count, shortage_hint, span

CLOCK_MS: Final = 2_000
SWEEP_MS: Final = 15_000  # several sweeps; a new node makes its first sweep within this time


def nodes(status: RuntimeStatus) -> Iterator[Finding]:
    if status.untold:
        what, why = " and ".join(status.untold), next(iter(status.untold.values()))
        yield finding("nodes", Level.WARNING, f"{what} were not told: {why}", f"allow these reads; {RIGHTS}")
        return
    serving = [node for node in status.nodes if not node["stopping"]]
    if not serving:
        level = Level.ERROR if status.live_jobs else Level.WARNING
        yield finding(
            "nodes", level, f"no node is alive; {count(status.live_jobs, 'live job')}", "start one: mn worker"
        )
        return
    hosts = len({node["host"] for node in serving})
    said = f"{count(len(serving), 'worker')} on {count(hosts, 'machine')}; {count(status.live_jobs, 'live job')}"
    yield finding("nodes", Level.OK, said)
    for node in serving:
        if ill := node.get("unhealthy"):
            text = f"{node['name']} is unhealthy: {ill['reason']}, since {ill['since']}; it takes no tasks for now"
            yield finding("nodes", Level.ERROR, text, f"{shortage_hint(ill['reason'])} on {node['host']}")
    yield from _pools(status)
    versions = {node["versions"].get("mirrorneuron", "?") for node in serving} | {status.version}
    if len(versions) > 1:
        text = f"several versions are in use: {', '.join(sorted(versions))} (here: {status.version})"
        yield finding("nodes", Level.WARNING, text, "install one version everywhere")


def _pools(status: RuntimeStatus) -> Iterator[Finding]:
    """Every job needs the light pool, live jobs those of their manifests; other jobs may need those of the settings."""
    needs = {need.pool: need for need in status.needs}
    for pool in dict.fromkeys((LIGHT, *status.pools, *needs)):
        need = needs.get(pool)
        found = [node["pools"][pool] for node in status.nodes if not node["stopping"] and pool in node["pools"]]
        if pool == LIGHT or need is None:
            if not found:
                level = Level.ERROR if pool == LIGHT else Level.WARNING
                yield finding("nodes", level, f"no node serves pool {pool!r}", f"start one: {worker_command(pool)}")
            continue
        level = Level.ERROR if need.waiting else Level.WARNING
        who = (
            f"{count(need.waiting, 'live job')} waits for it"
            if need.waiting == 1
            else f"{need.waiting} live jobs wait for it"
        )
        who = who if need.waiting else f"{count(need.jobs, 'live job')} may need it later"
        if not found:
            yield finding(
                "nodes", level, f"no node serves pool {pool!r}; {who}", f"start one: {worker_command(pool, need.slots)}"
            )
        elif (largest := max(row["slots"] for row in found)) < need.slots:
            said = f"a run needs {need.slots} slots of pool {pool!r}, but the largest node has {largest}; {who}"
            yield finding("nodes", level, said, f"start one: {worker_command(pool, need.slots)}")


def sweeps(status: RuntimeStatus) -> Iterator[Finding]:
    """Without sweeps the agents of a dead worker are never run again."""
    if not any(not node["stopping"] for node in status.nodes):
        return
    if status.swept_ms is None or status.swept_ms > SWEEP_MS:
        if status.up_ms <= SWEEP_MS:  # the first sweep is not due yet
            return
        last = "no sweep has run yet" if status.swept_ms is None else f"the last sweep was {span(status.swept_ms)} ago"
        yield finding("sweeps", Level.ERROR, f"{last}: lost work is not recovered", "see the logs of the nodes")
    else:
        yield finding("sweeps", Level.OK, "the sweeper runs")


def clock(status: RuntimeStatus) -> Iterator[Finding]:
    off = status.clock_ms
    if abs(off) > CLOCK_MS:
        said = f"the clock here is {span(abs(off))} {'ahead of' if off > 0 else 'behind'} the server's"
        hint = "synchronize the clocks (NTP): otherwise retries come early or late"
        yield finding("clock", Level.WARNING, said, hint)
