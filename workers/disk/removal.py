"""Removing folders in which somebody's code has worked: deep ones, write-protected ones, ones still written to."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
_TRIES: Final = 3  # a killed process may create a file while its folder is being removed


def remove(folder: Path) -> None:
    """Delete *folder* and all in it, also what is write-protected. What cannot be deleted is logged, not raised."""
    for _ in range(_TRIES):
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:  # Python gives up on folders nested some hundreds deep, `rm` does not
            with suppress(OSError):
                subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
        if not folder.exists():
            return
        with suppress(OSError, RecursionError):
            _make_writable(folder)
    _log.warning("folder %s cannot be removed: delete it by hand", folder)


def _make_writable(folder: Path) -> None:
    """Deleting needs rights on folders, not on files. Links to folders are left alone: they may point anywhere."""
    folder.chmod(0o700)
    for path, folders, _ in os.walk(folder):
        for name in folders:  # before the walk goes into them
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
