"""The runner `host_local`: what a command is given, and what becomes of its output and its end."""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.bundle.passed_variables import SET_FOR_A_RUN
from mirrorneuron.message import Message, encode, seed
from mirrorneuron.settings import Settings
from workers.lifecycle.run_handle import RunHandle
from workers.runners.command import cluster_of
from workers.runners.host_local import HostLocal
from workers.runners.output_capture import Capture
from workers.runners.protocol import RunRequest, RunResult
from workers.runners.registry import RUNNERS

CAP_BYTES = 4096
SHOW_ENVIRONMENT = ["env", "-0"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(temp_dir=tmp_path / "node", max_output_bytes=CAP_BYTES)


@pytest.fixture
def payloads(tmp_path: Path) -> Path:
    folder = tmp_path / "payloads"
    folder.mkdir()
    return folder


class Bench:
    """Runs commands and keeps what a test asks about."""

    def __init__(self, settings: Settings, payloads: Path | None) -> None:
        self.runner = HostLocal(settings)
        self.runs = settings.temp_dir / "runs"
        self.payloads = payloads
        self.handle = RunHandle()

    def run(self, command: Any, *, body: Any = None, state: Any = None, fields: Any = None, **config: Any) -> RunResult:
        wire = seed({"body": body, **(fields or {})}, job_id="job.1", to="worker", message_id="m1", timestamp="now")
        message = Message(**wire)
        config = {"command": command, **config}
        request = RunRequest("job.1", "Worker_A", "executor", "map", config, message, state, self.payloads, "node-1")
        return self.runner.run(request, self.handle)

    def out(self, command: Any, **config: Any) -> str:
        result = self.run(command, **config)
        assert result.error is None, result
        return result.sandbox["stdout"]


@pytest.fixture
def bench(settings: Settings, payloads: Path) -> Bench:
    return Bench(settings, payloads)


def test_both_runner_modules_of_a_manifest_are_this_runner():
    assert RUNNERS["host_local"] is RUNNERS["MirrorNeuron.Runner.HostLocal"] is HostLocal


def test_a_result_has_all_the_fields_of_the_contract(bench):
    result = bench.run("echo out; echo err >&2", name_prefix="Demo!")
    assert result.error is None
    assert result.cut == {}
    folder = result.sandbox.pop("remote_dir")
    assert Path(folder).parent == bench.runs
    assert result.sandbox == {
        "sandbox_name": "demo--job-1-worker-a",
        "exit_code": 0,
        "runner_exit_code": 0,
        "stdout": "out\n",
        "stderr": "err\n",
        "logs": "out\nerr\n",
        "raw_output": "",
        "runner": "host_local",
        "node_name": "node-1",
    }


def test_a_list_runs_without_a_shell_and_a_string_with_bash(bench):
    assert bench.out(["echo", "$HOME", "a;b", "*"]) == "$HOME a;b *\n"
    assert bench.out("[[ a == a ]] && echo ${BASH_VERSION:+bash}") == "bash\n"


def test_the_run_folder_is_gone_after_the_run_with_all_that_is_write_protected_in_it(bench):
    bench.out("mkdir -p a/b && touch a/b/c && chmod 400 a/b/c && chmod 000 a/b && chmod 500 a && ln -s / a.link")
    bench.out("mkdir -p $(printf 'a/%.0s' {1..1500})")  # deeper than Python itself removes
    assert list(bench.runs.iterdir()) == []


def test_a_new_runner_removes_abandoned_folders_but_no_folder_in_use(bench, settings):
    """A run holds a lock on its folder, which ends with its process."""
    abandoned = bench.runs / "abandoned"
    (abandoned / "deep").mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    other_node = (
        "import os; from mirrorneuron.settings import Settings; from workers.runners.host_local import HostLocal\n"
        f"os.utime('.', (0, 0)); HostLocal(Settings.load(temp_dir={str(settings.temp_dir)!r})); open('kept', 'w')"
    )
    bench.out([sys.executable, "-c", other_node], environment={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert not abandoned.exists()


@pytest.mark.parametrize(
    ("names", "allowed", "says"),
    [
        (["MIRROR_NEURON_REDIS_URL"], "*", "MIRROR_NEURON_REDIS_URL belongs to the node"),
        (["mirror_neuron_redis_url"], "*", "belongs to the node"),
        (["MN_SECRET"], "*", "MN_SECRET belongs to the node"),
        (["CELERY_BROKER_URL"], "*", "CELERY_BROKER_URL belongs to the node"),
        (["COPY_OF_URL"], "*", "COPY_OF_URL belongs to the node"),
        (["API_TOKEN"], "", "this node does not pass API_TOKEN; MIRROR_NEURON_PASS_ENV"),
        (["API_TOKEN"], "AWS_*, API", "this node does not pass API_TOKEN"),
        (["API_TOKEN", "HOME", "MN_JOB_ID"], "AWS_*, API_*", None),
    ],
)
def test_the_node_says_which_variables_may_pass(tmp_path, monkeypatch, names, allowed, says):
    url = "redis://:s3cret@127.0.0.1:1/0"
    monkeypatch.setenv("API_TOKEN", "t0ken")
    monkeypatch.setenv("COPY_OF_URL", f"{url}?x=1")
    monkeypatch.setenv("MIRROR_NEURON_PASS_ENV", allowed)
    found = Bench(Settings.load(redis_url=url, temp_dir=tmp_path), None).run(SHOW_ENVIRONMENT, pass_env=names)
    assert "s3cret" not in found.sandbox["stdout"]
    if says:
        assert says in found.error
    else:
        assert "API_TOKEN=t0ken" in found.sandbox["stdout"]
        assert "MN_JOB_ID=job.1" in found.sandbox["stdout"]


def test_the_names_that_may_be_passed_are_those_that_the_runner_sets(bench):
    seen = {entry.partition("=")[0] for entry in bench.out(SHOW_ENVIRONMENT).split("\0")}
    assert {f"MIRROR_NEURON_{name}" for name in SET_FOR_A_RUN} == {n for n in seen if n.startswith("MIRROR_NEURON_")}


def test_a_command_sees_only_what_it_was_given_of_the_environment(bench, monkeypatch):
    monkeypatch.setenv("SECRET", "s3")
    monkeypatch.setenv("SHARED", "from the node")
    monkeypatch.setenv("LANG", "C.UTF-8")
    own = os.path.dirname(sys.executable)
    monkeypatch.delenv("TMPDIR", raising=False)
    given = {"SHARED": "default", "COUNT": 3, "ON": True, "NOTHING": None, "MIRROR_NEURON_JOB_ID": "forged"}
    text = bench.out(SHOW_ENVIRONMENT, environment=given, pass_env=["SHARED", "ABSENT"])
    seen = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    short = {name: seen.pop(name) for name in list(seen) if name.startswith("MN_")}
    assert short == {
        name.replace("MIRROR_NEURON_", "MN_"): value
        for name, value in seen.items()
        if name.startswith("MIRROR_NEURON_") and name != "MIRROR_NEURON_RUN_MARKER"
    }
    files = {name: seen.pop(name) for name in sorted(seen) if name.endswith("_FILE")}
    assert list(files) == [f"MIRROR_NEURON_{name}_FILE" for name in ("ANSWER", "BODY", "CONTEXT", "INPUT", "MESSAGE")]
    assert seen.pop("MIRROR_NEURON_WORKDIR") == str(Path(files["MIRROR_NEURON_BODY_FILE"]).parent)
    assert seen == {
        "PATH": ":".join([own, *(entry for entry in os.environ["PATH"].split(":") if entry != own)]),
        "MIRROR_NEURON_PYTHON": sys.executable,
        "HOME": os.environ["HOME"],
        "LANG": "C.UTF-8",
        "SHARED": "from the node",
        "COUNT": "3",
        "ON": "true",
        "NOTHING": "",
        "MIRROR_NEURON_AGENT_TYPE": "executor",
        "MIRROR_NEURON_AGENT_TEMPLATE": "map",
        "MIRROR_NEURON_JOB_ID": "job.1",
        "MIRROR_NEURON_AGENT_ID": "Worker_A",
        "MIRROR_NEURON_BODY_CONTENT_TYPE": "application/json",
        "MIRROR_NEURON_BODY_CONTENT_ENCODING": "identity",
        "MIRROR_NEURON_RUN_MARKER": f"{cluster_of(Settings.load())}:node-1:job.1:Worker_A",
    }


def test_the_files_hold_body_message_and_context(bench):
    show = 'for f in INPUT MESSAGE CONTEXT; do n=MIRROR_NEURON_${f}_FILE; cat "${!n}"; echo; done'
    lines = bench.out(show, body={"n": [1, "ü"]}, state={"seen": 2}, fields={"headers": {"h": 1}}).splitlines()
    body, message, context = map(json.loads, lines)
    assert body == {"n": [1, "ü"]}
    assert message["envelope"]["message_id"] == "m1"
    assert message["headers"] == {"h": 1}
    assert message["body"] == body
    assert context.pop("timestamp").endswith("Z")
    assert context == {
        "job_id": "job.1",
        "agent_id": "Worker_A",
        "agent_type": "executor",
        "template_type": "map",
        "agent_state": {"seen": 2},
    }


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", {"a": [1]}, b'{"a":[1]}'),
        ("application/json; charset=utf-8", "text", b'"text"'),
        ("application/ld+json", "text", b'"text"'),
        ("application/x-ndjson", [{"a": 1}, "b"], b'{"a":1}\n"b"\n'),
        ("application/x-ndjson", {"a": 1}, b'{"a":1}\n'),
        ("application/x-ndjson", "1\n2\n", b"1\n2\n"),
        ("application/octet-stream", base64.b64encode(b"\x00\xff").decode(), b"\x00\xff"),
        ("application/octet-stream", "not base64: ü", "not base64: ü".encode()),
        ("application/octet-stream", {"a": 1}, b'{"a":1}'),
        ("image/png", base64.b64encode(b"\x89PNG").decode(), b"\x89PNG"),
        ("text/plain", "abcd", b"abcd"),
    ],
)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_body_file_follows_content_type_and_encoding(bench, content_type, body, expected, encoding):
    envelope = {"content_type": content_type, "content_encoding": encoding}
    printed = bench.out("base64 -w0 $MIRROR_NEURON_BODY_FILE", body=body, fields=envelope)
    data = base64.b64decode(printed)
    assert (gzip.decompress(data) if encoding == "gzip" else data) == expected


def test_content_type_and_encoding_of_the_config_override_those_of_the_message(bench):
    show = "echo $MIRROR_NEURON_BODY_CONTENT_TYPE $MIRROR_NEURON_BODY_CONTENT_ENCODING; zcat $MIRROR_NEURON_BODY_FILE"
    out = bench.out(show, body=[1, 2], content_type="application/x-ndjson", content_encoding="gzip")
    assert out == "application/x-ndjson gzip\n1\n2\n"


def test_placeholders_are_filled_in_for_exactly_the_eight_names(bench):
    command = [
        "printf",
        "%s\\n",
        "{job_id}/{agent_id}",
        '{"x":{y},"{job}":"{ job_id }"}',
        "{{workdir}}",
        "{input_file}",
    ]
    ids, literal, workdir, input_file = bench.out(command).splitlines()
    assert ids == "job.1/Worker_A"
    assert literal == '{"x":{y},"{job}":"{ job_id }"}'
    assert workdir.startswith(f"{{{bench.runs}/")
    assert input_file.endswith("/mirror_neuron_input.json")
    assert bench.out(["{python}", "-c", "import sys; print(sys.executable)"]).strip() == sys.executable


def test_every_upload_form_arrives_and_keeps_its_executable_bit(bench, payloads):
    (payloads / "tool").mkdir()
    (payloads / "tool" / "run.sh").write_text("#!/bin/sh\necho ran in ${PWD##*/}\n")
    (payloads / "tool" / "run.sh").chmod(0o555)
    (payloads / "data.txt").write_text("data")
    (payloads / "data.txt").chmod(0o400)
    config = {
        "upload_path": "tool/",
        "upload_as": "bundle",
        "upload_paths": [{"source": "data.txt", "target": "in/"}, {"source": "tool", "target": "/sandbox/job/bundle"}],
        "uploads": [{"source": "data.txt", "target": "/opt/x/y.txt"}, {"source": "data.txt"}],
        "workdir": "/sandbox/job/bundle",
    }
    assert bench.out(["./run.sh"], **config) == "ran in bundle\n"
    found = bench.out("cd .. && find . -type f -name '*t*' -printf '%m %p\\n' | grep -v mirror_neuron | sort", **config)
    assert found.splitlines() == ["644 ./data.txt", "644 ./in/data.txt", "644 ./opt/x/y.txt"]


def test_paths_of_the_sandbox_are_mapped_in_words_and_in_shell_text(bench, payloads):
    (payloads / "f").write_text("content")
    uploads = [{"source": "f", "target": "/data/in/f"}, {"source": "f", "target": "/sandbox/job/g"}]
    assert bench.out(["cat", "/data/in/f", "/sandbox/job/g"], uploads=uploads) == "contentcontent"
    assert bench.out('cat /data/in/f "/sandbox/job/g" </dev/null', uploads=uploads) == "contentcontent"
    untouched = ["/sandbox/jobs", "/sandbox/job.txt", "x/sandbox/job", "/data/in/ff"]
    assert bench.out(["echo", *untouched], uploads=uploads).split() == untouched
    assert bench.out(f"echo {' '.join(untouched)}", uploads=uploads).split() == untouched
    assert bench.out(["cat", "/w/g"], uploads=[{"source": "f", "target": "g"}], sandbox_upload_path="/w/") == "content"


def test_a_workdir_is_made_in_the_run_folder_and_must_exist_on_the_host(bench, tmp_path):
    assert bench.out("pwd", workdir="/sandbox/job/a/b").endswith("/a/b\n")
    assert bench.out("pwd", workdir="c").endswith("/c\n")
    assert bench.out("pwd", workdir=str(tmp_path)) == f"{tmp_path}\n"
    assert bench.run("pwd", workdir="/no/such").error == "config.workdir: there is no folder '/no/such' on this node"
    assert "leads out" in bench.run("pwd", workdir="/sandbox/job/../..").error


def hostile_payloads(payloads: Path) -> None:
    (payloads / "ok").mkdir()
    (payloads / "ok" / "f").write_text("f")
    (payloads / "out").symlink_to("/etc")
    (payloads / "deep").mkdir()
    (payloads / "deep" / "passwd").symlink_to("/etc/passwd")
    (payloads / "circle").mkdir()
    (payloads / "circle" / "again").symlink_to(payloads / "circle")
    (payloads / "self").symlink_to("self")
    os.mkfifo(payloads / "fifo")


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"source": "../x"}, "config.uploads[0]: '../x' leads out of payloads/"),
        ({"source": "/etc/passwd"}, "config.uploads[0]: '/etc/passwd' leads out of payloads/"),
        ({"source": "out"}, "config.uploads[0]: 'out' is a link that leads out of payloads/"),
        ({"source": "out/passwd"}, "config.uploads[0]: 'passwd' is a link that leads out of payloads/"),
        ({"source": "deep"}, "config.uploads[0]: 'passwd' is a link that leads out of payloads/"),
        ({"source": "circle"}, "config.uploads[0]: 'circle' contains a link to itself"),
        ({"source": "self"}, "config.uploads[0]: 'self' is a link to itself"),
        ({"source": "fifo"}, "config.uploads[0]: 'fifo' is neither a file nor a folder"),
        ({"source": "missing"}, "config.uploads[0]: there is no 'missing' in payloads/"),
        ({"source": "ok/f/g"}, "config.uploads[0]: there is no 'ok/f/g' in payloads/"),
        ({"source": "ok", "target": "a/../../b"}, "config.uploads[0]: 'a/../../b' leads out of the run folder"),
        (
            {"source": "ok", "target": "/sandbox/job/../b"},
            "config.uploads[0]: '/sandbox/job/../b' leads out of the run",
        ),
        (
            {"source": "ok/f", "target": "mirror_neuron_input.json"},
            "an upload has the target 'mirror_neuron_input.json'",
        ),
        (
            {"source": "ok/f", "target": "mirror_neuron_answer.json"},
            "an upload has the target 'mirror_neuron_answer.json'",
        ),
        ({"source": 7}, "config.uploads[0]: the source must be a path in payloads/"),
        ({"source": "ok", "target": 7}, "config.uploads[0]: the target must be a path"),
        ("ok", "config.uploads[0]: must be an object with source and target"),
    ],
)
def test_a_hostile_upload_is_refused_and_nothing_runs(bench, payloads, tmp_path, entry, error):
    hostile_payloads(payloads)
    proof = tmp_path / "it-ran"
    result = bench.run(["touch", str(proof)], uploads=[entry])
    assert result.error.startswith(error)
    assert result.sandbox["exit_code"] == 125
    assert not result.transient
    assert not proof.exists()
    assert list(bench.runs.iterdir()) == []


