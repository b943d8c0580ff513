"""Fixtures of the tests of module agents."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.modules import WHO, Bundle, Handle, pid_of
from workers.modules.pool import ModulePool, ModuleResult


@pytest.fixture
def pool() -> Iterator[ModulePool]:
    pool = ModulePool()
    yield pool
    pool.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / "payloads")


@pytest.fixture
def handle(pool: ModulePool, bundle: Bundle) -> Handle:
    """Run one message through an agent whose `handle` has the given lines, then check that the pool still works."""

    def run(lines: str, body: Any = None, *, imports: str = "", **config: Any) -> ModuleResult:
        method = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
        source = f"{imports}\nclass It(Agent):\n    def handle(self, message, context):\n{method}\n"
        result = bundle.write("agent.py", source).run(pool, body, **config)
        assert pid_of(pool, bundle.write("who.py", WHO), module="who:It") > 0
        return result

    return run
