"""The folder of the embedded server: its state file and its lock."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes.identity import Process

IDLE_S = 600.0  #: everything stops after this time without a live job, a submission or a command
LOCK_S = 120.0  #: wait for a process that holds the lock; longer than `down` takes
POLL_S = 0.02  #: between two attempts to lock, and between two pings of a starting server


class State(BaseModel):
    """The content of `state.json`. Port and password stay after a stop: existing clients then reconnect."""

    model_config = ConfigDict(frozen=True)

    port: int
    password: str
    started_at: str  #: start of the server; ISO 8601, UTC
    server: Process | None = None
    watcher: Process | None = None
    nodes: tuple[Process, ...] = ()
    holders: tuple[Process, ...] = ()  #: the idle timeout is suspended while one of them runs

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


def home() -> Path:
    """Return the folder of the embedded server.

    `MIRROR_NEURON_HOME`, else `$XDG_DATA_HOME/mirrorneuron`, else `~/.local/share/mirrorneuron`. Not a field of
    `Settings`, because a producer or node with a configured server does not need it.
    """
    if chosen := os.environ.get("MIRROR_NEURON_HOME"):
        return Path(chosen).expanduser().absolute()
    shared = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".local" / "share") / "mirrorneuron"


@contextmanager
def changing(folder: Path, wait_s: float = LOCK_S) -> Iterator[Path]:
    """Create the folder if it is missing and hold its lock. Raises RuntimeUnavailable after *wait_s*."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        lock(
            file.fileno(),
            wait_s,
            f"another process is starting or stopping the embedded server in {folder}: try again later",
        )
        yield folder


def lock(descriptor: int, wait_s: float, error: str) -> None:
    """Lock an open file until its last descriptor is closed. Raises RuntimeUnavailable(*error*) after *wait_s*."""
    deadline = time.monotonic() + wait_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise RuntimeUnavailable(error)
        time.sleep(POLL_S)


def located(data_dir: Path | None) -> Path:
    """Return *data_dir*, or `home()`, as an absolute path: started processes have another working folder."""
    return data_dir.absolute() if data_dir else home()


def known(folder: Path) -> State:
    """Read the state. Raises RuntimeUnavailable when there is none."""
    state = read(folder)
    if state is None:
        raise RuntimeUnavailable(f"no embedded server was ever started in {folder}")
    return state


def read(folder: Path) -> State | None:
    """Read the state; return None if the file is missing or invalid."""
    try:
        return State.model_validate_json((folder / "state.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write(folder: Path, state: State) -> None:
    """Write *state*, which counts as use. The caller holds the lock."""
    write_private(folder / "state.json", state.model_dump_json(indent=1))


def write_private(path: Path, text: str) -> None:
    """Replace *path* atomically, with mode 0600: it holds the password."""
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
