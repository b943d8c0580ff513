"""Remove folders that user code has written to: deeply nested, write-protected, or still being written to."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
_TRIES: Final = 3  # a process that is being killed may still create files in the folder


def remove(folder: Path) -> None:
    """Delete *folder* and its contents, write-protected ones too. A failure is logged, not raised."""
    for _ in range(_TRIES):
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:  # Python cannot remove folders nested hundreds deep, `rm` can
            with suppress(OSError):
                subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
        if not folder.exists():
            return
        with suppress(OSError, RecursionError):
            _make_writable(folder)
    _log.warning("folder %s cannot be removed: delete it by hand", folder)


def _make_writable(folder: Path) -> None:
    """Make folders writable, which is enough to delete files. Links are skipped: they may point anywhere."""
    folder.chmod(0o700)
    for path, folders, _ in os.walk(folder):
        for name in folders:  # before the walk enters them
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
