"""`mn worker`: run a runtime node, one Celery worker for light agents and one for each pool."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from redis.exceptions import RedisError

import mirrorneuron
from mirrorneuron import embedded
from mirrorneuron.cli import output, signals, target
from mirrorneuron.cli.exits import complain
from mirrorneuron.cli.options import Json
from mirrorneuron.cli.target import Place
from mirrorneuron.errors import MirrorNeuronError
from mirrorneuron.pools import pool_problem
from mirrorneuron.processes import identity
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.text import count

GIVE_BACK_S: Final = 15.0  # for ending commands and committing, after the grace
PACKAGES: Final = Path(mirrorneuron.__file__).absolute().parents[1]  # the folder that holds `workers` too
PROGRAM: Final = PACKAGES / "workers" / "__main__.py"
MARK: Final = '__distribution__ = "mirrorneuron"'  # a line of the files that `_check_program` reads


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevel = Annotated[Level, typer.Option("--log-level", metavar="L", help="Log level of the workers.")]


def worker(
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="Serve only this pool; default: all configured pools.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", min=1, help="Slots of that pool, or of `default`.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NODE", help="Name of the node; default: the host name.")
    ] = None,
    log_level: LogLevel = Level.INFO,
    json: Json = False,
) -> None:
    """Run a node: workers that run the agents of jobs, until Ctrl-C.

    After the first Ctrl-C, running commands may finish for MIRROR_NEURON_STOP_GRACE_SECONDS (30). Then they are ended,
    and other nodes run them again. The second Ctrl-C kills at once. --json prints one document with the node's name,
    pid and pools before the workers start.
    """
    place = target.find()
    pools = _pools(place.settings, pool, slots)
    node_name = name or _free_name(place.settings)
    environment = _environment(place, pools)
    _check_program(PROGRAM)
    if place.embedded:
        embedded.hold()
        if pool is None:
            embedded.adopt_node(os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)  # until the supervisor can handle them
    _announce(node_name, pools, json=json)
    _become_supervisor(_arguments(node_name, pools, place.settings, log_level), environment)


def _arguments(node_name: str, pools: Mapping[str, int], settings: Settings, level: Level) -> list[str]:
    """The arguments of `workers.node.program`."""
    # A worker gives back its claims before this grace ends, so that no other node has to wait for a lease to expire.
    grace_s = settings.stop_grace_seconds + GIVE_BACK_S
    return [
        f"--name={node_name}",
        f"--namespace={settings.redis_namespace}",
        *(f"--pool={name}={slots}" for name, slots in pools.items()),
        f"--log-level={level.upper()}",
        f"--stop-grace-seconds={grace_s}",
    ]


def _become_supervisor(arguments: list[str], environment: Mapping[str, str]) -> None:
    """Replace this process, which keeps its pid, by the supervisor. Does not return.

    The supervisor is started by the path of its file: the import path may hold another package named `workers`.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Celery's banner would not be JSON
    os.chdir(PACKAGES)  # Celery searches the working folder first, and the user's may hold modules of any name
    os.execve(sys.executable, [sys.executable, "-P", str(PROGRAM), "mn", "worker", *arguments], environment)  # noqa: S606


def _check_program(program: Path) -> None:
    """Raise MirrorNeuronError if *program* or its package is missing, or is a file of another distribution."""
    for file in (program, program.with_name("__init__.py")):
        try:
            lines = file.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            problem = f"{error.strerror}; the installation of mirrorneuron is incomplete"
        else:
            if any(line.startswith(MARK) for line in lines):
                continue
            problem = "another distribution has overwritten this file of mirrorneuron"
        raise MirrorNeuronError(f"{file}: {problem}; uninstall what replaced it, then reinstall mirrorneuron")


def _environment(place: Place, pools: Mapping[str, int]) -> dict[str, str]:
    """The environment of the workers."""
    settings = place.settings
    capacities = ",".join(f"{name}={slots}" for name, slots in {**settings.pools, **pools}.items())
    return {
        **place.environment(),
        f"{PREFIX}EXECUTOR_POOL_CAPACITIES": capacities,
    }


def _pools(settings: Settings, pool: str | None, slots: int | None) -> dict[str, int]:
    """The pools that this node serves: name -> slots."""
    if pool is not None:
        problem, hint = pool_problem(pool)
        if problem:
            raise typer.BadParameter(f"{pool!r} {problem} ({hint})", param_hint="--pool")
        return {pool: slots or settings.pools.get(pool, 1)}
    return {**settings.pools, **({"default": slots} if slots else {})}


def _free_name(settings: Settings) -> str:
    """The host name; followed by this pid if a running node on this host has that name already."""
    host = socket.gethostname()
    try:
        nodes = Store(settings, retries=0).registry.nodes()
    except (RedisError, OSError):
        return host  # the workers wait until the store is reachable
    taken = any(
        node["name"].endswith(f"@{host}") and node["host"] == host and identity.find(node["pid"]) for node in nodes
    )
    return f"{host}-{os.getpid()}" if taken else host


def _announce(node_name: str, pools: dict[str, int], *, json: bool) -> None:
    if json:
        output.document({"node": node_name, "pid": os.getpid(), "pools": pools})
    else:
        served = ", ".join(f"{name} ({count(slots, 'slot')})" for name, slots in pools.items())
        complain(f"node {node_name} serves {served}; Ctrl-C stops it")
    sys.stdout.flush()
