"""A script with Windows line endings that a command starts is found before the job runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.errors import ManifestError

CRLF = "#!/bin/sh\r\necho hi\r\n"


def write(folder: Path, text: str, **config: Any) -> Path:
    nodes = [{"node_id": "a", "agent_type": "executor", "config": config}]
    raw = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["a"], "nodes": nodes}
    (folder / "payloads" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "payloads" / "bin" / "go.sh").write_bytes(text.encode())
    (folder / "manifest.json").write_text(json.dumps(raw))
    return folder


FILE = [{"source": "bin/go.sh"}]
FOLDER = [{"source": "bin", "target": "tools"}]


@pytest.mark.parametrize(
    ("word", "config"),
    [
        ("./go.sh", {"uploads": FILE}),
        ("{workdir}/go.sh", {"uploads": FILE}),
        ("/sandbox/job/go.sh", {"uploads": FILE}),
        ("./go.sh", {"upload_path": "bin/go.sh"}),
        ("./x", {"upload_path": "bin/go.sh", "upload_as": "x"}),
        ("tools/go.sh", {"uploads": FOLDER}),
        ("./go.sh", {"uploads": FOLDER, "workdir": "/sandbox/job/tools"}),
        ("./go.sh", {"uploads": FOLDER, "workdir": "tools"}),
        ("./go.sh", {"upload_paths": [{"source": "bin", "target": "."}]}),
        ("sub/go.sh", {"upload_paths": [{"source": "bin/go.sh", "target": "sub/"}]}),
        ("/app/go.sh", {"uploads": [{"source": "bin", "target": "/app"}]}),
        ("/work/go.sh", {"uploads": FILE, "sandbox_upload_path": "/work"}),
    ],
)
def test_a_command_that_starts_such_a_script_is_an_error(tmp_path: Path, word: str, config: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path, CRLF, command=[word], **config))
    (issue,) = caught.value.issues
    assert issue.path == "nodes[0].config.command"
    assert issue.message.startswith(
        'payloads/bin/go.sh cannot be started: its first line names "/bin/sh" with a Windows'
    )
    (warning,) = load(write(tmp_path, CRLF, command=f"{word} || true", **config)).warnings
    assert warning.message == issue.message


@pytest.mark.parametrize("text", ["#!/bin/sh\necho\r\n", "echo\r\n", "#!/bin/sh", ""])
def test_other_scripts_are_valid(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text, command=["./go.sh"], uploads=FILE)).warnings == ()


@pytest.mark.parametrize("command", [["python3", "go.sh"], ["go.sh"], ["/bin/go.sh"], ["../go.sh"], "cat ./go.sh"])
def test_a_script_that_the_command_does_not_start_is_not_checked(tmp_path: Path, command: Any) -> None:
    assert load(write(tmp_path, CRLF, command=command, uploads=FILE)).warnings == ()
