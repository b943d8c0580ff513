"""Where the paths that a manifest speaks of are on this node.

A manifest sees a sandbox: `sandbox_upload_path` (default `/sandbox/job`) is the run folder, and an absolute upload
target is where it says. On the host both lie in the run folder, and paths that start with one are mapped into it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from workers.runners.protocol import RunRefused

SANDBOX_ROOT: Final = "/sandbox/job"


class SandboxPaths:
    """The mapping of one run."""

    def __init__(self, folder: Path, sandbox_root: str, targets: Iterable[str] = ()) -> None:
        """*targets* are the upload targets as the manifest has them; those that are not absolute map nothing."""
        self.folder = folder
        self._root = normal(sandbox_root)
        absolute = {normal(target) for target in targets if target.startswith("/")}
        prefixes = sorted({self._root, *absolute} - {"/"}, key=len, reverse=True)
        # A path in a shell's text begins after white space, a quote, `=`, `:` or an operator, and its prefix is whole.
        self._word = re.compile(rf"({'|'.join(map(re.escape, prefixes)) or '(?!)'})(?=/|$)")
        self._in_text = re.compile(rf"(?<![^\s\"'=:;|&<>(`])({'|'.join(map(re.escape, prefixes)) or '(?!)'})(?![\w.-])")

    def word(self, word: str) -> str:
        """*word* with the prefix that it starts with mapped; as it is when it starts with none."""
        found = self._word.match(word)
        return self._local(found[1]) + word[found.end() :] if found else word

    def text(self, text: str) -> str:
        """A shell's *text* with every path in it mapped that begins with a prefix."""
        return self._in_text.sub(lambda found: self._local(found[1]), text)

    def target(self, target: str) -> Path:
        """Where an upload goes. Absolute targets outside the sandbox root lie in the run folder like all others."""
        if ".." in target.split("/"):
            raise RunRefused(f"{target!r} leads out of the run folder")
        return Path(self._local(normal(target))) if target.startswith("/") else self.folder / normal(target)

    def workdir(self, workdir: str) -> Path:
        """Where the command runs: made if it lies in the run folder, else a folder of the host that must exist."""
        if ".." in workdir.split("/"):
            raise RunRefused(f"config.workdir: {workdir!r} leads out of the run folder")
        path = self.folder / self.word(normal(workdir) if workdir.startswith("/") else workdir)
        try:
            if path.is_relative_to(self.folder):
                path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunRefused(f"config.workdir: {workdir!r} is not a folder") from None
        if not path.is_dir():
            raise RunRefused(f"config.workdir: there is no folder {workdir!r} on this node")
        return path

    def _local(self, path: str) -> str:
        if path == self._root or path.startswith(self._root + "/"):
            path = path[len(self._root) :]
        return os.path.join(self.folder, path.lstrip("/")).rstrip("/")


def normal(path: str) -> str:
    """*path* without doubled and trailing slashes and `.`; `..` stays, to be refused."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    return ("/" if path.startswith("/") else "") + "/".join(parts)
