"""Derive from the status of a runtime whether it can run jobs reliably: findings, each with what to do. Pure.

The checks cover the silent failures of a job system on Redis: `server_checks` and `node_checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from mirrorneuron.diagnostics import node_checks, server_checks
from mirrorneuron.diagnostics.finding import Finding, Level, RuntimeStatus, finding

Check: TypeAlias = Callable[[RuntimeStatus], Iterator[Finding]]


def findings(runtime_status: RuntimeStatus) -> list[Finding]:
    """Return the findings of all checks, in the order in which to fix them."""
    if runtime_status.error:
        hint = runtime_status.error_hint or "see the log of the server"
        return [finding("store", Level.ERROR, runtime_status.error, hint)]
    return [found for check in CHECKS for found in check(runtime_status)]


def worst(found: Sequence[Finding]) -> Level:
    """The most severe level of *found*."""
    return max((Level(each["level"]) for each in found), key=list(Level).index, default=Level.OK)


def _broker(runtime_status: RuntimeStatus) -> Iterator[Finding]:
    if runtime_status.broker_error:
        hint = "start the broker, or set MIRROR_NEURON_BROKER_URL; jobs continue when it is back"
        yield finding("broker", Level.ERROR, runtime_status.broker_error, hint)
    else:
        said = f"{runtime_status.broker} answers" if runtime_status.broker else "the store's server answers as broker"
        yield finding("broker", Level.OK, said)


CHECKS: Final[tuple[Check, ...]] = (
    *(server_checks.store, server_checks.cluster, server_checks.writes, server_checks.rights, server_checks.disk),
    *(server_checks.memory, server_checks.retention, server_checks.connections, server_checks.replicas),
    *(_broker, node_checks.nodes, node_checks.sweeps, node_checks.clock),
)
