"""Checks that the files which a node takes from `payloads/` exist, and that no path points outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mirrorneuron.bundle.parse import below, kind, shown
from mirrorneuron.bundle.suggest import Suggestions
from mirrorneuron.errors import Issue

LISTS: Final = ("upload_paths", "uploads")
_PATH_HINT: Final = "a path is not empty and contains no NUL"
_NO_FOLDER_HINT: Final = "put it in the payloads/ folder of a bundle"


class Sources:
    """Checks whether sources exist in the payloads folder; looks at the disk once for each source."""

    def __init__(self, folder: Path | None, why_none: str = "the bundle has no payloads folder") -> None:
        self._folder = folder
        self._root = os.path.realpath(folder) if folder else ""
        self._why_none = why_none
        self._known: dict[str, tuple[str, str]] = {}
        self._suggestions = Suggestions()

    @property
    def folder(self) -> Path | None:
        """The payloads folder; None if there is none."""
        return self._folder

    def name(self, file: Path) -> str:
        """The name of a file in the payloads folder for an error, like `payloads/main.py`."""
        return f"payloads/{file.relative_to(self._folder)}" if self._folder else str(file)

    def problem(self, source: str) -> tuple[str, str]:
        """The issue's message and hint; the message is "" if *source* is valid."""
        if source not in self._known:
            self._known[source] = self._look(source)
        return self._known[source]

    def _look(self, source: str) -> tuple[str, str]:
        if not source or "\0" in source:
            return f"{shown(source)} is not a valid path", _PATH_HINT
        pure = PurePosixPath(source)
        if pure.is_absolute():
            return f"{shown(source)} is an absolute path", "write it relative to payloads/"
        if ".." in pure.parts:
            return f"{shown(source)} points outside payloads/", "remove the `..`"
        if self._folder is None:
            return f"{shown(source)} does not exist: {self._why_none}", _NO_FOLDER_HINT
        path = self._folder / source
        real = os.path.realpath(path)
        if real != self._root and not real.startswith(self._root.rstrip(os.sep) + os.sep):
            return f"{shown(source)} is a symbolic link to a place outside payloads/", "replace it with a copy"
        if not os.path.exists(path):  # `Path.exists` raises for names that are too long
            return f"{shown(source)} is not in payloads/", self._near(pure)
        return "", ""

    def _near(self, source: PurePosixPath) -> str:
        """Suggest the nearest name in the folder of *source*."""
        assert self._folder is not None
        try:
            names = sorted(os.listdir(self._folder / source.parent))[:1000]
        except OSError:
            return ""
        return self._suggestions.near(source.name, names)


def problems(config: dict[str, Any], path: str, sources: Sources) -> Iterator[Issue]:
    """Every issue with the uploads in one executor's config."""
    if config.get("upload_path") is not None:
        yield from _source(config["upload_path"], f"{path}.upload_path", sources)
    yield from _target(config.get("upload_as"), f"{path}.upload_as")
    for key in LISTS:
        given = config.get(key)
        if given is None:
            continue
        if not isinstance(given, list):
            yield Issue(f"{path}.{key}", f'must be a list of objects with "source" and "target", not {kind(given)}')
            continue
        for index, item in enumerate(given):
            yield from _item(item, below(f"{path}.{key}", index), sources)


def module_source_problem(config: dict[str, Any], path: str, sources: Sources) -> Iterator[Issue]:
    """The issue with `module_source`, if any. `node_config` checks that it is a string."""
    given = config.get("module_source")
    if isinstance(given, str) and given:
        yield from _source(given, f"{path}.module_source", sources)


def _item(item: Any, path: str, sources: Sources) -> Iterator[Issue]:
    if not isinstance(item, dict):
        yield Issue(path, f'must be an object with "source" and "target", not {kind(item)}')
    elif item.get("source") is None:
        yield Issue(f"{path}.source", "is required")
    else:
        yield from _source(item["source"], f"{path}.source", sources)
        yield from _target(item.get("target"), f"{path}.target")


def _source(source: Any, path: str, sources: Sources) -> Iterator[Issue]:
    if not isinstance(source, str):
        yield Issue(path, f"must be a string, not {kind(source)}")
        return
    message, hint = sources.problem(source)
    if message:
        yield Issue(path, message, hint)


def _target(target: Any, path: str) -> Iterator[Issue]:
    if target is None:
        return
    if not isinstance(target, str):
        yield Issue(path, f"must be a string, not {kind(target)}")
    elif not target or "\0" in target:
        yield Issue(path, f"{shown(target)} is not a valid path", _PATH_HINT)
    elif ".." in PurePosixPath(target).parts:
        yield Issue(path, f"{shown(target)} points outside the run folder", "remove the `..`")
