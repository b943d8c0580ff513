"""Short runs of modules share a claim and a commit. A long run holds up nobody, and nothing runs twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import JobRef
from tests.support.graphs import agent, collector, job_ref, manifest, processed, router
from tests.support.waiting import wait_until
from workers import visit as visit_module
from workers.runtime import Runtime
from workers.visit import Start, visit

MODULE = """
import os, time
from mirrorneuron import Agent

class Step(Agent):
    def handle(self, message, context):
        name, folder = context.agent_id, context.config["folder"]
        with open(folder + "/runs", "a") as runs:
            runs.write(name + "\\n")
        if name == context.config.get("kills"):
            os._exit(3)
        while name == context.config.get("waits") and not os.path.exists(folder + "/gate"):
            time.sleep(0.01)
        context.emit("go", message.body)
"""


class Bundle:
    """A bundle of modules that write their runs to a file, and wait for another if they are told to."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder = folder
        self.client = client
        (folder / "payloads").mkdir()
        (folder / "payloads" / "step.py").write_text(MODULE)

    def step(self, name: str, **config: Any) -> Any:
        given = {"module": "step:Step", "module_source": "step.py", "folder": str(self.folder), **config}
        return agent(name, "module", **given)

    def submit(self, graph: dict[str, Any]) -> JobRef:
        (self.folder / "manifest.json").write_text(json.dumps(graph))
        return job_ref(self.client, self.client.run_manifest(self.folder))

    def line(self, *steps: Any) -> JobRef:
        names = [step["node_id"] for step in steps]
        return self.submit(manifest([*steps], [(a, b, "go") for a, b in pairwise(names)]))

    def fan(self, *steps: Any) -> JobRef:
        names = [step["node_id"] for step in steps]
        edges = [("spread", name, "go") for name in names] + [(name, "all", "go") for name in names]
        return self.submit(manifest([router("spread"), *steps, collector("all", len(names))], edges))

    def runs(self) -> Counter[str]:
        file = self.folder / "runs"
        return Counter(file.read_text().split()) if file.exists() else Counter()

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def close_gate(self) -> None:
        for name in ("gate", "runs"):
            (self.folder / name).unlink()


@pytest.fixture
def bundle(tmp_path: Path, settings: Settings) -> Bundle:
    (tmp_path / "bundle").mkdir()
    return Bundle(tmp_path / "bundle", Client(settings))


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine too, all runs of a claim begin, and a task claims more work until its job has ended."""
    monkeypatch.setattr(visit_module, "TOGETHER_S", 3_600.0)
    monkeypatch.setattr(visit_module, "SLICE_S", 3_600.0)


@pytest.fixture
def patient(together: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run counts as long."""
    monkeypatch.setattr(visit_module, "LONG_S", 3_600.0)


