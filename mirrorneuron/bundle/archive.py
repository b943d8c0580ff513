"""Folders as archives: the same files give the same bytes, on any machine and at any time.

The form is a plain tar: it cannot unpack to more than its own length, and its bytes depend on no compressor's version.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from mirrorneuron.errors import PayloadTooLarge

SETTING: Final = "MIRROR_NEURON_MAX_BUNDLE_BYTES"
LEFT_OUT: Final = "__pycache__"  # running the files must not change their digest
MAX_ENTRIES: Final = 100_000  #: files and folders; links between folders could otherwise multiply without end
MAX_DEPTH: Final = 100  #: folders in folders; what removes a tree gives up on some hundreds
_BLOCK: Final = tarfile.BLOCKSIZE
_PLAIN: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)
#: what a system says to members that no folder can hold side by side, or at all; the rest is trouble of its own
_MISFIT: Final = frozenset({errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EILSEQ})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder of a folder, or one that cannot be packed."""

    name: str  #: relative, with `/`
    path: str
    size: int  #: bytes; 0 for a folder
    is_folder: bool = False
    executable: bool = False
    problem: str = ""  #: why it cannot be packed


def entries(folder: Path) -> Iterator[Entry]:
    """All that *folder* holds, sorted by name within each folder. Raises OSError for what cannot be read.

    Links that stay in the folder are what they point to; others are entries with a problem.
    """
    root = os.path.realpath(folder)
    stack = [Entry("", root, 0, is_folder=True)]
    count = 0
    while stack:
        entry = stack.pop()
        if entry.name:
            yield entry
        if not entry.is_folder or entry.problem:
            continue
        names = sorted((name for name in os.listdir(entry.path) if name != LEFT_OUT), reverse=True)
        count += len(names)
        if count > MAX_ENTRIES:
            yield Entry(entry.name, entry.path, 0, problem=f"more than {MAX_ENTRIES} files and folders")
            return
        prefix = f"{entry.name}/" if entry.name else ""
        stack.extend(_entry(prefix + name, os.path.join(entry.path, name), root) for name in names)


def _entry(name: str, path: str, root: str) -> Entry:
    if name.count("/") > MAX_DEPTH:
        return Entry(name, path, 0, problem=f"lies more than {MAX_DEPTH} folders deep")
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        link, path = path, os.path.realpath(path)
        if os.path.commonpath((path, root)) != root:
            return Entry(name, link, 0, problem="is a link that leads out of the folder")
        if not os.path.exists(path):
            return Entry(name, link, 0, problem="is a link to nothing")
        if os.path.commonpath((path, os.path.dirname(link))) == path:
            return Entry(name, link, 0, problem="is a link to a folder that it is in")
        status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, path, 0, is_folder=True)
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, path, 0, problem="is neither a file nor a folder")
    return Entry(name, path, status.st_size, executable=bool(status.st_mode & stat.S_IXUSR))


def pack_folder(path: Path, max_bytes: int) -> bytes:
    """The archive of the folder *path*; `__pycache__` is left out.

    Raises PayloadTooLarge (before it reads any file), ValueError for links that lead out and for devices, OSError.
    """
    found = list(entries(path))
    for entry in found:
        if entry.problem:
            raise ValueError(f"{entry.name}: {entry.problem}")
    size = sum(_BLOCK + -(-entry.size // _BLOCK) * _BLOCK for entry in found)
    if size > max_bytes:
        raise too_large(str(path), size, max_bytes)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in found:
            _add(tar, entry)
    return buffer.getvalue()


def too_large(what: str, size: int, max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"{what} takes {size:,} bytes, {SETTING} allows {max_bytes:,}")


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    """Add a member that says nothing but name, kind, content and whether it can be run."""
    info = tarfile.TarInfo(entry.name)
    info.mtime = 0
    if entry.is_folder:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
        return
    content = Path(entry.path).read_bytes()
    info.size = len(content)
    info.mode = 0o755 if entry.executable else 0o644
    tar.addfile(info, io.BytesIO(content))


def unpack(data: bytes, target: Path) -> None:
    """Write the archive *data* as the folder *target*: all of it or nothing.

    A target that is there already (another process was faster) is left as it is. Raises ValueError for an archive that
    `pack_folder` did not make: members that lead out, links, devices, sizes beyond the archive's own; OSError for a
    place that cannot be written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name[:80]}.", dir=target.parent))
    try:
        _write_members(data, beside)
        beside.chmod(0o755)
        try:
            beside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except tarfile.TarError as error:
        raise ValueError(f"the archive cannot be read: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_members(data: bytes, folder: Path) -> None:
    left = len(data)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for count, member in enumerate(tar):
            left -= member.size
            if member.size < 0 or left < 0 or count > MAX_ENTRIES:
                raise ValueError("the archive claims to hold more than it can")
            try:
                _write(tar, member, folder / _safe(member))
            except OSError as error:
                if error.errno not in _MISFIT:
                    raise
                raise ValueError(f"the archive holds {member.name!r}: {error.strerror}") from None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a member that is not there yet, into a folder that is: that is how they are packed."""
    if member.isdir():
        path.mkdir()
        return
    content = tar.extractfile(member)
    assert content is not None  # a plain file has content
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)


def _safe(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's name, if it is one that can be written beneath a folder."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise ValueError(f"the archive holds {member.name!r}, which leads out of it")
    if member.issparse() or not (member.isdir() or member.type in _PLAIN):
        raise ValueError(f"the archive holds {member.name!r}, which is neither a file nor a folder")
    if len(name.parts) > MAX_DEPTH + 1:
        raise ValueError(f"the archive holds {member.name[:80]!r}..., which lies more than {MAX_DEPTH} folders deep")
    return name
