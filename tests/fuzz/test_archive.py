"""Archives of payloads: any bytes are unpacked below the target or refused; nothing else is written."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.bundle.archive import MAX_DEPTH, pack_folder, unpack
from tests.fuzz.conftest import fuzzed, is_one_line
from tests.support.fuzzing.values import garbled
from workers.disk.bundle_cache import BundleCache

MIB = 1024 * 1024
PARTS = st.sampled_from(
    ["a", "b", "..", ".", "", "x" * 300, "\udcff", "ü", "a\nb", "-rf", "~", "con", "\\", "\0", "a" * 99]
)
NAMES = st.lists(PARTS, max_size=4).map("/".join) | st.sampled_from(
    ["/etc/passwd", "../../out", "a/" * 150, "a/" * 3_000, "a" * 4_000, "/", "//", "./a", "a/./b", "a/..", "a//b"]
)
KINDS = st.sampled_from(
    [
        *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) * 3,
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE),
        *(tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"Z", b"\0"),
    ]
)
PAX = st.dictionaries(
    st.sampled_from(
        ["path", "size", "linkpath", "GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.size", "hdrcharset", "x"]
    ),
    st.sampled_from(["0", "1", "-1", "9" * 30, "../out", "/abs", "a", "BINARY", "0,1,2", "1e9", "nan", ""]),
    max_size=2,
)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(KINDS)
    info.linkname = draw(NAMES)
    info.mode = draw(st.integers(0, 0o7777))
    info.pax_headers = draw(PAX)
    content = draw(st.binary(max_size=700))
    info.size = draw(st.sampled_from([len(content)] * 4 + [0, 1, 512, 10**6, 10**12, 2**62, -1, -512, -(2**40)]))
    return info, content


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """An archive of members that no folder can have, with wrong sizes."""
    form: Literal[0, 1, 2] = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
    data = b""
    for info, content in draw(st.lists(members(), min_size=1, max_size=5)):
        try:
            data += info.tobuf(form, "utf-8", "surrogateescape")
        except (ValueError, OverflowError):  # this archive format cannot represent it
            info.size, info.name = len(content), "plain"
            data += info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        data += content + b"\0" * (-len(content) % 512)
    return data + b"\0" * draw(st.sampled_from([0, 512, 1024]))


def of_files(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def folders(levels: int) -> bytes:
    """An archive of nested folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for level in range(levels):
            info = tarfile.TarInfo("/".join("a" * (level + 1)))
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    return buffer.getvalue()


RIGHT = of_files(**{"run.sh": b"#!/bin/sh\n", "data": b"x" * 1_500, "n" * 150: b"long"})


@contextmanager
def place() -> Iterator[Path]:
    """A folder to unpack in, next to a folder that must not change. Only the target may be created."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        root = Path(name)
        (root / "neighbour").mkdir()
        (root / "neighbour" / "file").write_bytes(b"mine")
        (root / "cache").mkdir()
        yield root / "cache" / "target"
        assert sorted(os.listdir(root)) == ["cache", "neighbour"]
        assert os.listdir(root / "neighbour") == ["file"]
        assert (root / "neighbour" / "file").read_bytes() == b"mine"


def is_plain(target: Path, most_bytes: int) -> None:
    """Check that the target holds only plain files and folders, and no more bytes than the archive."""
    size = 0
    for where, _, names in os.walk(target):
        assert stat.S_IMODE(os.lstat(where).st_mode) & 0o700 == 0o700
        for name in names:
            status = os.lstat(os.path.join(where, name))
            assert stat.S_ISREG(status.st_mode)
            assert stat.S_IMODE(status.st_mode) in (0o755, 0o644)
            assert status.st_nlink == 1
            size += status.st_size
    assert size <= most_bytes
    pack_folder(target, 10 * MIB)  # it is an ordinary folder


@fuzzed(40)
@given(st.one_of(tars(), garbled(RIGHT), garbled(folders(3)), tars().flatmap(garbled), st.binary(max_size=2_000)))
@example(folders(MAX_DEPTH + 1))
@example(folders(MAX_DEPTH + 2))
@example(folders(1_200))
@example(of_files(**{"a": b"", "a/b": b""}))
@example(of_files(**{"b" * 300: b""}))
@example(of_files(**{"": b""}))
@example(b"")
def test_any_bytes_are_unpacked_or_refused(data: bytes) -> None:
    with place() as target:
        try:
            unpack(data, target)
        except ValueError as error:
            is_one_line(error)
            assert os.listdir(target.parent) == []
        else:
            assert os.listdir(target.parent) == ["target"]
            is_plain(target, len(data))


@fuzzed(15)
@given(tars() | garbled(RIGHT))
def test_a_node_keeps_nothing_of_an_archive_that_it_refuses(data: bytes) -> None:
    """An archive with a wrong digest is not opened at all."""
    digest = hashlib.sha256(data).hexdigest()
    with place() as target:
        cache = BundleCache(target, MIB)
        with pytest.raises(ValueError, match="damaged"):
            cache.path("0" * 64, lambda: data)
        try:
            found = cache.path(digest, lambda: data)
        except ValueError:
            found = None
        folders = {name for name in os.listdir(target) if not name.endswith(".lock")}
        assert folders == ({digest} if found else set())
        cache.trim(now=10**12)


@fuzzed(30)
@given(st.text() | st.binary(max_size=70) | st.sampled_from(["../" * 21 + "a", "0" * 63, "G" * 64, "0" * 64 + "\n"]))
def test_a_cache_folder_is_named_only_after_a_valid_digest(digest: Any) -> None:
    with place() as target, pytest.raises((ValueError, TypeError)):
        BundleCache(target, MIB).path(digest, lambda: RIGHT)


def test_a_valid_archive_is_unpacked() -> None:
    with place() as target:
        unpack(RIGHT, target)
        assert sorted(os.listdir(target)) == sorted(["run.sh", "data", "n" * 150])
