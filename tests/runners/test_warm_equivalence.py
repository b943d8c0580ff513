"""A command in a warm interpreter and in a fresh one: everything that a caller or the command itself can observe.

Each case runs twice in the same folder, and must have the same exit status, the same bytes on each stream and leave the
same files. What differs by its nature is not printed: process ids, addresses, times, the hash seed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.runners.warm_cases import CASES, HELPERS, Case
from workers.lifecycle.run_handle import RunHandle
from workers.runners.child_process import run_command
from workers.runners.warm_interpreter import WarmProcess
from workers.runners.warm_python import WarmPythons, key_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interpreters are kept warm on Linux only")

#: this environment, the interpreter that it was made from, and others that are found
PYTHONS = [sys.executable, os.path.realpath(sys.executable)]
PYTHONS += [found for name in ("python3.11", "python3.12", "python3.13") if (found := shutil.which(name))]
PYTHONS = [path for path in dict.fromkeys(PYTHONS) if key_of([path, "main.py"], {})]
#: addresses, times, and how often a traceback repeats a line: the limit is reached some levels earlier
VARIES = re.compile(r"0x[0-9a-f]{6,}|(?<=line repeated )99\d(?= more)|(?<=1 test in )[0-9.]+s|(?<=subprocess )\d+")


class Recording(WarmPythons):
    """Keeps what was started."""

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> WarmProcess | None:
        self.last = super().start(words, folder, environment)
        return self.last


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Iterator[Recording]:
    pool = Recording(tmp_path_factory.mktemp("warm"))
    yield pool
    pool.close()


def outcome(case: Case, python: str, folder: Path, warm: WarmPythons | None) -> tuple[int, str, str, dict[str, bytes]]:
    """Exit status, streams, and the files that are left, after a run in *folder*, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in (HELPERS | dict(case.files)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(path, (1_700_000_000, 1_700_000_000))  # it stands in compiled modules
    environment = {"PATH": f"{os.path.dirname(python)}:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    environment |= case.environment
    ended = run_command(
        [os.path.basename(python), *case.words],
        folder=folder,
        environment=environment,
        stray_mark=f"HOME={folder}",
        timeout_s=None,
        cap_bytes=10_000_000,
        handle=RunHandle(),
        warm=warm,
    )
    left = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    texts = [VARIES.sub("...", stream.text()) for stream in (ended.stdout, ended.stderr)]
    return ended.returncode, texts[0], texts[1], left


@pytest.mark.parametrize("python", PYTHONS, ids=range(len(PYTHONS)))
@pytest.mark.parametrize("name", CASES)
def test_a_warm_command_does_what_a_fresh_one_does(warm, tmp_path, name, python):
    case = CASES[name]
    fresh = outcome(case, python, tmp_path / "run", None)
    copied = outcome(case, python, tmp_path / "run", warm)
    reasons = warm.refused()
    assert warm.last is not None or case.words[0] == "-c" or "Python 3" in str(reasons), reasons
    assert copied == fresh
