"""Finds scripts that a command starts and that the system cannot start, because of Windows line endings."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mirrorneuron.bundle.parse import shown
from mirrorneuron.bundle.uploads import LISTS, Sources

_DEFAULT_ROOT: Final = "/sandbox/job"
_FIRST_LINE: Final = 512  #: bytes of a script that are read


class Scripts:
    """Checks the scripts of one bundle; reads each file once."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._known: dict[Path, str] = {}

    def problem(self, config: dict[str, Any]) -> str:
        """The problem of the script that the executor's command starts; "" if there is none to see."""
        folder = self._sources.folder
        command = config["command"]
        words = command if isinstance(command, list) else command.split(maxsplit=1)
        if folder is None or "/" not in words[0]:  # a name without a slash is looked up in PATH
            return ""
        script = _path(config, words[0])
        for source, target in self._copies(folder, config):
            relative = posixpath.relpath(script, target)
            if relative != ".." and not relative.startswith("../"):
                file = folder / source if relative == "." else folder / source / relative
                if os.path.isfile(file):
                    return self._look(file)
        return ""

    @staticmethod
    def _copies(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Each source and its target as an absolute path; the last one first, because it overwrites the others."""
        given = [(item["source"], item.get("target")) for key in LISTS for item in config.get(key) or ()]
        if config.get("upload_path") is not None:
            given.insert(0, (config["upload_path"], config.get("upload_as")))
        root = _root(config)
        for source, wanted in reversed(given):
            name = posixpath.basename(source.rstrip("/"))
            target = posixpath.normpath(posixpath.join(root, name if wanted is None else wanted))
            if not os.path.isdir(folder / source) and (target == root or (wanted or "").endswith("/")):
                target = posixpath.join(target, name)
            yield source, target

    def _look(self, file: Path) -> str:
        if file not in self._known:
            try:
                with file.open("rb") as opened:
                    start = opened.read(_FIRST_LINE)
            except OSError:
                start = b""
            self._known[file] = _line_ending_problem(self._sources.name(file), start)
        return self._known[file]


def _line_ending_problem(name: str, start: bytes) -> str:
    line, end, _ = start.partition(b"\n")
    if not end or not line.startswith(b"#!") or not line.endswith(b"\r"):
        return ""
    interpreter = line[2:].strip().decode("utf-8", "replace")
    return f"{name} cannot be started: its first line names {shown(interpreter)} with a Windows line ending (CR LF)"


def _root(config: dict[str, Any]) -> str:
    """The path by which the config names the run folder."""
    return posixpath.normpath(posixpath.join("/", config.get("sandbox_upload_path") or _DEFAULT_ROOT))


def _path(config: dict[str, Any], word: str) -> str:
    """The absolute path that the first *word* of the command names."""
    workdir = posixpath.join(_root(config), config.get("workdir") or "")
    return posixpath.normpath(posixpath.join(workdir, word.replace("{workdir}", workdir)))
