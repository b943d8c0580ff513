"""The crash test itself: what it reports as killed is dead, and its report lists the violations."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import psutil
import pytest
import redis

from mirrorneuron.api.client import Client
from mirrorneuron.chaos import clock, process_tree, victims
from mirrorneuron.chaos.blows import DELAY_S
from mirrorneuron.chaos.driver import Driver, Progress
from mirrorneuron.chaos.graphs import MARK
from mirrorneuron.chaos.invariants import Flaw
from mirrorneuron.chaos.process_tree import Seen
from mirrorneuron.chaos.schedule import WEIGHTS, Kind, plan
from mirrorneuron.chaos.stage import NODES, Stage
from mirrorneuron.processes import identity
from tests.chaos.conftest import ahead_s
from tests.support.graphs import agent, manifest, until_there
from tests.support.waiting import wait_until

JOBS = 12
SILENCING = (Kind.SERVER, Kind.FREEZE, Kind.TRAVEL)  #: the server does not answer the witness, see test_server
ANSWERING: dict[Kind, int] = {kind: weight for kind, weight in WEIGHTS.items() if kind not in SILENCING}


MODULE = """
from pathlib import Path
import os, time
from mirrorneuron import Agent

class It(Agent):
    def handle(self, message, context):
        Path(context.config["folder"], "pid-of-module").write_text(str(os.getpid()))
        Path(context.config["folder"], "pid-of-module").rename(Path(context.config["folder"], "module"))
        while not Path(context.config["folder"], "gate").exists():
            time.sleep(0.02)
"""


def test_victims_of_every_kind_are_found(stage: Stage, tmp_path: Path):
    """While a command and a module run, each is found under its kind, and so are their workers and pool processes."""
    script = f"echo $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/command; {until_there(tmp_path / 'gate')}"
    command = agent("command", "executor", command=["sh", "-c", script, MARK])
    module = agent("module", "module", module="agent:It", module_source="agent.py", folder=str(tmp_path))
    (tmp_path / "bundle" / "payloads").mkdir(parents=True)
    (tmp_path / "bundle" / "payloads" / "agent.py").write_text(MODULE)
    graph = manifest([command, module], entrypoints=["command", "module"])
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(graph))
    client = Client(stage.settings)
    try:
        client.run_manifest(tmp_path / "bundle")
        wait_until(lambda: all((tmp_path / name).exists() for name in ("command", "module")))
        check_victims(stage, tmp_path)
    finally:  # a job that is left would count in the other tests on this stage
        (tmp_path / "gate").touch()
        client.cleanup_jobs(all=True)


def check_victims(stage: Stage, tmp_path: Path) -> None:
    def found(kind: Kind) -> list[str]:
        return [victim.name for victim in victims.on_nodes(kind, stage)]

    assert found(Kind.NODE) == ["node one", "node two"]
    assert sorted(found(Kind.WORKER)) == [f"worker {pool}@{name}" for pool in ("default", "light") for name in NODES]
    assert found(Kind.COMMAND) == [f"command {(tmp_path / 'command').read_text().strip()}"]
    assert found(Kind.MODULE) == [f"module {(tmp_path / 'module').read_text()}"]
    assert len(found(Kind.CHILD)) == 2, "only the busy ones"
    assert sorted(found(Kind.HANG)) == sorted(found(Kind.WORKER) + found(Kind.CHILD))


@pytest.mark.parametrize(("at_work", "found"), [([], [2, 3, 5, 6]), ([2], [2]), ([2, 3], [2, 3]), ([3, 5], [3, 5])])
def test_idle_pool_processes_are_victims_only_if_none_is_busy_on_any_node(at_work: list[int], found: list[int]):
    workers = [Seen(pid, 0, pid, 1, f"celery worker -n default@{pid}") for pid in (1, 4)]
    children = [Seen(pid, parent, parent, 2, "celery") for parent, pid in ((1, 2), (1, 3), (4, 5), (4, 6))]
    commands = [Seen(10 + pid, pid, 10 + pid, 3, f"sh -c true {MARK}") for pid in at_work]
    assert [victim.pid for victim in victims._pool_children([*workers, *children, *commands])] == found


class Witness:
    """Checks that every reported blow has happened."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.saw: list[str] = []
        self.stepped_s = 0.0

    def pids(self) -> list[int]:
        return [seen.pid for node in self.stage.nodes if node.alive for seen in process_tree.beneath(node.pid)]

    def look(self, _progress: Progress, /) -> None:
        pass

    def note(self, text: str, /) -> None:
        said = text.partition(" s  ")[2]
        if pid := re.match(r"killed (?:child|command|module) (\d+)", said):
            wait_until(lambda: identity.find(int(pid[1])) is None)
        elif node := re.match(r"killed node (\w+)", said):
            (actor,) = (actor for actor in self.stage.nodes if actor.name == node[1])
            assert not actor.alive
        elif worker := re.match(r"killed worker (\w+)@(\w+)", said):
            (actor,) = (actor for actor in self.stage.nodes if actor.name == worker[2])
            wait_until(lambda: f"worker {worker[1]} was ended by signal SIGKILL" in actor.log.read_text())
        elif said.startswith("stopped "):
            assert any(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in self.pids())
        elif slowed := re.match(r"slowed [1-9].* of node (\w+)", said):
            port = self.stage.networks[NODES.index(slowed[1])].port
            began = time.monotonic()
            redis.Redis.from_url(self.stage.server.url_at(port)).ping()
            assert time.monotonic() - began >= 2 * DELAY_S
        elif stepped := re.match(r"set the clock of the server by (\S+) s", said):
            self.stepped_s += float(stepped[1])
            assert ahead_s(self.stage.server.url) == pytest.approx(self.stepped_s, abs=60)
        elif said.startswith("let the server refuse writes"):
            with pytest.raises(redis.ResponseError):
                redis.Redis.from_url(self.stage.server.url).set("witness", 1)
        elif node := re.match(r"let the pool worker of node (\w+) open no files", said):
            (actor,) = (actor for actor in self.stage.nodes if actor.name == node[1])
            most = psutil.Process(actor.pid).rlimit(psutil.RLIMIT_NOFILE)
            assert any(psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) < most for pid in self.pids())
        elif re.match(r"made [1-9].* half-open|cut the next replies", said):
            pass  # see test_network
        elif lost := re.match(r"lost an announcement of job (\S+),", said):
            assert self.stage.store.read_job(lost[1])
        elif said == "killed the producer while it submitted":
            assert not self.stage.producer.alive
        else:
            return
        self.saw.append(said)


