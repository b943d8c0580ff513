"""Configs of runs: a run finds its files in its run folder or is refused; no path leads out of the folder."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.message import Message, encode, seed
from mirrorneuron.settings import Settings
from tests.fuzz.conftest import fuzzed, is_one_line
from tests.support.fuzzing.values import ANYTHING, JSON
from workers.runners.command import environment_of, variables_of, words_of, write_files
from workers.runners.protocol import RunRefused, RunRequest
from workers.runners.sandbox_paths import SandboxPaths
from workers.runners.uploads import copy_upload, uploads_of

PATHS = st.one_of(
    st.lists(
        st.sampled_from(
            ["", ".", "..", "a", "main.py", "data", "out", "loop", "sandbox", "job", "ü", "~", "x" * 300, "*"]
        ),
        max_size=5,
    ).map("/".join),
    st.sampled_from(
        ["/sandbox/job", "/sandbox/job/../../etc", "/", "//etc", "/tmp", "a\0b", "/sandbox/jobs", "in\nput"]
    ),
    ANYTHING,
)
ENTRIES = st.lists(st.fixed_dictionaries({}, optional={"source": PATHS, "target": PATHS}) | ANYTHING, max_size=3)
CONFIGS = st.fixed_dictionaries(
    {"command": st.lists(PATHS | st.sampled_from(["{workdir}", "{nothing}", "{{job_id}}"]), max_size=3) | PATHS},
    optional={
        "upload_path": PATHS,
        "upload_as": PATHS,
        "uploads": ENTRIES | PATHS,
        "upload_paths": ENTRIES,
        "sandbox_upload_path": st.sampled_from(["/sandbox/job", "/", "/sandbox", "there", "(", "/a.b"]),
        "workdir": PATHS.filter(lambda path: isinstance(path, str)),
        "environment": st.dictionaries(st.text(), ANYTHING, max_size=3) | ANYTHING,
        "pass_env": st.lists(st.text()) | ANYTHING,
        "content_type": st.sampled_from(["text/plain", "application/x-ndjson", "image/png", "a; b", "+json"])
        | ANYTHING,
        "content_encoding": st.sampled_from(["gzip", "identity"]) | ANYTHING,
    },
)


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hostile payloads: with links that lead out of the folder and links to themselves."""
    folder = tmp_path_factory.mktemp("node") / "payloads"
    (folder / "data" / "a").mkdir(parents=True)
    (folder / "main.py").write_text("main")
    (folder / "data" / "file").write_text("data")
    (folder.parent / "secret").write_text("secret")
    (folder / "out").symlink_to("../secret")
    (folder / "data" / "a" / "up").symlink_to("../../../secret")
    (folder / "loop").symlink_to("loop")
    (folder / "round").symlink_to(".")
    return folder


@contextmanager
def alone() -> Iterator[Path]:
    """A run folder next to other files, which must not change."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        root = Path(name)
        (root / "runs" / "mine").mkdir(parents=True)
        (root / "runs" / "other").write_text("other")
        yield root / "runs" / "mine"
        assert sorted(os.listdir(root)) == ["runs"]
        assert sorted(os.listdir(root / "runs")) == ["mine", "other"]
        assert (root / "runs" / "other").read_text() == "other"


def request_for(config: dict[str, Any], body: Any, payloads: Path) -> RunRequest:
    made = seed({"body": body}, job_id="j", to="n", message_id="m", timestamp="t")
    return RunRequest("j", "n", "executor", "map", config, Message(**made), {}, payloads, "node")


def prepare(folder: Path, request: RunRequest) -> tuple[list[str], dict[str, str]]:
    """Do everything that the runner does before it starts the command."""
    config, uploads = request.config, uploads_of(request.config)
    root = config.get("sandbox_upload_path", "/sandbox/job")
    paths = SandboxPaths(folder, root, [upload.target for upload in uploads])
    for upload in uploads:
        copy_upload(upload, request.payloads_path, paths)
    workdir = paths.workdir(config.get("workdir", root))
    variables = variables_of(request, write_files(request, folder), workdir, "cluster")
    return words_of(config, variables, paths), environment_of(config, variables, Settings())


def is_too_long(error: OSError) -> None:
    assert error.errno == errno.ENAMETOOLONG


@fuzzed(25)
@given(CONFIGS, JSON)
@example({"command": "true", "uploads": [{"source": "data", "target": "/sandbox/job/../../other"}]}, 1)
@example({"command": "true", "uploads": [{"source": "round", "target": "x"}]}, 1)
@example({"command": "true", "upload_path": "out"}, 1)
@example({"command": "true", "environment": {"A": 10**400}, "content_type": "text/plain\0"}, "body")
def test_any_config_prepares_a_run_in_its_folder_or_is_refused(
    payloads: Path, config: dict[str, Any], body: Any
) -> None:
    with alone() as folder:
        try:
            words, environment = prepare(folder, request_for(config, body, payloads))
        except (RunRefused, ValueError) as error:
            is_one_line(error)
        except OSError as error:  # reported as such
            is_too_long(error)
        else:
            assert all(isinstance(word, str) for word in (*words, *environment, *environment.values()))
        for where, folders, files in os.walk(folder):
            for name in (*folders, *files):
                assert not os.path.islink(os.path.join(where, name))
            for name in files:
                assert Path(where, name).read_bytes() != b"secret"


@fuzzed(20)
@given(
    JSON, st.text() | st.sampled_from(["application/json", "text/x", "image/png", "application/jsonl"]), st.booleans()
)
def test_any_body_has_bytes(body: Any, kind: str, packed: bool) -> None:
    config = {"content_type": kind, "content_encoding": "gzip" if packed else "identity"}
    with alone() as folder:
        written = write_files(request_for(config, body, folder), folder)
        assert Path(written["MIRROR_NEURON_INPUT_FILE"]).read_bytes() == encode(body)
        assert Path(written["MIRROR_NEURON_BODY_FILE"]).exists()
