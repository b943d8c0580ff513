"""Print the library's log warnings in the form of the command's own messages."""

from __future__ import annotations

import logging

from mirrorneuron.cli.exits import complain


class StderrHandler(logging.Handler):
    """Prints a log record as `mn: warning: ...` to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.levelname.lower()}: {record.getMessage()}")


def enable() -> None:
    """Print warnings and errors from now on, unless logging is configured: a configured handler gets them instead."""
    logging.lastResort = StderrHandler(logging.WARNING)
