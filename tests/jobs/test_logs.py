"""The output of commands and modules, while they run and afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.errors import AgentNotFound, JobNotFound
from tests.support.graphs import PATIENCE_MS, collector, executor, manifest, single, until_there
from tests.support.waiting import wait_until


def text(client: Client, job_id: str, agent: str | None = None) -> str:
    return "".join(chunk["text"] for chunk in client.logs(job_id, agent))


def test_output_is_seen_while_the_command_runs(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = client.run_manifest(single(f"echo working; {until_there(gate)}; echo done"))
    chunks = client.logs(job_id, follow=True)
    first = next(chunks)
    assert (first["agent_id"], first["stream"], first["text"]) == ("work", "stdout", "working\n")
    assert client.inspect_job(job_id)["status"] == "running"
    gate.touch()
    assert [chunk["text"] for chunk in chunks] == ["done\n"]


def test_following_ends_with_the_job_and_misses_nothing(client: Client) -> None:
    job_id = client.run_manifest(single("echo last words >&2"))
    assert [(c["stream"], c["text"]) for c in client.logs(job_id, follow=True)] == [("stderr", "last words\n")]


def test_after_the_end_all_output_is_there(client: Client) -> None:
    job_id, _ = client.run_manifest(single("echo out; echo the error >&2; exit 1"), await_=True, timeout=PATIENCE_MS)
    assert {c["stream"]: c["text"] for c in client.logs(job_id)} == {"stdout": "out\n", "stderr": "the error\n"}


def test_output_can_be_read_for_one_agent(client: Client) -> None:
    nodes = [executor("one", "echo 1", output_message_type="m"), executor("two", "echo 2", output_message_type="m")]
    graph = manifest(
        [*nodes, collector("end", 2)], [("one", "end", "m"), ("two", "end", "m")], entrypoints=["one", "two"]
    )
    job_id, _ = client.run_manifest(graph, await_=True, timeout=PATIENCE_MS)
    assert (text(client, job_id, "one"), text(client, job_id, "two")) == ("1\n", "2\n")
    assert text(client, job_id, "end") == ""


def test_the_output_of_a_module_is_logged_too(client: Client, tmp_path: Path) -> None:
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "talker.py").write_text(
        "import logging\n"
        "from mirrorneuron import Agent\n"
        "class Talker(Agent):\n"
        "    def handle(self, message, context):\n"
        "        print('hello from the module')\n"
        "        logging.getLogger('my.agent').info('rows: %s', 3)\n"
        "        context.complete_job(1)\n"
    )
    config = {"module": "talker:Talker", "module_source": "talker.py"}
    graph = manifest([{"node_id": "m", "agent_type": "module", "config": config}])
    (tmp_path / "manifest.json").write_text(json.dumps(graph))
    job_id, job = client.run_manifest(tmp_path, await_=True, timeout=PATIENCE_MS)
    assert job["status"] == "completed"
    said = {chunk["stream"]: chunk["text"] for chunk in client.logs(job_id)}
    assert said == {"stdout": "hello from the module\n", "stderr": "INFO my.agent: rows: 3\n"}


def test_the_traceback_of_each_failed_attempt_of_a_module_is_logged(client: Client, tmp_path: Path) -> None:
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "breaker.py").write_text(
        "from mirrorneuron import Agent\n"
        "class Breaker(Agent):\n"
        "    def handle(self, message, context):\n"
        "        raise ValueError('broken here')\n"
    )
    config = {"module": "breaker:Breaker", "module_source": "breaker.py", "max_attempts": 2, "retry_backoff_ms": 1}
    graph = manifest([{"node_id": "m", "agent_type": "module", "config": config}])
    (tmp_path / "manifest.json").write_text(json.dumps(graph))
    job_id, job = client.run_manifest(tmp_path, await_=True, timeout=PATIENCE_MS)
    assert job["status"] == "failed"
    said = [chunk for chunk in client.logs(job_id, "m") if "Traceback" in chunk["text"]]
    assert [chunk["stream"] for chunk in said] == ["stderr", "stderr"]
    for chunk in said:
        assert 'breaker.py", line 4, in handle' in chunk["text"]
        assert "ValueError: broken here" in chunk["text"]


def test_what_a_module_does_after_handle_has_ended_is_an_error_in_the_log(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "late.py").write_text(
        "import os, threading, time\n"
        "from mirrorneuron import Agent\n"
        "class Late(Agent):\n"
        "    def handle(self, message, context):\n"
        "        def work():\n"
        f"            while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "            context.emit('found', 1)\n"
        "        threading.Thread(target=work, daemon=True).start()\n"
        "        context.complete_job(1)\n"
    )
    config = {"module": "late:Late", "module_source": "late.py"}
    (tmp_path / "manifest.json").write_text(
        json.dumps(manifest([{"node_id": "m", "agent_type": "module", "config": config}]))
    )
    job_id, job = client.run_manifest(tmp_path, await_=True, timeout=PATIENCE_MS)
    assert (job["status"], text(client, job_id)) == ("completed", "")
    gate.touch()
    wait_until(lambda: "RuntimeError: emit of 'found' by 'm' after handle has ended: lost" in text(client, job_id, "m"))


def test_unknown_jobs_and_agents_are_errors_at_once(client: Client) -> None:
    job_id = client.run_manifest(single("true"))
    with pytest.raises(AgentNotFound, match="nobody"):
        client.logs(job_id, "nobody")
    with pytest.raises(JobNotFound):
        client.logs("no-such-job", follow=True)
