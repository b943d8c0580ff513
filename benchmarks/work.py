"""The work that all sides do: it is the same function for the tasks of the peers and for our module agents."""

from __future__ import annotations

import subprocess
from typing import Any

STEPS = 3  # of the chain
COMMAND = ("python3", "-c", "print(sum(range(1000)))")
PRINTED = "499500\n"


def body(job: int) -> dict[str, Any]:
    """The input of one job. No two jobs have the same."""
    return {"n": job, "query": "How do lighthouses tell sailors which one they are?", "max_sources": 3}


def step(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "n": value["n"] + 1}


def run_command(_value: dict[str, Any]) -> str:
    return subprocess.run(COMMAND, capture_output=True, text=True, check=True).stdout


def check(found: object, wanted: object) -> None:
    """Every result is checked: a side that is fast because it did not do the work would be of no use."""
    if found != wanted:
        raise AssertionError(f"a job returned {found!r} instead of {wanted!r}")