def test_links_inside_payloads_become_what_they_point_to(bench, payloads):
    (payloads / "real").mkdir()
    (payloads / "real" / "f").write_text("content")
    (payloads / "tree").mkdir()
    (payloads / "tree" / "link").symlink_to("../real")
    assert bench.out("cat tree/link/f; find . -type l", upload_path="tree") == "content"


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"command": None}, "config.command: must be a list of words or a string"),
        ({"command": []}, "config.command: must be a list of words or a string"),
        ({"command": ["echo", {"a": 1}]}, "config.command[1]: must be a string"),
        ({"command": ["echo", "a\0b"]}, "embedded null byte"),
        ({"command": [""]}, "config.command[0]: must not be empty"),
        ({"environment": ["A"]}, "config.environment: must be an object"),
        (
            {"environment": {"A=B": "1"}},
            "config.environment: 'A=B' cannot be set (a name is empty or holds `=`, or there is a NUL)",
        ),
        ({"pass_env": "HOME"}, "config.pass_env: must be a list of variable names"),
        ({"timeout_seconds": "3"}, "config.timeout_seconds: must be a number of seconds"),
        ({"timeout_seconds": -1}, "config.timeout_seconds: must be a number of seconds"),
        ({"content_encoding": "br"}, "content_encoding 'br' is not supported (use identity or gzip)"),
        ({"workdir": 5}, "config.workdir: must be a path"),
        ({"upload_paths": {"source": "a"}}, "config.upload_paths: must be a list of {source, target}"),
    ],
)
def test_an_invalid_config_is_a_one_line_error_that_names_the_key(bench, config, error):
    result = bench.run(**({"command": "true"} | config))
    assert result.error == error
    assert result.sandbox["exit_code"] == 125


