"""The input and the output of a checkup: the status of a runtime, and findings about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypedDict

from mirrorneuron.job import NodeInfo
from mirrorneuron.store.rights import Role

RIGHTS: Final = "see docs/operations.md, Least rights"  #: where hints about an ACL lead


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
class PoolNeed:
    """What the live jobs need of one pool."""

    pool: str
    jobs: int  #: with agents in the pool
    waiting: int  #: of those: with a ready agent
    slots: int = 1  #: the most that one run takes


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """The input of a checkup."""

    url: str = ""  #: URL of the job store, without the password
    error: str = ""  #: why the store cannot be read; then nothing below is known
    error_hint: str = ""  #: what to do about the error
    info: Mapping[str, Any] = field(default_factory=dict)  #: reply of INFO; empty if the server refuses it
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
    user: str = "default"  #: of the server
    role: Role = Role.NODE  #: of the user
    refusals: Sequence[str] | None = None  #: what the user may not do although the role needs it; None: not asked
    cluster: str = ""  #: the error reply of a server in cluster mode; "" if it is not
    needs: Sequence[PoolNeed] = ()  #: of the live jobs
    kept_jobs: int = 0
    recent_jobs: int = 0  #: of those: submitted in the last hour
    untold: Mapping[str, str] = field(default_factory=dict)  #: nodes, sweeps, jobs: the error reply to a read of them
    retention_s: int = 0  #: for which ended jobs are kept; 0: for ever


def finding(check: str, level: Level, message: str, hint: str = "") -> Finding:
    return Finding(check=check, level=level, message=message, hint=hint)
