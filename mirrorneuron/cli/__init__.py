"""The command line, `mirrorneuron` or `mn`: a skin. A command parses, calls one verb of the client, prints, and exits
by the status of what it got.

Read in this order: commands (the table) -> exits, runtime, output -> one module a command.

Each command's module is imported when the command is used, so that `mn --help` and `mn validate` need neither Celery
nor redis.
"""

from __future__ import annotations

import gc
import sys

from mirrorneuron.cli.command_table import root
from mirrorneuron.cli.exits import ending

__all__ = ["main"]


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    code = ending(root())
    gc.freeze()  # else the interpreter looks through all modules as it ends, a tenth of the time of a short command
    sys.exit(code)
