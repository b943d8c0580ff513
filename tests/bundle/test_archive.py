"""Archives of folders: packing is deterministic, and unpacking is safe."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorneuron.bundle import archive
from mirrorneuron.bundle.archive import pack_folder, unpack
from mirrorneuron.errors import PayloadTooLarge

MIB = 1024 * 1024
NAME = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..", archive.LEFT_OUT) and len(name.encode()) < 200
)


def tree(folder: Path) -> dict[str, tuple[bytes | None, bool]]:
    """Relative path -> content (None for a folder) and whether the file is executable."""
    return {
        str(path.relative_to(folder)): (
            None if path.is_dir() else path.read_bytes(),
            bool(path.stat().st_mode & stat.S_IXUSR) and not path.is_dir(),
        )
        for path in folder.rglob("*")
    }


def tar_of(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_unpacking_restores_the_packed_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "sub" / ("deep" * 40)).mkdir(parents=True)
    (source / "sub" / ("deep" * 40) / "ü.txt").write_bytes(b"\0\xff")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o700)
    (source / "sub" / "empty").touch(0o600)
    unpack(pack_folder(source, MIB), tmp_path / "target")
    assert tree(tmp_path / "target") == tree(source)
    assert stat.S_IMODE((tmp_path / "target" / "run.sh").stat().st_mode) == 0o755


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAME, st.binary(max_size=600), max_size=5))
def test_any_names_and_contents_survive(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "source").mkdir()
    for name, content in files.items():
        (folder / "source" / name).write_bytes(content)
    unpack(pack_folder(folder / "source", MIB), folder / "target")
    assert tree(folder / "target") == tree(folder / "source")


def test_times_owners_and_the_order_of_writing_do_not_change_the_archive(tmp_path: Path) -> None:
    for name, order in (("one", "abc"), ("two", "cba")):
        (tmp_path / name).mkdir()
        for letter in order:
            (tmp_path / name / letter).write_text(letter)
            (tmp_path / name / letter).chmod(0o600 if name == "one" else 0o644)
            os.utime(tmp_path / name / letter, (ord(order[0]), ord(order[0])))
    assert pack_folder(tmp_path / "one", MIB) == pack_folder(tmp_path / "two", MIB)


def test_pycache_is_not_packed(tmp_path: Path) -> None:
    """Running the files must not change the digest of the bundle."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m.py").touch()
    before = pack_folder(tmp_path, MIB)
    (tmp_path / "sub" / "__pycache__").mkdir()
    (tmp_path / "sub" / "__pycache__" / "m.pyc").touch()
    assert pack_folder(tmp_path, MIB) == before


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a" / "file").write_text("x")
    (source / "link").symlink_to("a")
    (source / "again").symlink_to(source / "a" / "file")
    unpack(pack_folder(source, MIB), tmp_path / "target")
    assert (tmp_path / "target" / "link" / "file").read_text() == "x"
    assert not (tmp_path / "target" / "link").is_symlink()
    assert (tmp_path / "target" / "again").read_text() == "x"


def test_a_link_out_of_the_folder_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source-secret").write_text("x")
    (tmp_path / "source" / "link").symlink_to(tmp_path / "source-secret")
    with pytest.raises(ValueError, match="link: is a symbolic link to a place outside"):
        pack_folder(tmp_path / "source", MIB)


def test_links_that_multiply_folders_hit_the_limit_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level contains the next one twice: 2^20 folders from a few inodes."""
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1_000)
    for level in range(20):
        (tmp_path / f"{level}").mkdir()
        for twin in "ab":
            (tmp_path / f"{level}" / twin).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "20").mkdir()
    with pytest.raises(ValueError, match="more than 1000 files"):
        pack_folder(tmp_path, MIB)


def test_a_folder_over_the_cap_is_refused_before_any_file_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(
        PayloadTooLarge, match=r"1,000,000,000,\d+ bytes, MIRROR_NEURON_MAX_BUNDLE_BYTES allows 1,048,576"
    ):
        pack_folder(tmp_path, MIB)


@pytest.mark.parametrize(
    "bad",
    [
        member("../out"),
        member("a/../../out"),
        member("/abs"),
        member("link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("link", tarfile.LNKTYPE, linkname="file"),
        member("device", tarfile.CHRTYPE),
        member("disk", tarfile.BLKTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda bad: bad.name,
)
def test_a_hostile_member_is_refused_and_nothing_is_left_behind(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    data = tar_of(member("good"), bad)
    with pytest.raises(ValueError, match="archive"):
        unpack(data, tmp_path / "cache" / "target")
    assert list((tmp_path / "cache").iterdir()) == []
    assert sorted(tmp_path.iterdir()) == [tmp_path / "cache"]


@pytest.mark.parametrize(
    "members",
    [
        [member("a"), member("a", tarfile.DIRTYPE)],
        [member("a", tarfile.DIRTYPE), member("a")],
        [member("a"), member("a")],
        [member("a"), member("a/b")],
        [member("nowhere/b")],
        [member(".")],
        [member("x" * 300)],
        [member("a/" * 150, tarfile.DIRTYPE)],
    ],
)
def test_members_that_conflict_are_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    """`pack_folder` writes each folder before its content, and each name once."""
    with pytest.raises(ValueError, match=r"^cannot unpack .* from the archive"):
        unpack(tar_of(*members), tmp_path / "cache" / "target")
    assert list((tmp_path / "cache").iterdir()) == []


def test_folders_too_deep_to_be_removed_are_not_packed(tmp_path: Path) -> None:
    """Functions that remove a tree fail at some hundreds of levels."""
    deepest = tmp_path.joinpath("source", *"a" * archive.MAX_DEPTH)
    deepest.mkdir(parents=True)
    (deepest / "file").touch()
    unpack(pack_folder(tmp_path / "source", MIB), tmp_path / "target")
    assert tree(tmp_path / "target") == tree(tmp_path / "source")
    (deepest / "folder").mkdir()
    (deepest / "folder" / "file").touch()
    with pytest.raises(ValueError, match="is nested more than 100 folders deep"):
        pack_folder(tmp_path / "source", MIB)


def test_a_member_that_claims_a_size_beyond_the_archive_is_refused(tmp_path: Path) -> None:
    bomb = member("bomb", size=10**15)
    with pytest.raises(ValueError, match="archive"):
        unpack(bomb.tobuf() + b"x" * 2048, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 512, os.urandom(2048), b"\x1f\x8b" + b"x" * 1000])
def test_bytes_that_are_not_an_archive_are_refused_or_empty(tmp_path: Path, data: bytes) -> None:
    try:
        unpack(data, tmp_path / "target")
    except ValueError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert tree(tmp_path) == {"target": (None, False)}


def test_a_cut_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x" * 5000)
    data = pack_folder(tmp_path / "source", MIB)
    with pytest.raises(ValueError, match="archive"):
        unpack(data[:3000], tmp_path / "cache" / "target")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_existing_target_is_left_unchanged(tmp_path: Path) -> None:
    """Two processes unpack the same archive; the second one keeps the folder of the first."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("new")
    data = pack_folder(tmp_path / "source", MIB)
    unpack(data, tmp_path / "cache" / "target")
    (tmp_path / "cache" / "target" / "file").write_text("first")
    unpack(data, tmp_path / "cache" / "target")
    assert (tmp_path / "cache" / "target" / "file").read_text() == "first"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["target"]
