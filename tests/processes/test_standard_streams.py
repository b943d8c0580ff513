"""Programs that are started without the descriptors 0, 1 and 2, as some daemonisers do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MN = f"{sys.executable} -m mirrorneuron.cli"

#: Opens the missing streams, and prints to the file argv[1] what they are and do.
OPENED = """
import os, sys
from mirrorneuron.processes.standard_streams import open_missing
open_missing()
open_missing()
told = [sys.stdin.read(), [os.get_inheritable(number) for number in range(3)], os.open("/dev/null", os.O_RDONLY)]
print("dropped", file=sys.stderr, flush=True)
try:
    print("kept", flush=True)
except OSError as error:
    told.append(error.strerror)
    os.dup2(3, 1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
open(sys.argv[1], "w").write(repr(told))
"""


def shell(line: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line, "sh", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_missing_streams_are_opened_and_inherited(tmp_path: Path):
    """stdin is empty, stderr is dropped, stdout says that it is closed; no other file gets one of their numbers."""
    out = tmp_path / "out"
    ended = shell('exec "$1" -c "$2" "$3" <&- >&- 2>&-', sys.executable, OPENED, str(out))
    assert ended.returncode == 0
    assert out.read_text() == repr(["", [True, True, True], 3, "Bad file descriptor"])


@pytest.mark.parametrize("command", ["--help", "--version", "validate examples/research_flow", "job --help"])
def test_a_command_without_stdout_exits_with_74_and_one_line(command: str):
    ended = shell(f"exec {MN} {command} >&-")
    assert (ended.returncode, ended.stderr) == (74, "mn: cannot write to stdout: Bad file descriptor\n")


def test_a_command_without_any_stream_exits_with_its_code():
    assert shell(f"exec {MN} --help <&- >&- 2>&-").returncode == 74
    assert shell(f"exec {MN} nonsense <&- >&- 2>&-").returncode == 2


def test_the_supervisor_runs_without_any_stream():
    """It ends only because its worker cannot be started."""
    program = f"{sys.executable} -P workers/__main__.py mn worker"
    ended = shell(f"exec {program} --nonsense <&- >&- 2>&-")
    assert ended.returncode == 2
