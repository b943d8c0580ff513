"""Copy the uploads of a manifest node from the bundle's `payloads/` into the run folder.

Validation checks uploads too. But a bundle may have been submitted by other code, and copying a path outside of
`payloads/` would give a job files of this machine, so each path is checked again before use.
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

    where: str  #: the key of `config`, for errors
    source: str
    target: str  #: relative to the run folder, or an absolute path of the sandbox; `x/` takes a file as `x/<its name>`


def uploads_of(config: Mapping[str, Any]) -> list[Upload]:
    """The uploads of *config*: `upload_path`, then `upload_paths`, then `uploads`.

    The default target is the name of the source. Raises RunRefused.
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
    """Copy one file, or merge a folder into its target. Raises RunRefused, and OSError for a full disk."""
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
    """Resolve the links of *path*. Raises RunRefused if they lead out of *root*, FileNotFoundError for a dead link."""
    try:
        real = path.resolve(strict=True)
    except (RuntimeError, OSError) as error:  # a circle of links is a RuntimeError before Python 3.13
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise
        raise RunRefused(f"{path.name!r} is a link to itself") from None
    if not real.is_relative_to(root):
        raise RunRefused(f"{path.name!r} is a link that leads out of payloads/")
    return real


def _copy(source: str, target: str, root: Path, above: tuple[str, ...]) -> None:
    """Copy *source*, a resolved path in *root*; *above* are the folders that contain it and are being copied.

    Links are replaced by copies of their targets, so that no path in the run folder leads out of it.
    """
    mode = os.stat(source).st_mode
    if stat.S_ISREG(mode):
        shutil.copyfile(source, target)
        # The cache write-protects its files; of the author's file modes only "executable" is kept.
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
