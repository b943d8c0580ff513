"""`mn validate`: check a bundle. Needs no server and imports neither Celery nor redis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from mirrorneuron.bundle.load import JobBundle, validate_manifest
from mirrorneuron.cli import output
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import Folder, Json
from mirrorneuron.errors import Issue, ManifestError
from mirrorneuron.text import count


def validate(folder: Folder, json: Json = False) -> None:
    """Check a bundle folder and report every problem.

    Exit codes: 0 valid, possibly with warnings; 2 invalid.
    """
    try:
        bundle = validate_manifest(folder)
    except ManifestError as error:
        if not json:
            raise
        output.document({"valid": False, "issues": _plain(error.issues), "warnings": []})
        raise typer.Exit(Code.USAGE) from None
    manifest = bundle.manifest
    counts = {"nodes": len(manifest.nodes), "edges": len(manifest.edges)}
    if json:
        found = {"valid": True, "issues": [], "warnings": _plain(bundle.warnings)}
        output.document({**found, "graph_id": manifest.graph_id, **counts})
        return
    warn(bundle)
    size = ", ".join(count(number, name.removesuffix("s")) for name, number in counts.items())
    output.line(f"{manifest.graph_id} is valid: {size}")


def warn(bundle: JobBundle) -> None:
    """Print the bundle's warnings to stderr."""
    for issue in bundle.warnings:
        complain(f"warning: {issue}")


def _plain(issues: Iterable[Issue]) -> list[dict[str, Any]]:
    return [{"path": issue.path, "message": issue.message, "hint": issue.hint} for issue in issues]