def test_reported_kills_are_real_and_violations_are_reported(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """The jobs end well. Then the keys of one of them are changed, before the report is made."""
    witness = Witness(stage)
    planned = plan(8, JOBS, 0.1, ANSWERING)
    if not clock.library():
        planned = planned.without(Kind.CLOCK)
    driver = Driver(stage, planned, witness)
    wait = driver._wait_for_the_end
    reruns: list[int] = []

    def wait_and_tamper() -> None:
        wait()
        store = stage.store
        job_id = next(job["job_id"] for job in store.jobs() if "-chain-" in job["job_id"])
        store.client.hincrby(store.keys.agent(job_id, "second"), "processed", -2)
        store.client.hset(store.keys.agent(job_id, "third"), "token", "abc")
        store.client.persist(store.keys.job(job_id))
        store.client.xadd(store.keys.events(job_id), {"t": "executor_retry", "a": "second", "p": "{}"})
        types = [event["type"] for job in store.jobs() for event in store.events(job["job_id"])]
        reruns.append(sum(types.count(rerun) for rerun in ("executor_retry", "agent_recovery_started")))

    monkeypatch.setattr(driver, "_wait_for_the_end", wait_and_tamper)
    report = driver.run()
    counts = {flaw: report.count(flaw) for flaw in Flaw if report.count(flaw)}
    assert counts == {Flaw.LOST: 2, Flaw.CLAIMED: 1, Flaw.LEAKED: 1}, report.violations
    assert report.reruns == reruns[0] > 0
    assert report.kills[Kind.FEED] == 1
    assert len(list(stage.store.jobs())) == JOBS + 1
    assert len(witness.saw) == report.kills.total() > 0
    assert report.kills.total() + report.missed == len(planned.strikes)
