"""`mn worker`: be a node. A small supervisor over one Celery worker for light agents and one for each pool."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from redis.exceptions import RedisError

from mirrorneuron import embedded
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import Json
from mirrorneuron.cli.target import Place
from mirrorneuron.pools import pool_problem, queue
from mirrorneuron.processes import identity
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.text import count
from workers.node import supervisor

GIVING_BACK_S: Final = 15.0  # for ending commands and committing, after the grace
PACKAGES: Final = Path(supervisor.__file__).parents[2]


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevel = Annotated[Level, typer.Option("--log-level", metavar="L", help="How much the workers log.")]


def worker(
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="Serve this pool alone; default: all that are set.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", min=1, help="Slots of that pool, or of `default`.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NODE", help="The node's name; default: that of the host.")
    ] = None,
    log_level: LogLevel = Level.INFO,
    json: Json = False,
) -> None:
    """Be a node: run what jobs need, until Ctrl-C.

    The first Ctrl-C lets running commands end. What still runs MIRROR_NEURON_STOP_GRACE_SECONDS (30) later is ended and
    given to other nodes. The second Ctrl-C kills. With --json one document says which node this is, before it starts.
    """
    place = target.find()
    pools = _pools(place.settings, pool, slots)
    node_name = name or _free_name(place.settings)
    environment = _environment(place, pools)
    queue_of = functools.partial(queue, place.settings.redis_namespace)
    specs = supervisor.plan_workers(node_name, pools, queue_of=queue_of, level=log_level.upper())
    if place.embedded:
        embedded.hold()
        if pool is None:
            embedded.adopt_node(os.getpid())
    _announce(node_name, pools, json=json)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Celery's banner would not be JSON
    os.chdir(PACKAGES)  # Celery looks for the app in the working folder first: the user's may have a `workers` too
    # A worker gives back what runs too long by itself, so that no other node has to wait for the lease to be over.
    if supervisor.run(specs, env=environment, stop_grace_s=place.settings.stop_grace_seconds + GIVING_BACK_S):
        complain("a worker cannot be started, see above")
        raise typer.Exit(Code.USAGE)


def _environment(place: Place, pools: Mapping[str, int]) -> dict[str, str]:
    """The environment of the workers."""
    settings = place.settings
    capacities = ",".join(f"{name}={slots}" for name, slots in {**settings.pools, **pools}.items())
    return {
        **place.environment(),
        f"{PREFIX}EXECUTOR_POOL_CAPACITIES": capacities,
        f"{PREFIX}TEMP_DIR": str(settings.temp_dir.absolute()),
    }


def _pools(settings: Settings, pool: str | None, slots: int | None) -> dict[str, int]:
    """Pool -> slots of this node."""
    if pool is not None:
        problem, hint = pool_problem(pool)
        if problem:
            raise typer.BadParameter(f"{pool!r} {problem} ({hint})", param_hint="--pool")
        return {pool: slots or settings.pools.get(pool, 1)}
    return {**settings.pools, **({"default": slots} if slots else {})}


def _free_name(settings: Settings) -> str:
    """The host's name, with our pid behind it where another node on this host has that name."""
    host = socket.gethostname()
    try:
        nodes = Store(settings, retries=0).registry.nodes()
    except (RedisError, OSError):
        return host  # the workers wait for a store that is away
    taken = any(
        node["name"].endswith(f"@{host}") and node["host"] == host and identity.find(node["pid"]) for node in nodes
    )
    return f"{host}-{os.getpid()}" if taken else host


def _announce(node_name: str, pools: dict[str, int], *, json: bool) -> None:
    if json:
        output.document({"node": node_name, "pid": os.getpid(), "pools": pools})
    else:
        served = ", ".join(f"{name} ({count(slots, 'slot')})" for name, slots in pools.items())
        complain(f"node {node_name} serves {served}; Ctrl-C ends it")
    sys.stdout.flush()
