"""Task arguments: a corrupt task raises one error or is refused; no job changes and the task does not return."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from hypothesis import example, given
from hypothesis import strategies as st
from redis.exceptions import DataError

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import DRAIN, OPEN_JOB, VISIT, make_app
from mirrorneuron.errors import MirrorNeuronError
from mirrorneuron.pools import queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef
from tests.fuzz.conftest import fuzzed, is_one_line
from tests.support.fuzzing.values import ANYTHING
from tests.support.graphs import is_alive
from tests.support.node import RealNode
from tests.support.waiting import wait_until
from workers.runtime import Runtime
from workers.visit import Start, visit

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

#: the errors that a task may raise: Celery logs one line and drops the task
REFUSED = (MirrorNeuronError, TypeError, ValueError, LookupError, AttributeError, DataError)
LONGEST_S = 30.0  # of one task; a task that hangs blocks its worker
GRAPH = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["in"],
    "nodes": [
        {"node_id": "in", "agent_type": "router"},
        {"node_id": "work", "agent_type": "executor", "config": {"command": "false", "pool": "nobody_serves_this"}},
        {"node_id": "all", "agent_type": "aggregator", "config": {"complete_after": 3}},
    ],
    "edges": [
        {"from_node": "in", "to_node": "work", "message_type": "*"},
        {"from_node": "work", "to_node": "all", "message_type": "*"},
    ],
}
HOSTILE = st.one_of(
    ANYTHING,
    st.sampled_from(
        ["x" * 100_000, "{", "}:*", "*", "../../etc/passwd", "0" * 64, 10**30, True, 1.0, "1", [["a"]], "light"]
    ),
)


READ: dict[bytes, list[Any]] = {
    b"string": ["get"],
    b"hash": ["hgetall"],
    b"set": ["smembers"],
    b"list": ["lrange", 0, -1],
    b"zset": ["zrange", 0, -1, False, True],
    b"stream": ["xrange"],
}


class Place:
    """A namespace without workers: a pending job, one whose executor is queued, and a cancelled one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app: Celery = make_app(settings)
        self.runtime = Runtime(settings, "fuzz")
        self.store: Store = self.runtime.store
        client = Client(settings)
        self.jobs = [self._ref(client.run_manifest(GRAPH, job_id=name)) for name in ("pending", "queued", "cancelled")]
        self.visit(self.jobs[1], Start(opening=True))
        client.cancel("cancelled")
        self.other = self._ref(client.run_manifest({**GRAPH, "graph_id": "other"}, job_id="other")).digest

    def _ref(self, job_id: str) -> JobRef:
        found = self.store.ref(job_id)
        assert found is not None
        return found

    def visit(self, job: JobRef, start: Start, rest: list[Any] | None = None) -> None:
        visit(self.runtime, self.app, job, rest, start)

    def everything(self) -> dict[bytes, Any]:
        """Everything that the server keeps in this namespace, queues included, except marks that expire in a minute."""
        redis, ns = self.store.client, self.settings.redis_namespace
        names = sorted(name for name in redis.keys(f"{ns}*") if b":op:" not in name)
        types, values = redis.pipeline(transaction=False), redis.pipeline(transaction=False)
        for name in names:
            types.type(name)
        for name, kind in zip(names, types.execute(), strict=True):
            read, *more = READ[kind]
            getattr(values, read)(name, *more)
        return dict(zip(names, values.execute(), strict=True))


@pytest.fixture(scope="module")
def place(redis_url: str, tmp_path_factory: pytest.TempPathFactory, leaving: None) -> Place:
    temp = tmp_path_factory.mktemp("tasks")
    return Place(Settings(redis_url=redis_url, redis_namespace=f"fuzz-{secrets.token_hex(4)}", temp_dir=temp))


