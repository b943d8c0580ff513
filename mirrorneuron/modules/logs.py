"""Log records of module agents: to stderr with level and logger, unless the module handles them itself."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final

FORMAT: Final = "%(levelname)s %(name)s: %(message)s"
DEFAULT_LEVEL: Final = "INFO"


class StderrHandler(logging.Handler):
    """Writes records to what `sys.stderr` is now. It never raises: a record that cannot be written is not worth a run.

    It leaves a record to the handlers that the module has added for it: each line appears once.
    """

    _is_writing = False  #: under the lock of the handler

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_handled(record):
            return
        try:
            line = f"{self.format(record)}\n"
        except Exception:  # the arguments do not fit the format: say so, as logging does, and go on
            with suppress(Exception):
                self.handleError(record)
            return
        try:
            if self._is_writing:  # `sys.stderr` is an object of the module that logs what it is given
                raise RecursionError
            self._is_writing = True
            sys.stderr.write(line)
        except Exception:  # the module has closed or replaced it
            with suppress(Exception):
                os.write(2, line.encode(errors="backslashreplace"))
        finally:
            self._is_writing = False

    def _is_handled(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            for other in logger.handlers:
                # Libraries add null handlers so that records without a handler are silent in a program without logging.
                if other is not self and not isinstance(other, logging.NullHandler) and record.levelno >= other.level:
                    return True
            logger = logger.parent if logger.propagate else None
        return False


class Logs:
    """The set-up of logging in one module child: a handler of the root logger, and its level for each message."""

    def __init__(self) -> None:
        self._handler = StderrHandler()
        self._handler.setFormatter(logging.Formatter(FORMAT))
        self._level = logging.root.level
        logging.root.addHandler(self._handler)
        if logging.lastResort is not None:  # for loggers that do not propagate and have no handler
            logging.lastResort.setFormatter(self._handler.formatter)
        logging.basicConfig = self._giving_way(logging.basicConfig)
        logging.captureWarnings(True)

    def set_level(self, name: object) -> None:
        """Set the level by its *name*, such as `INFO`, unless the module has set the root logger's level itself."""
        level = getattr(logging, name.upper(), None) if isinstance(name, str) else None
        if logging.root.level == self._level:
            self._level = level if isinstance(level, int) else logging.INFO
            logging.root.setLevel(self._level)

    def _giving_way(self, basic_config: Callable[..., None]) -> Callable[..., None]:
        """`logging.basicConfig`, which does nothing while there is a handler, for a module that calls it."""

        @wraps(basic_config)
        def configure(**options: Any) -> None:
            logging.root.removeHandler(self._handler)
            try:
                basic_config(**options)
            except BaseException:
                logging.root.addHandler(self._handler)
                raise

        return configure
