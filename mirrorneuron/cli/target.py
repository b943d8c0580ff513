"""Which runtime a command talks to, and what is started when there is none.

In this order: the server that MIRROR_NEURON_REDIS_URL names; the embedded server of MIRROR_NEURON_HOME, if that is
set; whatever answers at the default address; the embedded server of the default home. Only `run` and `up` start one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from mirrorneuron import embedded
from mirrorneuron.api.client import Client
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.cli import log_warnings
from mirrorneuron.errors import MirrorNeuronError, RuntimeUnavailable, SettingsError
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.connection import connect
from mirrorneuron.text import without_password

HOME_VARIABLE: Final = f"{PREFIX}HOME"
MN: Final = (sys.executable, "-P", "-m", "mirrorneuron.cli")  # -P: the user's folder may have a `workers` of its own


@dataclass(frozen=True, slots=True)
class Place:
    """A runtime: where it is, and whether it is the embedded one."""

    settings: Settings
    embedded: bool = False
    started: bool = False  #: the embedded server was started just now

    def client(self) -> Client:
        return Client(self.settings)

    def environment(self) -> Mapping[str, str]:
        """The environment of a process that shall work here too."""
        return {**os.environ, f"{PREFIX}REDIS_URL": self.settings.redis_url}


def client() -> Client:
    """A client of the runtime that is there. Raises RuntimeUnavailable."""
    return find().client()


def find() -> Place:
    """The runtime that is there; starts nothing. Raises RuntimeUnavailable when none is configured and none answers."""
    place = _elsewhere()
    with usable_home():
        if place is None and (url := embedded.find()):
            place = _embedded(url)
    if place is None:
        raise RuntimeUnavailable(
            _nothing(), hint=f"start one with `mn up` or `mn run FOLDER`, or set {PREFIX}REDIS_URL"
        )
    return place


def plan_of(client: Client, job_id: str) -> Plan:
    """The plan of a job. Raises as `job_manifest` does."""
    return make_plan(client.job_manifest(job_id))


def find_or_start() -> Place:
    """The runtime that is there, or an embedded server, which is started if need be. Raises RuntimeUnavailable."""
    if place := _elsewhere():
        return place
    with usable_home():
        server = embedded.start()
    return _embedded(server.url, started=server.started)


def ensure_node(place: Place) -> bool:
    """Start a detached node on the embedded server unless one that is recorded there lives; True if it was started."""
    with usable_home():
        before = embedded.start().node_pid
        return embedded.ensure_node((*MN, "worker"), env=place.environment()) != before


@contextmanager
def usable_home() -> Iterator[None]:
    """Turn a folder of the embedded server that cannot be read or written into a SettingsError."""
    try:
        yield
    except MirrorNeuronError:
        raise
    except (OSError, RuntimeError) as error:  # the latter of a `~user` who is not there
        raise SettingsError(f"{HOME_VARIABLE}: the embedded server's folder cannot be used: {error}") from error


def _elsewhere() -> Place | None:
    """The server that the environment names, or that answers at the default address."""
    log_warnings.tell()
    settings = Settings.load()
    if "redis_url" in settings.model_fields_set:
        return Place(settings)
    if not os.environ.get(HOME_VARIABLE) and answers(settings.redis_url):
        return Place(settings)
    return None


def _embedded(url: str, *, started: bool = False) -> Place:
    return Place(Settings.load(redis_url=url), embedded=True, started=started)


def answers(url: str) -> bool:
    """Does a server answer there, and let us in?"""
    with suppress(RedisError, OSError), closing(connect(url, retries=0)) as server:
        return bool(server.ping())
    return False


def _nothing() -> str:
    if os.environ.get(HOME_VARIABLE):
        return f"no embedded server runs in {embedded.home()}"
    return f"nothing answers at {without_password(Settings.load().redis_url)} and no embedded server runs"
