"""The crash test itself: whom it finds to kill."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorneuron.chaos import victims
from mirrorneuron.chaos.graphs import MARK
from mirrorneuron.chaos.schedule import Kind
from mirrorneuron.chaos.stage import NODES, Stage, raised
from mirrorneuron.cli.chaos import NODE
from mirrorneuron.client import Client
from tests.chaos.conftest import Ground
from tests.jobs.graphs import agent, manifest, until_there
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    ground = Ground(tmp_path_factory.mktemp("driver"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(ground.folder))
        with raised(NODE) as made:
            yield made
    assert ground.left() == []


MODULE = """
from pathlib import Path
import os, time
from mirrorneuron import Agent

class It(Agent):
    def handle(self, message, context):
        Path(context.config["folder"], "module").write_text(str(os.getpid()))
        while not Path(context.config["folder"], "gate").exists():
            time.sleep(0.02)
"""


def test_there_is_somebody_of_every_kind_to_kill(stage: Stage, tmp_path: Path):
    """A command and a module run on the nodes; each is found, with those above it, and none is taken for another."""
    script = f"echo $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/command; {until_there(tmp_path / 'gate')}"
    command = agent("command", "executor", command=["sh", "-c", script, MARK])
    module = agent("module", "module", module="agent:It", module_source="agent.py", folder=str(tmp_path))
    (tmp_path / "bundle" / "payloads").mkdir(parents=True)
    (tmp_path / "bundle" / "payloads" / "agent.py").write_text(MODULE)
    graph = manifest([command, module], entrypoints=["command", "module"])
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(graph))
    client = Client(stage.settings)
    job_id = client.run_manifest(tmp_path / "bundle")
    wait_until(lambda: all((tmp_path / name).exists() for name in ("command", "module")))

    def found(kind: Kind) -> list[str]:
        return [victim.name for victim in victims.on_nodes(kind, stage)]

    assert found(Kind.NODE) == ["node one", "node two"]
    assert sorted(found(Kind.WORKER)) == [f"worker {pool}@{name}" for pool in ("default", "light") for name in NODES]
    assert found(Kind.COMMAND) == [f"command {(tmp_path / 'command').read_text().strip()}"]
    assert found(Kind.MODULE) == [f"module {(tmp_path / 'module').read_text()}"]
    assert len(found(Kind.CHILD)) == 2, "only those at work"
    (tmp_path / "gate").touch()
    client.cancel(job_id)
    client.cleanup_jobs(all=True)
