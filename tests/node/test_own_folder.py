"""The node's folder holds code that runs, so nobody else may write to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirrorneuron.errors import SettingsError
from mirrorneuron.settings import Settings
from workers.runtime import own_folder

NOBODY = 65534


MODES = [(0o700, True), (0o755, True), (0o1777, True), (0o770, False), (0o757, False)]


@pytest.mark.parametrize(("mode", "safe"), MODES)
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int, safe: bool) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    folder.chmod(mode)
    if safe:
        assert own_folder(Settings(temp_dir=folder)) == folder
        return
    with pytest.raises(SettingsError, match=rf"MIRROR_NEURON_TEMP_DIR: other users may write to .*mode {mode:o}"):
        own_folder(Settings(temp_dir=folder))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make links of another user")
@pytest.mark.parametrize("inner", ["", "below"])
def test_a_folder_behind_a_link_of_another_user_is_refused(tmp_path: Path, inner: str) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    assert own_folder(Settings(temp_dir=link / inner)) == link / inner
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(SettingsError, match=r"reached through .*link, a link that belongs to another user"):
        own_folder(Settings(temp_dir=link / inner / "new"))
    assert not (link / inner / "new").exists()