def test_unknown_keys_are_ignored(bench):
    assert bench.out(["echo", "ok"], **{"from": "image", "tty": True, "no_keep": False}) == "ok\n"


def test_uploads_without_payloads_are_refused(settings):
    result = Bench(settings, None).run("true", upload_path="x")
    assert result.error == "config.upload_path: the bundle has no payloads/"


def test_files_of_a_run_are_for_the_nodes_user_alone(bench):
    assert stat.S_IMODE(int(bench.out("stat -c %a .").strip(), 8)) == 0o700


def test_output_byte_by_byte_is_cut_like_any_other():
    capture = Capture(1000)
    for number in range(10_000):
        capture.add(bytes([65 + number % 26]))
    text = capture.text()
    assert len(text.replace("\n[... output cut: 10000 bytes in all, 1000 kept ...]\n", "")) == 1000


def test_a_cap_of_one_byte_keeps_one_byte():
    capture = Capture(1)
    capture.add(b"abc")
    assert capture.text() == "a\n[... output cut: 3 bytes in all, 1 kept ...]\n"


@pytest.mark.parametrize("byte", [b"\0", b"\xff", b'"', b"\n"])
def test_output_that_grows_as_json_is_cut_until_it_fits(byte):
    """Both streams, and both once more in the logs, are part of one message, whose cap is eight times theirs."""
    cap = 100_000
    capture = Capture(cap)
    capture.add(byte * cap)
    assert len(encode(capture.text())) <= 1.9 * cap
    assert capture.cut
    assert "[... output cut: 100000 bytes in all, " in capture.text()