@pytest.fixture
def started(runtime: Runtime, app: Celery, together: None) -> Iterator[Callable[[JobRef, Start], threading.Thread]]:
    """Start a visit in a thread."""
    threads: list[threading.Thread] = []

    def start(job: JobRef, what: Start) -> threading.Thread:
        threads.append(threading.Thread(target=visit, args=(runtime, app, job, None, what), daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(30)


OPEN = Start(pool="default", opening=True)


def warmed(runtime: Runtime, app: Celery, bundle: Bundle, submit: Callable[[], JobRef]) -> JobRef:
    """The second of two jobs: the first one has started the module's process, which takes longer than a long run."""
    bundle.open_gate()
    job = submit()
    visit(runtime, app, job, None, Start(opening=True))
    visit(runtime, app, job, None, OPEN)
    assert bundle.client.inspect_job(job.job_id)["status"] == "completed"
    bundle.close_gate()
    return submit()


def commits(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The agents of each commit from now on."""
    seen: list[list[str]] = []
    commit = runtime.store.scripts.commit

    def observed(job: Any, token: Any, steps: Any, *args: Any, **more: Any) -> Any:
        seen.append([step.agent_id for step in steps])
        return commit(job, token, steps, *args, **more)

    monkeypatch.setattr(runtime.store.scripts, "commit", observed)
    return seen


def test_a_line_of_short_modules_is_one_commit(
    runtime: Runtime, app: Celery, bundle: Bundle, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also ends the job, because it knows what the job's output is."""
    job, seen = bundle.line(*map(bundle.step, "abc")), commits(runtime, monkeypatch)
    monkeypatch.setattr(runtime.store.scripts, "settle", None)
    visit(runtime, app, job, None, OPEN)
    record = bundle.client.inspect_job(job.job_id)
    assert (record["status"], record["result"]) == ("completed", {"agent_id": None, "output": {"c": {}}})
    assert (seen, bundle.runs()) == ([["a", "b", "c"]], Counter("abc"))
    types = Counter(event["type"] for event in bundle.client.events(job.job_id))
    assert types["executor_lease_acquired"] == types["executor_lease_released"] == 3


def test_a_run_that_shall_be_committed_alone_is(
    runtime: Runtime, app: Celery, bundle: Bundle, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bundle.line(bundle.step("a"), bundle.step("b", commit_alone=True), bundle.step("c"))
    seen = commits(runtime, monkeypatch)
    visit(runtime, app, job, None, OPEN)
    assert bundle.client.inspect_job(job.job_id)["status"] == "completed"
    assert seen == [["a"], ["b"], ["c"]]


def test_a_long_run_in_a_line_does_not_hold_back_the_run_before_it(
    runtime: Runtime, app: Celery, bundle: Bundle, started: Callable[..., threading.Thread]
) -> None:
    """What is over is committed while it goes on, and what has not begun is given back."""
    job = warmed(runtime, app, bundle, lambda: bundle.line(*(bundle.step(name, waits="b") for name in "abc")))
    store = runtime.store
    thread = started(job, OPEN)
    wait_until(lambda: processed(bundle.client, job.job_id) == {"a": 1, "b": 0, "c": 0})
    claims, mail = store.keys.claims(job.job_id), store.keys.mail(job.job_id, "b")
    assert (store.client.zrange(claims, 0, -1), store.client.llen(mail)) == ([b"b"], 1)
    renewed = store.client.zscore(claims, "b")
    wait_until(lambda: (store.client.zscore(claims, "b") or 0) > renewed)
    bundle.open_gate()
    thread.join(30)
    assert bundle.client.inspect_job(job.job_id)["status"] == "completed"
    assert bundle.runs() == Counter("abc")


def test_a_long_run_in_a_fan_leaves_the_others_of_its_claim_to_another_slot(
    runtime: Runtime,
    app: Celery,
    settings: Settings,
    bundle: Bundle,
    started: Callable[..., threading.Thread],
) -> None:
    names = [f"n{number:02}" for number in range(20)]
    job = warmed(runtime, app, bundle, lambda: bundle.fan(*(bundle.step(name, waits="n03") for name in names)))
    visit(runtime, app, job, None, Start(opening=True))
    thread = started(job, Start(pool="default"))
    wait_until(lambda: bundle.runs()["n03"])
    there = Runtime(settings.model_copy(update={"temp_dir": settings.temp_dir / "other"}), "other@test")

    def all_others_are_done() -> bool:
        visit(there, app, job, None, Start(pool="default"))
        done = processed(bundle.client, job.job_id)
        return all(done[name] for name in names if name != "n03")

    wait_until(all_others_are_done)
    assert bundle.runs() == Counter(names)
    bundle.open_gate()
    thread.join(30)
    assert bundle.client.inspect_job(job.job_id)["status"] == "completed"
    assert bundle.runs() == Counter(names)


def test_mail_that_came_first_is_handled_first(
    runtime: Runtime, app: Celery, bundle: Bundle, started: Callable[..., threading.Thread]
) -> None:
    """A long run on inline mail is given back if other mail was sent to its mailbox meanwhile."""
    job = warmed(runtime, app, bundle, lambda: bundle.line(*(bundle.step(name, waits="b") for name in "abc")))
    commit, client = runtime.store.scripts.commit, bundle.client

    def after_other_mail(*args: Any, **more: Any) -> Any:
        client.send_message(job.job_id, "b", {"message_id": "other", "body": {"first": True}})
        return commit(*args, **more)

    runtime.store.scripts.commit = after_other_mail  # type: ignore[method-assign]
    thread, mail = started(job, OPEN), runtime.store.keys.mail(job.job_id, "b")
    wait_until(lambda: runtime.store.client.llen(mail) == 2)
    runs = [json.loads(raw)["body"].get("first") for raw in runtime.store.client.lrange(mail, 0, -1)]
    assert runs == [True, None]
    bundle.open_gate()
    thread.join(30)
    assert client.inspect_job(job.job_id)["status"] == "completed"
    assert processed(client, job.job_id) == {"a": 1, "b": 2, "c": 2}


def test_a_module_that_kills_its_process_fails_only_its_own_run(
    runtime: Runtime, app: Celery, bundle: Bundle, patient: None
) -> None:
    """The runs before it in the same claim are kept."""
    job = bundle.line(bundle.step("a"), bundle.step("b", kills="b", max_attempts=2, retry_backoff_ms=0))
    visit(runtime, app, job, None, OPEN)
    result = bundle.client.inspect_job(job.job_id)["result"]
    assert result is not None
    assert (result["agent_id"], result["details"]["exit_code"]) == ("b", 3)
    assert bundle.runs() == Counter({"a": 1, "b": 2})


def test_a_message_that_may_have_killed_its_worker_takes_no_run_along(
    runtime: Runtime, app: Celery, bundle: Bundle, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = bundle.line(*map(bundle.step, "abc")), runtime.store
    store.client.hset(store.keys.agent(job.job_id, "a"), "losses", 1)
    seen = commits(runtime, monkeypatch)
    visit(runtime, app, job, None, OPEN)
    assert bundle.client.inspect_job(job.job_id)["status"] == "completed"
    assert bundle.runs() == Counter("abc")
    assert seen[0] == ["a", "b", "c"], "all were claimed, and all are in the commit"
    assert len(seen) > 1, "but only the first had run"
