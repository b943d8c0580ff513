"""Copy what a node's `config` names from the bundle's `payloads/` into the run folder.

Validation has checked all this already, but a bundle may have been submitted by other code, and a copy of something
outside `payloads/` would hand a node's files to a job: so each path is checked where it is used.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.runners.protocol import RunRefused
from workers.runners.sandbox_paths import SandboxPaths


@dataclass(frozen=True, slots=True)
class Upload:
    """One entry: *source* beneath `payloads/` goes to *target*."""

    where: str  #: the key of `config` that says so
    source: str
    target: str  #: relative to the run folder, or an absolute path of the sandbox; `x/` takes a file as `x/<its name>`


def uploads_of(config: Mapping[str, Any]) -> list[Upload]:
    """The uploads that *config* asks for: `upload_path`, then `upload_paths`, then `uploads`.

    The target is the source's name where none is given. Raises RunRefused.
    """
    found = []
    if config.get("upload_path") is not None:
        found.append(_upload("upload_path", config["upload_path"], config.get("upload_as")))
    for key in ("upload_paths", "uploads"):
        entries = config.get(key) or []
        if not isinstance(entries, list):
            raise RunRefused(f"config.{key}: must be a list of {{source, target}}")
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise RunRefused(f"config.{key}[{number}]: must be an object with source and target")
            found.append(_upload(f"{key}[{number}]", entry.get("source"), entry.get("target")))
    return found


def _upload(key: str, source: Any, target: Any) -> Upload:
    where = f"config.{key}"
    if not isinstance(source, str) or not source or "\0" in source:
        raise RunRefused(f"{where}: the source must be a path in payloads/")
    if source.startswith("/") or ".." in source.split("/"):
        raise RunRefused(f"{where}: {source!r} leads out of payloads/")
    if target is None:
        target = Path(source).name
    if not isinstance(target, str) or "\0" in target:
        raise RunRefused(f"{where}: the target must be a path")
    return Upload(where, source, target)


def copy_upload(upload: Upload, payloads: Path | None, paths: SandboxPaths) -> None:
    """Copy one file, or a folder into what may be there already. Raises RunRefused, and OSError for a full disk."""
    if payloads is None:
        raise RunRefused(f"{upload.where}: the bundle has no payloads/")
    try:
        root = payloads.resolve(strict=True)
        source = _inside(payloads / upload.source, root)
    except RunRefused as error:
        raise RunRefused(f"{upload.where}: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise RunRefused(f"{upload.where}: there is no {upload.source!r} in payloads/") from None
    try:
        target = paths.target(upload.target)
        if not source.is_dir() and (upload.target.endswith("/") or target == paths.folder):
            target /= Path(upload.source).name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(str(source), str(target), root, ())
    except RunRefused as error:
        raise RunRefused(f"{upload.where}: {error}") from None
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        message = f"{upload.where}: {upload.target!r} cannot be both a file and a folder"
        raise RunRefused(message) from None


def _inside(path: Path, root: Path) -> Path:
    """*path* with its links followed. Raises RunRefused if they lead out of *root*, FileNotFoundError if nowhere."""
    try:
        real = path.resolve(strict=True)
    except (RuntimeError, OSError) as error:  # links in a circle are a RuntimeError before Python 3.13
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise
        raise RunRefused(f"{path.name!r} is a link to itself") from None
    if not real.is_relative_to(root):
        raise RunRefused(f"{path.name!r} is a link that leads out of payloads/")
    return real


def _copy(source: str, target: str, root: Path, above: tuple[str, ...]) -> None:
    """Copy *source*, a real path in *root*; *above* are the folders that are being copied around it.

    Links become what they point to, so that nothing in a run folder leads out of it when the command begins.
    """
    mode = os.stat(source).st_mode
    if stat.S_ISREG(mode):
        shutil.copyfile(source, target)
        # Write-protection is the node's own, for its copy of the bundle; only "can be run" is the author's.
        os.chmod(target, 0o755 if mode & 0o111 else 0o644)
        return
    if not stat.S_ISDIR(mode):
        raise RunRefused(f"{os.path.basename(source)!r} is neither a file nor a folder")
    if source in above:
        raise RunRefused(f"{os.path.basename(source)!r} contains a link to itself")
    if not os.path.isdir(target):
        os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            inner = str(_inside(Path(entry.path), root)) if entry.is_symlink() else entry.path
            _copy(inner, os.path.join(target, entry.name), root, (*above, source))
