"""What tests of the crash test share: what it may leave behind, which is nothing."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest


class Ground:
    """The folder beneath which a crash test has its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_NEURON_")}
        self.env["TMPDIR"] = str(folder)

    def left(self) -> list[str]:
        """Folders and processes that are there still."""
        return [str(path) for path in self.folder.iterdir()] + [str(pid) for pid in self._processes()]

    def _processes(self) -> list[int]:
        """Every process of a stage has its folder in its environment, in its words or as its working folder."""
        sought, found = os.fsencode(self.folder / "mn-chaos-"), []
        for entry in Path("/proc").glob("[1-9]*"):
            with suppress(OSError):
                told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if sought in told + os.fsencode(os.readlink(entry / "cwd")):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)
