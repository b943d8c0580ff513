"""A manifest while it is validated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mirrorneuron.bundle.manifest import Edge, Node
from mirrorneuron.bundle.parse import kind, shown
from mirrorneuron.bundle.suggest import Suggestions
from mirrorneuron.errors import Issue


@dataclass(slots=True)
class Draft:
    """A manifest while it is being read. A part that could not be read is left out, and has an entry in `issues`."""

    issues: list[Issue] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)  #: problems of payload files that may not be fatal
    nodes: list[tuple[str, dict[str, Any], Node | None]] = field(default_factory=list)  #: path, JSON, model
    edges: list[Edge] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)  #: node id -> path of the first node that has it
    suggestions: Suggestions = field(default_factory=Suggestions)

    def issue(self, path: str, message: str, hint: str = "") -> None:
        self.issues.append(Issue(path, message, hint))

    def unknown_node(self, path: str, name: Any) -> None:
        """Add the issue that *name* is not the id of a node."""
        if not isinstance(name, str):
            self.issue(path, f"must be a node id, not {kind(name)}")
        elif self.ids:  # without any node there is one issue for that already
            self.issue(path, f"no node {shown(name)}", self.suggestions.near(name, self.ids))
