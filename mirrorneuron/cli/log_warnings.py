"""What the library logs, told like the command's own complaints."""

from __future__ import annotations

import logging

from mirrorneuron.cli.exits import complain


class Complaints(logging.Handler):
    """Prints `mn: warning: ...` to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.levelname.lower()}: {record.getMessage()}")


def tell() -> None:
    """Tell of warnings from now on, unless somebody sets logging up: then that is where they go."""
    logging.lastResort = Complaints(logging.WARNING)
