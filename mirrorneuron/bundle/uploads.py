"""Files of `payloads/` that a node asks for: which they are, and whether they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mirrorneuron.bundle.parse import below, kind, shown
from mirrorneuron.bundle.suggest import Suggestions
from mirrorneuron.errors import Issue

LISTS: Final = ("upload_paths", "uploads")


class Sources:
    """Answers whether a source is in the payloads folder; each question goes to the disk once."""

    def __init__(self, folder: Path | None, why_none: str = "the bundle has no payloads folder") -> None:
        self._folder = folder
        self._root = os.path.realpath(folder) if folder else ""
        self._why_none = why_none
        self._known: dict[str, tuple[str, str]] = {}
        self._suggestions = Suggestions()

    def problem(self, source: str) -> tuple[str, str]:
        """Message and hint; the message is "" when all is well."""
        if source not in self._known:
            self._known[source] = self._look(source)
        return self._known[source]

    def _look(self, source: str) -> tuple[str, str]:
        if not source or "\0" in source:
            return f"{shown(source)} is no path", ""
        pure = PurePosixPath(source)
        if pure.is_absolute():
            return f"{shown(source)} is absolute", "name it relative to payloads/"
        if ".." in pure.parts:
            return f"{shown(source)} leads out of payloads/", "remove the `..`"
        if self._folder is None:
            return f"{shown(source)} is not there: {self._why_none}", ""
        path = self._folder / source
        real = os.path.realpath(path)
        if real != self._root and not real.startswith(self._root.rstrip(os.sep) + os.sep):
            return f"{shown(source)} is a link that leads out of payloads/", "put a copy there"
        if not os.path.exists(path):  # `Path.exists` raises for names that are too long
            return f"{shown(source)} is not in payloads/", self._near(pure)
        return "", ""

    def _near(self, source: PurePosixPath) -> str:
        """Look for the name among those at its place in the tree."""
        assert self._folder is not None
        try:
            names = sorted(os.listdir(self._folder / source.parent))[:1000]
        except OSError:
            return ""
        return self._suggestions.near(source.name, names)


def problems(config: dict[str, Any], path: str, sources: Sources) -> Iterator[Issue]:
    """Everything wrong with the uploads of one executor's config."""
    if config.get("upload_path") is not None:
        yield from _source(config["upload_path"], f"{path}.upload_path", sources)
    yield from _target(config.get("upload_as"), f"{path}.upload_as")
    for key in LISTS:
        given = config.get(key)
        if given is None:
            continue
        if not isinstance(given, list):
            yield Issue(f"{path}.{key}", f'must be a list of {{"source", "target"}}, not {kind(given)}')
            continue
        for index, item in enumerate(given):
            yield from _item(item, below(f"{path}.{key}", index), sources)


def module_source_problem(config: dict[str, Any], path: str, sources: Sources) -> Iterator[Issue]:
    """What is wrong with the source of a module; that it is a string is not checked here."""
    given = config.get("module_source")
    if isinstance(given, str) and given:
        yield from _source(given, f"{path}.module_source", sources)


def _item(item: Any, path: str, sources: Sources) -> Iterator[Issue]:
    if not isinstance(item, dict):
        yield Issue(path, f'must be {{"source", "target"}}, not {kind(item)}')
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
        yield Issue(path, f"{shown(target)} is no path")
    elif ".." in PurePosixPath(target).parts:
        yield Issue(path, f"{shown(target)} leads out of the run folder", "remove the `..`")
