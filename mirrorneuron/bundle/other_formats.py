"""Recognizes manifests of other formats, and says so in one line instead of listing what this format lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mirrorneuron.bundle.manifest import VERSION
from mirrorneuron.bundle.parse import below, shown
from mirrorneuron.errors import Issue

_WORKFLOW: Final = "mn.workflow/"
_NESTED: Final = (("flow", "nodes"), ("flow", "graph"), ("workflow", "steps"), ("agents", "nodes"))
_ELIXIR_FILE: Final = (".ex", ".exs")
_ELIXIR_NAME: Final = re.compile(r"(Elixir\.)?[A-Z]\w*(\.[A-Z]\w*)*")
_HINT: Final = f'write manifest_version "{VERSION}", with the agents in "nodes" and their connections in "edges"'


def issues(raw: Mapping[str, Any]) -> list[Issue]:
    """One issue for each sign that *raw* is a manifest of another format; none for a manifest of this format."""
    return [*_api_version(raw), *_nested_nodes(raw), *_uses(raw.get("nodes"))]


def is_elixir(config: Mapping[str, Any]) -> bool:
    """True if the config of a module names an Elixir module."""
    module, source = config.get("module"), config.get("module_source")
    return (isinstance(source, str) and source.endswith(_ELIXIR_FILE)) or (
        isinstance(module, str) and _ELIXIR_NAME.fullmatch(module) is not None
    )


def elixir_issue(config: Mapping[str, Any], path: str) -> Issue:
    source = config.get("module_source")
    from_file = isinstance(source, str) and source.endswith(_ELIXIR_FILE)
    key = "module_source" if from_file else "module"
    message = f"{shown(config[key])} is an Elixir {'file' if from_file else 'module'}; modules are Python classes here"
    return Issue(f"{path}.{key}", message, 'port it to Python, and write module as "package.module:Class"')


def _api_version(raw: Mapping[str, Any]) -> Iterator[Issue]:
    given = raw.get("apiVersion")
    if given is None:
        return
    workflow = isinstance(given, str) and given.startswith(_WORKFLOW)
    if workflow or raw.get("manifest_version") is None:
        yield Issue("apiVersion", f"{shown(given)} names another manifest format, which is not supported", _HINT)


def _nested_nodes(raw: Mapping[str, Any]) -> Iterator[Issue]:
    if raw.get("nodes") is not None:
        return
    for outer, inner in _NESTED:
        value = raw.get(outer)
        if isinstance(value, Mapping) and isinstance(value.get(inner), list | Mapping):
            yield Issue(f"{outer}.{inner}", "is not read; this manifest is of another format", _HINT)


def _uses(nodes: Any) -> Iterator[Issue]:
    """One issue for all nodes that name a package (`uses`) instead of an agent type."""
    found = [
        below("nodes", index)
        for index, node in enumerate(nodes if isinstance(nodes, list) else ())
        if isinstance(node, Mapping) and node.get("uses") is not None and node.get("agent_type") is None
    ]
    if found:
        more = f" (and {len(found) - 1} more nodes)" if len(found) > 1 else ""
        message = f"is not supported{more}; nodes that reuse a published agent are of another format"
        yield Issue(f"{found[0]}.uses", message, "give each node an agent_type, and its command or module in config")
