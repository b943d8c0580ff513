"""The command line exits with a documented code and no traceback, for any arguments and any stdin."""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron import cli
from mirrorneuron.api.client import Client
from mirrorneuron.cli import exits
from mirrorneuron.message import decode
from mirrorneuron.settings import Settings
from tests.fuzz.conftest import fuzzed
from tests.fuzz.test_settings import TEXTS
from tests.support.fuzzing.manifests import EVERYTHING
from tests.support.fuzzing.values import documents

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

DOCUMENTED = {0, 1, 2, 3, 4, 5}
JOB = "the-job"
WORDS = st.one_of(
    TEXTS,
    st.sampled_from(
        [JOB, "ear", "nobody", "-", "--", "-h", "--json", "", " ", "*", "{", "../..", "/", "x" * 5_000, "\udcff"]
    ),
)
NUMBERS = st.integers().map(str) | st.sampled_from(
    ["nan", "inf", "-inf", "1e308", "0", "-0.0", "9" * 30, "1.5", "0x1", ""]
)
COMMANDS = st.sampled_from(
    [
        *("job inspect", "agent list", "events", "wait --timeout 0", "graph", "graph --format dot", "validate"),
        *("pause", "resume", "cancel", "retry", "send", "job list", "node list", "version", "job", "run --no-await"),
    ]
)
OPTIONS = st.one_of(
    st.tuples(st.sampled_from(["--timeout", "--limit"]), NUMBERS),
    st.tuples(
        st.sampled_from(["--after", "--from", "--reason", "--job-id", "--status", "--format", "--nothing"]), WORDS
    ),
    st.tuples(st.sampled_from(["--older-than"]), NUMBERS | st.sampled_from(["7d", "999999999d", "1w"])),
    st.tuples(st.sampled_from(["--json", "--live", "--follow", "--no-await", "--help", "-j", "--"])),
)
MESSAGE = {"envelope": {"type": "go", "message_id": "i"}, "headers": {"h": 1}, "body": {"n": 1}}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Stdin(io.BytesIO):
    name = "<stdin>"


Mn = Callable[..., Ended]


@pytest.fixture(scope="module")
def place(redis_url: str, tmp_path_factory: pytest.TempPathFactory, leaving: None) -> Iterator[Path]:
    """A working folder, and an environment with a server and one pending job, without a node."""
    folder = tmp_path_factory.mktemp("place")
    settings = Settings(redis_url=redis_url, redis_namespace=f"fuzz-{secrets.token_hex(4)}")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MIRROR_NEURON_")]:
            patch.delenv(name)
        patch.setenv("MIRROR_NEURON_REDIS_URL", settings.redis_url)
        patch.setenv("MIRROR_NEURON_REDIS_NAMESPACE", settings.redis_namespace)
        patch.setenv("MIRROR_NEURON_HOME", str(folder / "home"))
        patch.chdir(folder)
        head = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["ear"]}
        Client(settings).run_manifest({**head, "nodes": [{"node_id": "ear", "agent_type": "sensor"}]}, job_id=JOB)
        yield folder


@pytest.fixture(scope="module")
def mn(place: Path) -> Mn:
    """Runs `mn` in this process."""

    def run(*words: str, stdin: bytes = b"") -> Ended:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(exits, "_verbose", False)
            patch.setattr(sys, "argv", ["mn", *words])
            patch.setattr(sys, "stdin", io.TextIOWrapper(Stdin(stdin), "utf-8"))
            with pytest.raises(SystemExit) as ended:
                cli.main()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return Ended(ended.value.code, *texts)  # type: ignore[arg-type]

    return run


def ended_well(ended: Ended) -> bool:
    assert ended.code in DOCUMENTED, ended
    assert "Traceback" not in ended.out + ended.err
    assert all(line.startswith("mn: ") for line in ended.err.splitlines()), ended.err
    assert ended.code == 0 or ended.err or ended.out, "a failure prints a reason"
    return True


@fuzzed(40)
@given(COMMANDS, st.lists(WORDS, max_size=3), st.lists(OPTIONS, max_size=2))
@example("job inspect", ["\udcff"], [])
@example("send", [JOB, "\udcff", "-"], [])
@example("events", [JOB], [("--after", "soon")])
@example("events", [JOB], [("--after", "\udcff")])
@example("events", [JOB], [("--limit", "9" * 30)])
@example("wait", [JOB], [("--timeout", "nan")])
@example("validate", ["x" * 5_000], [])
@example("retry", [JOB], [("--from", "\udcff")])
@example("cancel", ["nobody"], [("--reason", "\udcff")])
def test_any_arguments_end_with_a_documented_code(
    mn: Mn, command: str, words: list[str], options: list[tuple[str, ...]]
) -> None:
    rest = [*words, *(word for option in options for word in option)]
    if "--follow" in rest or "-f" in rest:  # the job never ends
        rest = ["nobody" if word == JOB else word for word in rest]
    if command.startswith("wait"):
        rest = [*rest, "--timeout", "0"] if "--timeout" not in rest else rest
        rest = ["nobody" if word == JOB else word for word in rest]
    ended = mn(*command.split(), *rest)
    ended_well(ended)
    if "--json" in rest and ended.code == 0 and not {"--help", "-h"} & set(rest) and ended.out:
        decode(ended.out)


@fuzzed(20)
@given(documents(MESSAGE), st.booleans())
@example(b'{"ttl_ms": 1' + b"0" * 400 + b"}", False)
@example(b"1e999", False)
def test_any_stdin_is_a_message_or_is_rejected(mn: Mn, place: Path, data: bytes, as_file: bool) -> None:
    (place / "message.json").write_bytes(data)
    ended = mn("send", JOB, "ear", "message.json" if as_file else "-", stdin=data)
    assert ended_well(ended)
    assert ended.code in (0, 2)
    assert ended.code == 0 or len(ended.err.splitlines()) == 1


@fuzzed(12)
@given(documents(EVERYTHING), st.sampled_from(["validate", "graph", "graph --format dot"]), st.booleans())
def test_any_manifest_is_shown_or_rejected(mn: Mn, place: Path, data: bytes, command: str, json: bool) -> None:
    bundle = place / "bundle"
    (bundle / "payloads" / "data").mkdir(parents=True, exist_ok=True)
    (bundle / "payloads" / "main.py").touch()
    (bundle / "manifest.json").write_bytes(data)
    ended = mn(*command.split(), str(bundle), *(["--json"] if json else []))
    assert ended_well(ended)
    assert ended.code in (0, 2)
    if json and ended.out:
        decode(ended.out)


@fuzzed(10)
@given(st.sampled_from(["REDIS_URL", "REDIS_NAMESPACE", "HOME", "TEMP_DIR", "BROKER_URL", "EVENTS_MAX"]), TEXTS | WORDS)
@example("REDIS_URL", "redis://127.0.0.1:1/x")
@example("HOME", "x" * 300)
@example("HOME", "~nobody_of_that_name/x")
def test_any_environment_ends_with_a_documented_code(mn: Mn, name: str, value: str) -> None:
    """Only commands that start nothing."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "HOME":
            value = value or "home"  # not the developer's own
            patch.delenv("MIRROR_NEURON_REDIS_URL")
        patch.setenv(f"MIRROR_NEURON_{name}", value)
        for words in (["job", "list"], ["node", "list", "--json"], ["send", "nobody", "ear", "-"]):
            assert ended_well(mn(*words, stdin=b"1"))
