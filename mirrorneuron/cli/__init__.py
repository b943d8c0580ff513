"""The command line, `mirrorneuron` or `mn`. A command parses its arguments, calls one method of the client, prints the
result, and exits with a code that depends on the result.

Read in this order: command_table -> exits, target, output -> commands, one module for each.

A command's module is imported when the command is used, so that `mn --help` and `mn validate` need neither Celery
nor redis.
"""

from __future__ import annotations

import gc
import sys

from mirrorneuron.cli.command_table import root
from mirrorneuron.cli.exits import run_command
from mirrorneuron.processes.standard_streams import open_missing

__all__ = ["main"]


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    open_missing()
    code = run_command(root())
    gc.freeze()  # saves the garbage collection at exit, a tenth of the time of a short command
    sys.exit(code)
