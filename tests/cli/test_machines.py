"""The commands that start processes: run and up with an embedded server, worker, dashboard, down."""

from __future__ import annotations

import json
import signal
import socket
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from mirrorneuron.embedded.launcher import free_port
from mirrorneuron.processes import identity
from tests.cli.conftest import RESEARCH, Mn, Started
from tests.support.waiting import wait_until


@pytest.fixture
def home(nowhere, mn: Mn) -> Iterator[dict[str, str]]:
    """An environment with nothing configured; the processes started in it are stopped."""
    yield nowhere
    mn("down", env=nowhere)


def fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def test_a_run_with_nothing_configured_starts_a_server_and_a_node(mn: Mn, home):
    """Later commands find its data, also after `mn down`."""
    first = mn("run", RESEARCH, "--job-id", "first", env=home)
    assert first.returncode == 0, first.stderr
    assert "mn: started a server and a node; stop: `mn down`, or 10 idle minutes" in first.stderr.splitlines()
    again = mn("run", RESEARCH, "--job-id", "again", env=home)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr
    assert {job["job_id"] for job in json.loads(mn("job", "list", "--json", env=home).stdout)} == {"first", "again"}
    # A job of light agents may end before the node's second worker is registered.
    wait_until(lambda: both(json.loads(mn("node", "list", "--json", env=home).stdout)), timeout=60)
    assert json.loads(mn("down", "--json", env=home).stdout) == {"ended": ["node", "watcher", "server"]}
    assert mn("job", "list", env=home).returncode == 5
    assert mn("down", env=home).stdout == "nothing was running\n"


def test_up_serves_until_ctrl_c_and_leaves_nothing_running(mn: Mn, home):
    with Started("up", "--no-dashboard", "--json", env=home) as up:
        printed = up.document()
        assert (printed["embedded"], printed["dashboard"]) == (True, None)
        ended = mn("run", RESEARCH, "--job-id", "under-up", env=home)
        assert ended.returncode == 0, ended.stderr
        assert "started" not in ended.stderr, "no second node is started"
        nodes = wait_until(lambda: both(json.loads(mn("node", "list", "--json", env=home).stdout)), timeout=60)
        code, _, err = up.ctrl_c()
        assert code == 0, err
    assert mn("down", env=home).stdout == "nothing was running\n"
    for node in nodes:
        assert identity.find(node["pid"]) is None


def test_up_uses_the_configured_server_and_leaves_it_alone(mn: Mn, env, server, tmp_path):
    """Also when the working folder contains another package `workers`."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise ImportError('the wrong one')")
    own = {**env, "MIRROR_NEURON_REDIS_NAMESPACE": f"up-{uuid.uuid4().hex}"}
    with Started("up", "--no-dashboard", "--json", env=own, cwd=tmp_path) as up:
        printed = up.document()
        assert (printed["redis_url"], printed["embedded"]) == (server.url, False)
        assert mn("run", RESEARCH, env=own).returncode == 0
        assert up.ctrl_c()[0] == 0
    assert identity.find(printed["node_pid"]) is None
    assert server.client.ping()


def test_up_ends_when_down_is_called(mn: Mn, home):
    with Started("up", "--no-dashboard", "--json", env=home) as up:
        up.document()
        assert "server" in json.loads(mn("down", "--json", env=home).stdout)["ended"]
        _, err = up.process.communicate(timeout=100)
        assert up.process.returncode == 0, err


def test_a_closed_terminal_stops_what_up_has_started(mn: Mn, home):
    with Started("up", "--no-dashboard", "--json", env=home) as up:
        up.document()
        assert up.process.stderr is not None
        up.process.stderr.close()
        up.process.send_signal(signal.SIGHUP)
        up.process.send_signal(signal.SIGHUP)
        up.process.wait(timeout=100)
    assert mn("down", env=home).stdout == "nothing was running\n"


SECOND_AT_ONCE = """
import os, signal
from mirrorneuron.cli import main
from mirrorneuron.cli.commands import up
stop = up._stop

