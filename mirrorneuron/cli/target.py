"""Find the runtime that a command uses, or start an embedded server.

In this order: the server that MIRROR_NEURON_REDIS_URL names; the embedded server of MIRROR_NEURON_HOME, if that is
set; a server at the default address; the embedded server of the default home. Only `run` and `up` start one.
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
MN: Final = (
    sys.executable,
    "-P",
    "-m",
    "mirrorneuron.cli",
)  # -P: the working folder may contain another package `workers`


@dataclass(frozen=True, slots=True)
class Place:
    """A runtime: its settings, and whether its server is the embedded one."""

    settings: Settings
    embedded: bool = False
    started: bool = False  #: this command has started the embedded server

    def client(self) -> Client:
        return Client(self.settings)

    def environment(self) -> Mapping[str, str]:
        """Return the environment for a child process that uses the same runtime, in whatever folder it runs."""
        settings = self.settings
        broker = {f"{PREFIX}BROKER_URL": settings.broker_url} if settings.broker_url else {}
        return {
            **os.environ,
            f"{PREFIX}REDIS_URL": settings.redis_url,
            **broker,
            f"{PREFIX}TEMP_DIR": str(settings.temp_dir),
            **_absolute_paths(),
        }


def _absolute_paths() -> dict[str, str]:
    """The variables of the environment that hold paths relative to the working folder, with absolute ones.

    An empty entry of PYTHONPATH is the working folder. `~` at the beginning of the home stays.
    """
    found = {}
    if folders := os.environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders.split(os.pathsep)))
    home = os.environ.get(HOME_VARIABLE)
    if home and not home.startswith("~"):
        found[HOME_VARIABLE] = os.path.abspath(home)
    return found


def client() -> Client:
    """Return a client of the runtime that `find` finds. Raises RuntimeUnavailable."""
    return find().client()


def find() -> Place:
    """Return the runtime; start nothing. Raises RuntimeUnavailable when none is configured and none answers."""
    place = _external()
    with usable_home():
        if place is None and (url := embedded.find()):
            place = _embedded(url)
    if place is None:
        raise RuntimeUnavailable(
            _not_found_text(), hint=f"start one with `mn up` or `mn run FOLDER`, or set {PREFIX}REDIS_URL"
        )
    return place


def plan_of(client: Client, job_id: str) -> Plan:
    """Return the plan of a job. Raises what `Client.job_manifest` raises."""
    return make_plan(client.job_manifest(job_id))


def find_or_start() -> Place:
    """Return the runtime; if there is none, start an embedded server. Raises RuntimeUnavailable."""
    if place := _external():
        return place
    with usable_home():
        server = embedded.start()
    return _embedded(server.url, started=server.started)


def ensure_node(place: Place) -> bool:
    """Start a detached node for the embedded server unless a recorded node runs; return True if it was started."""
    with usable_home():
        before = embedded.start().node_pid
        return embedded.ensure_node((*MN, "worker"), env=place.environment()) != before


@contextmanager
def usable_home() -> Iterator[None]:
    """Raise a SettingsError when the folder of the embedded server cannot be read or written."""
    try:
        yield
    except MirrorNeuronError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: `~user` for an unknown user
        raise SettingsError(f"{HOME_VARIABLE}: cannot use the folder of the embedded server: {error}") from error


def _external() -> Place | None:
    """Return the server that the environment names, or the one that answers at the default address."""
    log_warnings.enable()
    settings = Settings.load()
    if "redis_url" in settings.model_fields_set:
        return Place(settings)
    if not os.environ.get(HOME_VARIABLE) and answers(settings.redis_url):
        return Place(settings)
    return None


def _embedded(url: str, *, started: bool = False) -> Place:
    return Place(Settings.load(redis_url=url), embedded=True, started=started)


def answers(url: str) -> bool:
    """Return True if a server at *url* answers and accepts our credentials."""
    with suppress(RedisError, OSError), closing(connect(url, retries=0)) as server:
        return bool(server.ping())
    return False


def _not_found_text() -> str:
    if os.environ.get(HOME_VARIABLE):
        return f"no embedded server runs in {embedded.home()}"
    return f"no server answers at {without_password(Settings.load().redis_url)}, and no embedded server runs"
