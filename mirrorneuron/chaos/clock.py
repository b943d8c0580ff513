"""The clock of the server, which the test sets while the server runs: the library libfaketime stands in front of it.

The product does not ship the library. `pip install libfaketime` has it for Linux on x86-64, and distributions have a
package of the same name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

MISSING: Final = "libfaketime is not there (pip install libfaketime)"
IN_WHEEL: Final = "vendor/libfaketime/src/libfaketime.so.1"
IN_SYSTEM: Final = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib*/faketime/libfaketime.so.1")
PROBE: Final = (sys.executable, "-I", "-S", "-c", "import time; print(time.time())")
PROBE_S: Final = -1_000_000  #: the step of the probe


class Clock:
    """The clock of one server, with its step in a file of *folder*. A step has an effect only if `library` is found."""

    def __init__(self, folder: Path) -> None:
        self.ahead_s = 0.0  #: of the clock of this machine; negative if it is behind
        self._file = folder / "clock"
        self._write()

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to have this clock."""
        found = library()
        return variables(found, self._file) if found else {}

    def step(self, by_s: float) -> None:
        """Set the clock forward, or back if *by_s* is negative. A server that runs has the new time at once."""
        self.ahead_s += by_s
        self._write()

    def _write(self) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{self.ahead_s:+.3f}")
        draft.replace(self._file)  # the server reads the file at each look at its clock


def variables(found: Path, file: Path) -> dict[str, str]:
    """Return the environment in which the library *found* adds the seconds in *file* to the time of day."""
    return {
        "LD_PRELOAD": " ".join(filter(None, (str(found), os.environ.get("LD_PRELOAD")))),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",  # the name in versions before 0.9.8
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


@cache
def library() -> Path | None:
    """Return the path of a libfaketime that works on this machine; None if there is none."""
    return next(filter(_works, _candidates()), None) if sys.platform == "linux" else None


def _candidates() -> Iterator[Path]:
    spec = find_spec("libfaketime")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder) / IN_WHEEL
    for pattern in IN_SYSTEM:
        yield from sorted(Path("/").glob(pattern))


def _works(found: Path) -> bool:
    """Does the library load, and change the clock? The wheel brings code for one kind of machine only."""
    if not found.is_file():
        return False
    environment = {**os.environ, **variables(found, Path(os.devnull)), "FAKETIME": f"{PROBE_S:+d}"}
    del environment["FAKETIME_TIMESTAMP_FILE"]
    said = subprocess.run(PROBE, env=environment, capture_output=True, text=True, check=False).stdout
    return bool(said.strip()) and abs(float(said) - time.time() - PROBE_S) < -PROBE_S / 2