def stop_late(*args):
    os.kill(os.getpid(), signal.SIG{second})
    stop(*args)

up._stop = stop_late
main()
"""


@pytest.mark.parametrize("second", ["HUP", "TERM", "INT"])
def test_a_second_signal_does_not_interrupt_the_cleanup(mn: Mn, home, second):
    """The signal arrives between the end of the wait and the start of the cleanup."""
    code = SECOND_AT_ONCE.format(second=second)
    with Started("-c", code, "up", "--no-dashboard", "--json", env=home, program=sys.executable) as up:
        node_pid = up.document()["node_pid"]
        up.process.send_signal(signal.SIGTERM)
        _, err = up.process.communicate(timeout=100)
        assert up.process.returncode == 0, err
    assert mn("down", env=home).stdout == "nothing was running\n"
    assert identity.find(node_pid) is None


def test_a_second_ctrl_c_shortens_the_stop_of_up(mn: Mn, home, gate):
    """The node stops a long-running command without waiting for the grace period."""
    with Started("up", "--no-dashboard", "--json", env={**home, "MIRROR_NEURON_STOP_GRACE_SECONDS": "1000"}) as up:
        up.document()
        assert mn("run", str(gate), "--no-await", env=home).returncode == 0
        gate.wait()
        up.process.send_signal(signal.SIGINT)
        up.line_of_stderr("stopping what was started here")
        # Signals that arrive before the first is handled are merged into one.
        wait_until(lambda: '"stopping": true' in mn("node", "list", "--json", env=home).stdout, timeout=60)
        assert up.ctrl_c()[0] == 0
    assert mn("down", env=home).stdout == "nothing was running\n"


def test_a_worker_is_a_node_with_the_given_name_and_pool(mn: Mn, env, client):
    alone = {**env, "MIRROR_NEURON_REDIS_NAMESPACE": f"alone-{uuid.uuid4().hex}"}
    with Started("worker", "--name", "solo", "--pool", "gpu", "--slots", "3", "--json", env=alone) as worker:
        printed = worker.document()
        assert (printed["node"], printed["pools"], printed["pid"]) == ("solo", {"gpu": 3}, worker.process.pid)
        nodes = wait_until(lambda: both(json.loads(mn("node", "list", "--json", env=alone).stdout)), timeout=60)
        assert [node["name"] for node in nodes] == ["gpu@solo", "light@solo"]
        assert nodes[0]["pools"]["gpu"]["slots"] == 3
        assert mn("run", RESEARCH, env=alone).returncode == 0
        code, out, err = worker.ctrl_c()
    assert (code, out) == (0, ""), err


def both(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return nodes if len(nodes) == 2 else []


@pytest.mark.parametrize("pool", ["", "a=1", "a/b", "p*", "light"])
def test_a_worker_rejects_an_invalid_pool_name(mn: Mn, pool, env):
    """Before any worker is started: each would fail five times."""
    ended = mn("worker", "--pool", pool)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "--pool" in line


def test_the_dashboard_shows_tasks_under_the_names_of_their_nodes(mn: Mn, env):
    port = free_port()
    open_api = {**env, "FLOWER_UNAUTHENTICATED_API": "true"}
    with Started("dashboard", "--port", str(port), "--json", env=open_api) as dashboard:
        url = dashboard.document()["url"]
        assert url == f"http://127.0.0.1:{port}/"
        wait_until(lambda: fetched(f"{url}healthcheck"), timeout=60)

        def shown() -> bool:
            mn("run", RESEARCH)  # Flower sees only tasks that run while it is connected
            return b'"research_flow.open_job"' in fetched(f"{url}api/tasks?limit=50")

        wait_until(shown, timeout=60)
        code, _, err = dashboard.ctrl_c()
    assert code == 0, err


def test_a_port_in_use_is_bad_usage(mn: Mn, env):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in (["dashboard"], ["up"]):
            ended = mn(*command, "--port", port)
            assert ended.returncode == 2
            assert f"port {port} of 127.0.0.1 is in use" in ended.stderr
