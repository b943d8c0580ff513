"""Shared by the tests of the crash test: the check that it leaves nothing behind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest


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
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)
