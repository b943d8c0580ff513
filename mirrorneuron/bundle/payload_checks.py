"""Checks what a node takes from `payloads/`: that the files exist, and that modules and scripts can run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mirrorneuron.bundle import uploads
from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.bundle.module_check import Modules
from mirrorneuron.bundle.script_check import Scripts
from mirrorneuron.bundle.uploads import Sources
from mirrorneuron.errors import Issue


class PayloadChecks:
    """The checks of one bundle's payloads; each file is read once."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._modules = Modules(sources)
        self._scripts = Scripts(sources)

    def issues(self, agent_type: AgentType, config: dict[str, Any], path: str) -> Iterator[Issue]:
        """The issues with the paths that a node's config names."""
        if agent_type is AgentType.EXECUTOR:
            return uploads.problems(config, path, self._sources)
        return uploads.module_source_problem(config, path, self._sources)

    def content(self, agent_type: AgentType, config: dict[str, Any], path: str) -> tuple[Issue, bool] | None:
        """The problem of the files' content, and whether every run would fail; the config must have no issues."""
        if agent_type is AgentType.MODULE:
            found = self._modules.check(config["module"], config.get("module_source"))
            return (Issue(f"{path}.module", found.message, found.hint), found.fatal) if found else None
        problem = self._scripts.problem(config)
        hint = "save it with LF line endings, as `dos2unix` does"
        return (Issue(f"{path}.command", problem, hint), isinstance(config["command"], list)) if problem else None