@contextmanager
def refusal(place: Place) -> Iterator[None]:
    """Allow the block to raise a plain error. It must be quick and change nothing."""
    before, began = place.everything(), time.monotonic()
    try:
        yield
    except REFUSED as error:
        is_one_line(error)
    assert time.monotonic() - began < LONGEST_S
    assert place.everything() == before


def starts(agent: st.SearchStrategy[Any], pool: st.SearchStrategy[Any]) -> st.SearchStrategy[Start]:
    return st.one_of(
        st.just(Start(opening=True)), agent.map(lambda a: Start(agent=a)), pool.map(lambda p: Start(pool=p))
    )


ANY_START = starts(st.sampled_from(["in", "work"]) | HOSTILE, st.sampled_from(["light", "default"]) | HOSTILE)


@fuzzed(30)
@given(HOSTILE, HOSTILE, HOSTILE, ANY_START)
@example("queued}:*", 1, "0" * 64, Start())
@example(["queued"], {"a": 1}, ["d"], Start(agent=["in"]))  # type: ignore[arg-type]
def test_a_task_with_random_arguments_changes_nothing(
    place: Place, job_id: Any, run: Any, digest: Any, start: Start
) -> None:
    with refusal(place):
        place.visit(JobRef(job_id, run, digest), start)


@fuzzed(25)
@given(st.data(), ANY_START)
def test_a_task_with_one_wrong_argument_changes_nothing(place: Place, data: st.DataObject, start: Start) -> None:
    """The run, the digest or the id is wrong, or the arguments of two jobs are mixed."""
    job = data.draw(st.sampled_from(place.jobs))
    part = data.draw(st.sampled_from(JobRef._fields))
    likely: Any = {"job_id": "nobody", "run": 2, "digest": place.other}[part]
    value = data.draw(
        st.just(likely) | HOSTILE.filter(lambda value: str(value) not in (str(getattr(job, part)), "True"))
    )
    with refusal(place):
        place.visit(job._replace(**{part: value}), start)


@fuzzed(15)
@given(
    st.sampled_from([1, 2]),
    starts(HOSTILE.filter(bool), HOSTILE.filter(bool)).filter(lambda start: start.pool != "light" or start.agent),
)
def test_a_task_for_a_missing_agent_or_pool_changes_nothing(place: Place, at: int, start: Start) -> None:
    """For the queued job and the ended one; a pending job stays pending unless the task opens it."""
    with refusal(place):
        place.visit(place.jobs[at], start)


@fuzzed(15)
@given(st.lists(ANYTHING | st.dictionaries(st.sampled_from(["task", "args", "options"]), ANYTHING), max_size=3))
def test_the_rest_of_a_chain_may_be_anything(place: Place, rest: list[Any]) -> None:
    """A task that has nothing to do does not start the rest of its chain."""
    with refusal(place):
        place.visit(place.jobs[2], Start(opening=True), rest)
    assert rest == []


GARBAGE_ARGS = st.lists(HOSTILE.filter(lambda value: len(str(value)) < 10_000), max_size=6)


@fuzzed(1)
@given(st.lists(st.tuples(st.sampled_from([OPEN_JOB, VISIT, DRAIN]), GARBAGE_ARGS), min_size=5, max_size=10))
def test_corrupt_tasks_in_a_real_queue_are_consumed_once_and_stop_no_worker(
    client: Client, node: RealNode, tasks: Any
) -> None:
    """A job that is submitted afterwards runs; the queue is empty, and both workers are alive."""
    app = make_app(client.settings)
    name = queue(client.settings.redis_namespace, "light")
    for task, args in tasks:
        app.send_task(task, args, queue=name)
    line = {**GRAPH, "nodes": [{"node_id": "in", "agent_type": "router"}], "edges": []}
    _, job = client.run_manifest(line, await_=True, timeout=30_000)
    assert job["status"] == "completed"
    wait_until(lambda: client._live_parts().store.client.llen(name) == 0)
    assert all(is_alive(pid) for pid in node.pids.values())
