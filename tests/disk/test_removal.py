"""Folders of user code are removed whatever is in them, and nothing else is."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from workers.disk import removal
from workers.disk.removal import remove
from workers.disk.work_folder import remove_abandoned


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder that belongs to somebody else, with what must not be touched."""
    folder = tmp_path / "others"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("mine")
    (folder / "inner").chmod(0o500)
    folder.chmod(0o500)
    return folder


def untouched(folder: Path) -> bool:
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "inner")]
    return modes == [0o500, 0o500] and (folder / "inner" / "file").read_text() == "mine"


def test_protected_and_deep_folders_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    for path in (deep, deep.parent, folder):
        path.chmod(0)
    remove(folder)
    assert not folder.exists()
    remove(folder)  # it is gone already


def test_links_are_removed_and_not_followed(tmp_path: Path, others: Path) -> None:
    folder = tmp_path / "run"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to(others)
    (folder / "a" / "link").symlink_to(others / "inner")
    folder.chmod(0o500)
    remove(folder)
    assert not folder.exists()
    assert untouched(others)


def test_of_a_link_in_place_of_the_folder_only_the_link_is_removed(tmp_path: Path, others: Path) -> None:
    folder = tmp_path / "run"
    folder.symlink_to(others)
    remove(folder)
    assert not folder.is_symlink()
    assert untouched(others)


def test_nothing_beneath_a_link_is_removed(tmp_path: Path, others: Path) -> None:
    """A command may put a link in the place of the folder that holds the run folders."""
    runs = tmp_path / "runs"
    runs.symlink_to(others)
    os.utime(others / "inner", (0, 0))
    remove(runs / "inner")
    remove_abandoned(runs)
    assert untouched(others)


def test_a_link_that_takes_the_place_of_a_folder_meanwhile_is_not_followed(
    tmp_path: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange happens between the look at the folder and the change of its mode."""
    folder = tmp_path / "run"
    (folder / "a").mkdir(parents=True)
    walked = os.fwalk

    def exchanged(*args: Any, **more: Any) -> Any:
        for row in walked(*args, **more):
            shutil.rmtree(folder / "a", ignore_errors=True)
            (folder / "a").symlink_to(others / "inner")
            yield row

    monkeypatch.setattr(os, "fwalk", exchanged)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    removal._make_writable("run", descriptor)
    os.close(descriptor)
    assert (folder / "a").is_symlink()
    assert untouched(others)
