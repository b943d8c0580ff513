"""Remove folders that user code has written to: deeply nested, write-protected, or still being written to."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES: Final = 3  # a process that is being killed may still create files in the folder


def remove(folder: Path) -> None:
    """Delete *folder* and its contents, write-protected ones too. A failure is logged, not raised.

    Works on open folders and never follows a link, whatever user code does meanwhile: of a link in place of *folder*
    only the link is deleted, and nothing is deleted if the folder above is a link.
    """
    try:
        above = os.open(folder.parent, _FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("folder %s cannot be removed: %s", folder, error)
        return
    try:
        for _ in range(_TRIES):
            if _removed(folder.name, above, folder.parent):
                return
            with suppress(OSError, RecursionError):
                _make_writable(folder.name, above)
    finally:
        os.close(above)
    _log.warning("folder %s cannot be removed: delete it by hand", folder)


def _removed(name: str, above: int, parent: Path) -> bool:
    try:
        if stat.S_ISLNK(os.lstat(name, dir_fd=above).st_mode):
            os.unlink(name, dir_fd=above)
            return True
        shutil.rmtree(name, ignore_errors=True, dir_fd=above)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    except RecursionError:  # Python cannot remove folders nested hundreds deep; `rm` can, and follows no links either
        with suppress(OSError):
            place = f"/proc/self/fd/{above}" if sys.platform == "linux" else parent
            subprocess.run(["rm", "-rf", "--", name], cwd=place, stderr=subprocess.DEVNULL, check=False)
    try:
        os.lstat(name, dir_fd=above)
    except FileNotFoundError:
        return True
    return False


def _make_writable(name: str, above: int) -> None:
    """Make a folder and those in it writable, which is enough to delete files."""
    _make_folder_writable(name, above)
    for _, folders, _, opened in os.fwalk(name, dir_fd=above, follow_symlinks=False):
        for inner in folders:  # before the walk enters them
            with suppress(OSError):  # a link, or deleted meanwhile
                _make_folder_writable(inner, opened)


def _make_folder_writable(name: str, above: int) -> None:
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, 0o700, dir_fd=above, follow_symlinks=False)
        return
    opened = os.open(name, os.O_PATH | _FOLDER, dir_fd=above)  # needs no right to read the folder
    try:
        os.chmod(f"/proc/self/fd/{opened}", 0o700)
    finally:
        os.close(opened)
