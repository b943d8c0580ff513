"""Packs folders as archives: the same files give the same bytes on any machine and at any time.

The format is uncompressed tar. Such an archive cannot unpack to more than its own size, and its bytes do not depend on
the version of a compressor.
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
LEFT_OUT: Final = "__pycache__"  # Python writes it when the files run; it must not change the digest
MAX_ENTRIES: Final = 100_000  #: files and folders; symbolic links between folders could multiply entries without limit
MAX_DEPTH: Final = 100  #: levels of folders; functions that remove a tree fail at some hundreds
_BLOCK: Final = tarfile.BLOCKSIZE
_FILE_TYPES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)
#: errors caused by the archive: members that conflict, or names that the file system rejects; others are I/O errors
_BAD_MEMBER: Final = frozenset(
    {errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EILSEQ}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder to pack, or a path that cannot be packed."""

    name: str  #: path relative to the packed folder, with `/`
    path: str
    size: int  #: bytes; 0 for a folder
    is_folder: bool = False
    executable: bool = False
    problem: str = ""  #: why it cannot be packed


def entries(folder: Path) -> Iterator[Entry]:
    """All files and folders in *folder*, sorted by name within each folder. Raises OSError for unreadable folders.

    A symbolic link to a place in *folder* is followed; any other link is an entry with a problem.
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
            yield Entry(entry.name, entry.path, 0, problem=f"contains more than {MAX_ENTRIES} files and folders")
            return
        prefix = f"{entry.name}/" if entry.name else ""
        stack.extend(_entry(prefix + name, os.path.join(entry.path, name), root) for name in names)


def _entry(name: str, path: str, root: str) -> Entry:
    if name.count("/") > MAX_DEPTH:
        return Entry(name, path, 0, problem=f"is nested more than {MAX_DEPTH} folders deep")
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        link, path = path, os.path.realpath(path)
        if os.path.commonpath((path, root)) != root:
            return Entry(name, link, 0, problem="is a symbolic link to a place outside the folder")
        if not os.path.exists(path):
            return Entry(name, link, 0, problem="is a broken symbolic link")
        if os.path.commonpath((path, os.path.dirname(link))) == path:
            return Entry(name, link, 0, problem="is a symbolic link to a folder that contains it")
        status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, path, 0, is_folder=True)
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, path, 0, problem="is not a regular file or folder")
    return Entry(name, path, status.st_size, executable=bool(status.st_mode & stat.S_IXUSR))


def pack_folder(path: Path, max_bytes: int) -> bytes:
    """Pack the folder *path* as an archive, without `__pycache__`.

    Raises PayloadTooLarge (before it reads any file), ValueError for an entry with a problem, OSError.
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
    return PayloadTooLarge(f"{what} is too large: {size:,} bytes, {SETTING} allows {max_bytes:,}")


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    """Add a member with name, type, content and the executable bit, and no other metadata."""
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
    """Unpack the archive *data* as the folder *target*; the folder appears complete or not at all.

    An existing target (another process unpacked first) is left unchanged. Raises ValueError for an archive that
    `pack_folder` did not make: members outside the folder, links, devices, sizes larger than the archive. Raises
    OSError if the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name[:80]}.", dir=target.parent))
    try:
        _write_members(data, partial)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except tarfile.TarError as error:
        raise ValueError(f"cannot read the archive: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_members(data: bytes, folder: Path) -> None:
    left = len(data)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for count, member in enumerate(tar):
            left -= member.size
            if member.size < 0 or left < 0 or count > MAX_ENTRIES:
                raise ValueError("the archive declares more content than its own size")
            try:
                _write(tar, member, folder / _safe_path(member))
            except OSError as error:
                if error.errno not in _BAD_MEMBER:
                    raise
                raise ValueError(f"cannot unpack {member.name!r} from the archive: {error.strerror}") from None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write one member. Its folder must exist and its path must not, as in every archive of `pack_folder`."""
    if member.isdir():
        path.mkdir()
        return
    content = tar.extractfile(member)
    assert content is not None  # `_safe_path` admits folders and plain files only; a plain file has content
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)


def _safe_path(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's path. Raises ValueError for a path or type that must not be unpacked."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise ValueError(f"cannot unpack {member.name!r} from the archive: it points outside the target folder")
    if member.issparse() or not (member.isdir() or member.type in _FILE_TYPES):
        raise ValueError(f"cannot unpack {member.name!r} from the archive: it is not a regular file or folder")
    if len(name.parts) > MAX_DEPTH + 1:
        raise ValueError(
            f"cannot unpack {member.name[:80]!r}... from the archive: it is nested more than {MAX_DEPTH} folders deep"
        )
    return name
