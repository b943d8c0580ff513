"""The code of the documents runs: every Python, JSON and shell block of README.md and docs/.

The blocks of a page run in order, in one folder and one Python namespace; a file is written where a block has a title.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron import validate_manifest
from mirrorneuron.api import default_client
from mirrorneuron.api.client import Client
from tests.support.markdown import Block, blocks
from tests.support.node import RealNode

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SHELL_TIMEOUT_S = 60
SHELL = "sh"
ALLOWED = {"python", "json", SHELL, "text", "mermaid", "ini", "toml", "yaml", "lua", "http"}
CHECKER = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class PageRun:
    """One page while its blocks run."""

    folder: Path
    env: dict[str, str]
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    printed: str = ""  #: what the newest block that ran has printed

    def run(self, block: Block) -> None:
        if block.is_output:
            assert CHECKER.check_output(block.text, self.printed, FLAGS), f"{block}: printed was\n{self.printed}"
        elif block.title:
            self.write(block)
        elif block.language == "python":
            self.python(block)
        elif block.language == "json":
            check_json(block)
        elif block.language == SHELL:
            self.shell(block)

    def write(self, block: Block) -> None:
        """Make the block a file. A manifest is validated, with its payloads, when a command uses it."""
        path = self.folder / block.title
        assert path.resolve().is_relative_to(self.folder), f"{block}: the file is outside of the page's folder"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        parse(block)

    def python(self, block: Block) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compiled(block), self.namespace)  # the documents are ours
        self.printed = printed.getvalue()

    def shell(self, block: Block) -> None:
        """Run a block in bash; it must succeed. Variables that it sets are there for the next block."""
        variables = self.folder / ".variables"
        script = f"set -aeuo pipefail\n{block.text}\nenv -0 > {variables}\n"
        done = bash(script, self.folder, self.env)
        assert done.returncode == 0, f"{block}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.printed = done.stdout
        pairs = (pair.partition("=") for pair in variables.read_text(encoding="utf-8").split("\0") if pair)
        self.env = {name: value for name, _, value in pairs}


def bash(script: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run *script* to its end. After SHELL_TIMEOUT_S it is killed with everything that it started in its session."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, errors = process.communicate(timeout=SHELL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(script, process.returncode, printed, errors)


def check_json(block: Block) -> None:
    """A manifest is valid and has no warnings; other JSON can be read."""
    value = json.loads(block.text)
    if isinstance(value, dict) and "manifest_version" in value:
        assert validate_manifest(value).warnings == (), str(block)


def parse(block: Block) -> None:
    """Check the syntax of a block that is not run."""
    if block.language == "python":
        compiled(block)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == SHELL:
        checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{block}: {checked.stderr}"


def compiled(block: Block) -> Any:
    """The code of a Python block, with the page and its lines in tracebacks."""
    return compile("\n" * (block.line - 1) + block.text, block.page, "exec")


def environment(node: RealNode, folder: Path) -> dict[str, str]:
    """The environment of a reader: `mn` and `python` on the PATH, the node's store, and no embedded server at home."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{node.env['PATH']}"
    home = folder / ".home"
    return {**node.env, "PATH": tools, "MIRROR_NEURON_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "120"}


@pytest.fixture
def page_run(node: RealNode, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PageRun]:
    """A folder with the examples in it, and a default client whose jobs the session's node runs."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    env = environment(node, tmp_path)
    for name, value in env.items():
        if name.startswith("MIRROR_NEURON_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(default_client.default_client, "_settings", client.settings)
    monkeypatch.setattr(default_client.default_client, "_parts", None)  # made for these settings at the first call
    path = list(sys.path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield PageRun(tmp_path, env)
    sys.path[:] = path


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, page_run: PageRun) -> None:
    """In order; a block that is exempt has a reason and is parsed."""
    for block in blocks(ROOT / page, page):
        assert block.language in ALLOWED, f"{block}: give the block one of the languages {sorted(ALLOWED)}"
        if block.exempt is None:
            page_run.run(block)
        else:
            parse(block)


BAD: Mapping[str, str] = {
    "<!-- not run -->\n```sh\nx\n```\n": "needs a reason",
    "<!-- not run: x -->\n```sh\nx\n```\n": "needs a reason",
    "<!-- not-run: needs Django -->\n```sh\nx\n```\n": "cannot be read",
    "<!-- not run: needs Django -->\n\n```sh\nx\n```\n": "not directly before a block",
    "```sh\nx\n": "no end",
}


@pytest.mark.parametrize("text", BAD)
def test_a_marker_without_effect_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=BAD[text]):
        list(blocks(tmp_path / "page.md", "page.md"))


def test_a_block_is_read_with_its_marker_its_title_and_its_indent(tmp_path: Path) -> None:
    text = '1. Step:\n\n   <!-- not run: needs Django -->\n   ```python title="a.py"\n   if x:\n       y\n   ```\n'
    (tmp_path / "page.md").write_text(text)
    (block,) = blocks(tmp_path / "page.md", "page.md")
    assert block == Block("page.md", 5, "python", "if x:\n    y\n", title="a.py", exempt="needs Django")
