"""A good guest: a producer's own Celery app, logging, signals, threads, forks and tasks are left as they are."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from mirrorneuron.api.client import Client
from tests.support.graphs import PATIENCE_MS, completed, keys_of, line, manifest, router, single
from tests.support.node import ROOT, RealNode
from tests.support.waiting import wait_until

SURROUNDINGS = """
import logging, signal, sys, warnings

def heard(logger):
    return [logger.level, [repr(h) for h in logger.handlers if type(h) is not logging.NullHandler], logger.propagate]

def surroundings():
    import celery
    loggers = {name: heard(it) for name, it in logging.root.manager.loggerDict.items() if hasattr(it, "handlers")}
    return [
        celery.current_app.main,
        heard(logging.root),
        {name: found for name, found in loggers.items() if found != [0, [], True]},
        [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        repr(sys.excepthook), repr(warnings.filters),
    ]
"""


def python(node, source: str, **env: str) -> str:
    """Run *source* as a producer program on the node's store; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        env={**node.env, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "wait", ["mirrorneuron.wait_for_job(job_id)", "asyncio.run(mirrorneuron.aio.wait_for_job(job_id))"]
)
def test_a_producer_keeps_its_app_its_logging_and_its_signals(node, wait):
    """After the import, and after a job was run, everything is what the producer made it."""
    source = f"""{SURROUNDINGS}
import asyncio
from celery import Celery
producer = Celery("producer", broker="memory://")
logging.basicConfig(level=logging.ERROR)
signal.signal(signal.SIGUSR1, lambda *_: None)
before = surroundings()
import mirrorneuron, mirrorneuron.aio
mirrorneuron.Client, mirrorneuron.run_manifest
assert surroundings() == before, "the import"
job_id = mirrorneuron.run_manifest({single("sleep 0.2")!r})
job = {wait}
assert surroundings() == before, [pair for pair in zip(before, surroundings()) if pair[0] != pair[1]]
print(job["status"])
"""
    assert python(node, source) == "completed\n"


#: What a producer of a Celery app of its own, perhaps under Django, has in its environment.
OF_OTHER_APPS = {
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/7",
    "CELERY_BROKER_READ_URL": "redis://127.0.0.1:1/7",
    "CELERY_BROKER_WRITE_URL": "redis://127.0.0.1:1/7",
    "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/7",
    "CELERY_CONFIG_MODULE": "no_such_module",
    "CELERY_LOADER": "no.such:Loader",
    "DJANGO_SETTINGS_MODULE": "no_such_module",
}


def test_environment_variables_of_other_celery_apps_have_no_effect(node):
    """And our app does not become the default app."""
    source = f"""
import logging, sys, warnings
import celery
warnings.simplefilter("error")
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
import mirrorneuron
client = mirrorneuron.Client()
job = client.run_manifest({line(3)!r}, await_=True, timeout={PATIENCE_MS})[1]
app = client._live_parts().app
ours = app.connection_for_write().as_uri()
assert ours == app.connection_for_read().as_uri() == app.connection().as_uri()
assert ours.partition("@")[2] == client.settings.redis_url.partition("//")[2].rpartition("@")[2]
print(job["status"], type(app.backend).__name__, celery._state.default_app is app)
"""
    assert python(node, source, **OF_OTHER_APPS) == "completed JobMapBackend False\n"


def test_a_node_takes_its_broker_only_from_our_settings(node, tmp_path):
    """The worker is Celery's own, and reads Celery's variables."""
    settings = node.settings.model_copy(update={"redis_namespace": f"surrounded-{uuid.uuid4().hex}"})
    surrounded = RealNode(tmp_path, settings)
    surrounded.env |= {**OF_OTHER_APPS, "BROKER_URL": "redis://127.0.0.1:1/7", "RESULT_BACKEND": "redis://127.0.0.1:1"}
    with surrounded:
        assert completed(Client(settings), single("true"))["agent_id"] == "work"
    assert "127.0.0.1:1/" not in surrounded.log.read_text()


def test_validation_needs_neither_celery_nor_redis(node):
    source = f"""
import sys
import mirrorneuron
mirrorneuron.validate_manifest({json.dumps(line(3))})
print([name for name in ("celery", "kombu", "redis") if name in sys.modules])
"""
    assert python(node, source) == "[]\n"


def test_a_client_survives_a_fork(node):
    """Parent and child continue with a client that the parent has used: each opens its own connections."""
    source = f"""
import os
import mirrorneuron
graph = {json.dumps(line(3))}
def run():
    return mirrorneuron.run_manifest(graph, await_=True, timeout={PATIENCE_MS})[1]["status"]
run()
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        os._exit(0 if [run(), run()] == ["completed"] * 2 else 1)
    children.append(pid)
assert run() == "completed"
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""
    assert python(node, source) == "[0, 0, 0]\n"


def test_eight_threads_submit_at_once(client):
    """With one client; each job is separate and completes."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: client.run_manifest(line(3)), range(40)))
        jobs = list(pool.map(lambda job_id: client.wait_for_job(job_id, timeout=PATIENCE_MS), ids))
    assert len(set(ids)) == 40
    assert [job["status"] for job in jobs] == ["completed"] * 40


@pytest.fixture
def producer():
    """Another app, whose tasks run in this process."""
    app = Celery("producer", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, task_store_eager_result=True)
    return app


def test_a_job_submitted_by_a_task_of_another_app_leaves_no_trace_in_that_task(producer, unserved, server):
    """The task gets no children, and the message has nothing of the task except its parent id."""

    @producer.task(bind=True)
    def submit(self):
        job_id = unserved.run_manifest(line(3))
        return job_id, len(self.request.children), self.request.id

    job_id, children, parent = submit.apply_async(headers={"tenant": "x"}, priority=3).get()
    assert children == 0
    (raw,) = server.client.lrange(f"{unserved.settings.redis_namespace}.light", 0, -1)
    sent = json.loads(raw)
    assert (sent["headers"]["id"], sent["headers"]["root_id"]) == (job_id, job_id)
    assert sent["headers"]["parent_id"] in (None, parent)
    assert sent["properties"]["priority"] == 0
    assert "tenant" not in sent["headers"]


def test_a_task_of_another_app_may_wait_for_a_job(producer, client):
    """Celery forbids a task to wait for a task's result; a job is not one."""

    @producer.task
    def run():
        return completed(client, line(3))["count"]

    assert run.delay().get() == 1


def test_a_job_runs_although_its_producer_was_killed_after_the_submission(node, client):
    source = f"""
import os, signal
import mirrorneuron
print(mirrorneuron.run_manifest({json.dumps(manifest([router("r")]))}), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=ROOT, env=node.env, capture_output=True, text=True, timeout=60, check=False)
    job_id = done.stdout.strip()
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"


def test_an_ended_job_leaves_the_live_index(client, server):
    job_id, _ = client.run_manifest(line(3), await_=True, timeout=PATIENCE_MS)
    wait_until(lambda: not server.client.sismember(keys_of(client).live, job_id))
    assert server.client.zscore(keys_of(client).jobs, job_id)
