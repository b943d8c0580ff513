"""The classes of module agents: found in the source folders of one bundle, and called with a message."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from mirrorneuron.agent import Agent, Context
from mirrorneuron.message import Message, decode
from mirrorneuron.modules.answers import ImportFailed, Refusal, failure, one_line, reject_returned, success, trace_of
from mirrorneuron.modules.logs import DEFAULT_LEVEL, Logs


class Sources:
    """The source folders of one bundle, and the agent classes found in them.

    Two agents of a bundle may have their modules in two folders, with the same names in both. Only the folder of
    the running agent is on the import path, and only its modules are in `sys.modules`; the other folders' modules are
    kept aside.
    """

    def __init__(self, logs: Logs | None = None) -> None:
        self._logs = logs
        self._classes: dict[tuple[str, str | None, str | None], tuple[Path | None, type[Agent]]] = {}
        self._current: Path | None = None
        self._kept_aside: dict[Path, dict[str, ModuleType]] = {}

    def answer(self, question: bytes) -> bytes:
        """Run one question and return its outcome as JSON. Never raises: an error is an answer too."""
        try:
            return self._run(decode(question))
        except Refusal as refusal:
            return failure(str(refusal), "", permanent=True)
        except BaseException as error:
            return failure(one_line(error), trace_of(error))

    def _run(self, question: dict[str, Any]) -> bytes:
        if self._logs is not None:
            self._logs.set_level(question["config"].get("log_level", DEFAULT_LEVEL))
        agent_class = self._find(question["config"], question["payloads_path"])
        parts = question["message"]
        message = Message(*(parts[name] for name in ("envelope", "body", "headers", "artifacts", "stream")))
        payloads = question["payloads_path"]
        context = Context(
            job_id=question["job_id"],
            agent_id=question["agent_id"],
            config=question["config"],
            payloads_path=Path(payloads) if payloads is not None else None,
        )
        agent = agent_class()
        agent.state = question["state"]
        try:
            returned: object = agent.handle(message, context)  # type: ignore[func-returns-value]
        finally:
            actions = context._end()
        reject_returned(returned, f"{agent_class.__qualname__}.handle")
        return success(agent.state, actions)

    def _find(self, config: dict[str, Any], payloads: str | None) -> type[Agent]:
        name, source = config.get("module"), config.get("module_source")
        if not isinstance(name, str) or not isinstance(source, str | None):
            raise Refusal("config.module and config.module_source must be strings")
        known = self._classes.get((name, source, payloads))
        if known is None:
            folder = _source_folder(payloads, source)
            self._switch(folder)
            found = _import(name, folder)
            self._classes[name, source, payloads] = folder, found
            return found
        self._switch(known[0])
        return known[1]

    def _switch(self, folder: Path | None) -> None:
        if folder == self._current:
            return
        if self._current is not None:
            with suppress(ValueError):
                sys.path.remove(str(self._current))
            ours = [name for name, module in list(sys.modules.items()) if _beneath(module, self._current)]
            self._kept_aside[self._current] = {name: sys.modules.pop(name) for name in ours}
        self._current = folder
        if folder is not None:
            sys.path.insert(0, str(folder))  # first, like the folder of a script
            sys.modules.update(self._kept_aside.pop(folder, {}))


def _source_folder(payloads: str | None, source: str | None) -> Path | None:
    """Return the folder for the import path. Raises Refusal for a source that is not in the payloads."""
    if source is None:
        return Path(payloads).resolve() if payloads is not None and os.path.isdir(payloads) else None
    if payloads is None:
        raise Refusal(f"module_source {source!r} does not exist: the bundle has no payloads/")
    root = Path(payloads).resolve()
    place = (root / source).resolve()
    if not place.is_relative_to(root) or not place.exists():
        raise Refusal(f"module_source {source!r} is not in the bundle's payloads/")
    return place if place.is_dir() else place.parent


def _import(name: str, folder: Path | None) -> type[Agent]:
    """Return the agent class `package.mod:Class`. Raises Refusal, and ImportFailed if its module raises."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name or module_name.startswith("."):
        raise Refusal(f"config.module is {name!r}; it must be of the form package.mod:Class")
    top = module_name.partition(".")[0]
    if folder and top in sys.modules and not _beneath(sys.modules[top], folder) and _holds(folder, top):
        raise Refusal(
            f"cannot import {module_name}: the runtime has a module named {top!r} too; rename the one in the bundle"
        )
    try:
        __import__(module_name)  # not import_module, whose frames would be in every traceback
    except BaseException as error:
        raise ImportFailed(f"cannot import {module_name}: {one_line(error)}") from error
    try:
        found = attrgetter(class_name)(sys.modules[module_name])
    except AttributeError:
        raise Refusal(f"cannot import {class_name}: module {module_name!r} has no such class") from None
    if not isinstance(found, type) or not issubclass(found, Agent):
        raise Refusal(f"{name} is not a subclass of mirrorneuron.Agent")
    return found


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def _beneath(module: object, folder: Path) -> bool:
    """True if *module* was loaded from *folder*. A package without `__init__.py` has a path, but no file."""
    try:
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        return str(place).startswith(f"{folder}{os.sep}")
    except Exception:  # sys.modules may hold any object
        return False
