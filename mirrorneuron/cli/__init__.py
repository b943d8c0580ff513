"""The command line, `mirrorneuron` or `mn`: a skin. A command parses, calls one verb of the client, prints, and exits
by the status of what it got.

Read in this order: commands (the table) -> exits, runtime, output -> one module a command.

Each command's module is imported when the command is used, so that `mn --help` and `mn validate` need neither Celery
nor redis.
"""

from __future__ import annotations

import sys

from mirrorneuron.cli.commands import root
from mirrorneuron.cli.exits import ending

__all__ = ["main"]


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    sys.exit(ending(root()))
