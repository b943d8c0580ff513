"""Shared by the tests of the crash test: a server, a stage, and the check that nothing is left behind."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from mirrorneuron.chaos.server import Server
from mirrorneuron.chaos.stage import Stage, raised
from mirrorneuron.cli.commands.chaos import NODE


def ahead_s(url: str) -> float:
    """How far the clock of the server at *url* is ahead of that of this machine. (A `Store` remembers its reading.)"""
    seconds, micros = redis.Redis.from_url(url).time()
    return float(seconds + micros / 1_000_000 - time.time())


class Ground:
    """The folder in which a crash test creates its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_NEURON_")}
        self.env["TMPDIR"] = str(folder)

    def left(self) -> list[str]:
        """Return the folders and processes that a crash test has left behind."""
        return [str(path) for path in self.folder.iterdir()] + [str(pid) for pid in self._processes()]

    def _processes(self) -> list[int]:
        """Every process of a stage has the folder in its environment, its command line or its working directory."""
        sought, found = os.fsencode(self.folder / "mn-chaos-"), []
        for entry in Path("/proc").glob("[1-9]*"):
            with suppress(OSError):
                shown = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if sought in shown + os.fsencode(os.readlink(entry / "cwd")):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def stage_server(tmp_path: Path) -> Iterator[Server]:
    """A running server of the kind that a stage has. `server` is the session's own one."""
    made = Server(tmp_path, os.environ)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    ground = Ground(tmp_path_factory.mktemp("stage"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(ground.folder))
        with raised(NODE) as made:
            yield made
    assert ground.left() == []
