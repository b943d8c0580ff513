"""Map the sandbox paths of a manifest to the run folder on this node.

In a manifest, `sandbox_upload_path` (default `/sandbox/job`) names the run folder, and an upload target may be any
absolute path. On the node both are in the run folder; paths that start with one of them are mapped into it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from workers.runners.protocol import RunRefused
from workers.runners.shell_text import substitute

SANDBOX_ROOT: Final = "/sandbox/job"
FOLDER_IN_SHELL: Final = "${MIRROR_NEURON_INPUT_FILE%/*}"  #: the run folder: the input file is in it


class SandboxPaths:
    """The mapping of one run."""

    def __init__(self, folder: Path, sandbox_root: str, targets: Iterable[str] = ()) -> None:
        """*targets* are the upload targets of the manifest; relative ones need no mapping."""
        self.folder = folder
        self._root = normal(sandbox_root)
        absolute = {normal(target) for target in targets if target.startswith("/")}
        prefixes = sorted({self._root, *absolute} - {"/"}, key=len, reverse=True)
        # A path in shell text begins after white space, a quote, `=`, `:` or an operator; a prefix must be whole.
        self._word = re.compile(rf"({'|'.join(map(re.escape, prefixes)) or '(?!)'})(?=/|$)")
        self._in_text = re.compile(rf"(?<![^\s\"'=:;|&<>(`])({'|'.join(map(re.escape, prefixes)) or '(?!)'})(?![\w.-])")

    def word(self, word: str) -> str:
        """Return *word* with its sandbox prefix mapped; unchanged if it has none."""
        found = self._word.match(word)
        return self._local(found[1]) + word[found.end() :] if found else word

    def text(self, text: str) -> str:
        """Return shell *text* with all paths mapped that begin with a sandbox prefix.

        The folder of the node may have a name that a shell would parse; what follows it stays as the manifest has it.
        """

        def values(found: re.Match[str]) -> tuple[str, str, str]:
            return str(self.folder), FOLDER_IN_SHELL, self._local(found[1]).removeprefix(str(self.folder))

        return substitute(text, self._in_text, values)

    def target(self, target: str) -> Path:
        """Return the path of an upload on the node: always in the run folder. Raises RunRefused for `..`."""
        if ".." in target.split("/"):
            raise RunRefused(f"{target!r} leads out of the run folder")
        return Path(self._local(normal(target))) if target.startswith("/") else self.folder / normal(target)

    def workdir(self, workdir: str) -> Path:
        """Return the working folder of the command: created in the run folder; elsewhere it must exist."""
        if ".." in workdir.split("/"):
            raise RunRefused(f"config.workdir: {workdir!r} leads out of the run folder")
        path = self.folder / self.word(normal(workdir) if workdir.startswith("/") else workdir)
        try:
            if path == self.folder:
                return path
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
    """Return *path* without double and trailing slashes and `.`; `..` is kept, to be refused later."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    return ("/" if path.startswith("/") else "") + "/".join(parts)
