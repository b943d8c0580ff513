"""`mn version`: the installed versions."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version as version_of

from mirrorneuron.cli import output
from mirrorneuron.cli.options import Json


def print_version() -> None:
    """Print one line, for `mn --version`."""
    sys.stdout.write(f"mirrorneuron {version_of('mirrorneuron')}\n")


def version(json: Json = False) -> None:
    """Show the versions of MirrorNeuron and its dependencies."""
    packages = {name: version_of(name) for name in ("mirrorneuron", "celery", "kombu", "redis", "flower")}
    versions = {**packages, "python": platform.python_version()}
    if json:
        output.document(versions)
    else:
        output.fields(versions)
