"""The node's cache of unpacked bundles: shared by its processes, bounded, and proof against crashes."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorneuron.bundle.archive import pack_folder
from workers.disk import bundle_cache
from workers.disk.bundle_cache import IN_USE_S, BundleCache

MIB = 1024 * 1024


def archive(folder: Path, text: str) -> tuple[str, bytes]:
    """Digest and bytes of an archive with one file."""
    source = folder / f"source-{text[:8]}"
    source.mkdir()
    (source / "file").write_text(text)
    data = pack_folder(source, MIB)
    return hashlib.sha256(data).hexdigest(), data


def never() -> bytes:
    raise AssertionError("what is in the cache is not fetched")


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def kept(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_a_bundle_is_fetched_once(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", MIB)
    digest, data = archive(tmp_path, "x")
    folder = cache.path(digest, lambda: data)
    assert (folder / "file").read_text() == "x"
    assert cache.path(digest, never) == folder
    assert BundleCache(tmp_path / "cache", MIB).path(digest, never) == folder


def test_damaged_payloads_are_refused_and_fetched_again_next_time(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", MIB)
    digest, data = archive(tmp_path, "x")
    with pytest.raises(ValueError, match="are damaged"):
        cache.path(digest, lambda: data + b"x")
    assert (cache.path(digest, lambda: data) / "file").read_text() == "x"


def test_a_fetch_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", MIB)
    digest, data = archive(tmp_path, "x")

    def fail() -> bytes:
        raise ConnectionError("the store is away")

    with pytest.raises(ConnectionError):
        cache.path(digest, fail)
    assert kept(tmp_path / "cache") == set()
    assert cache.path(digest, lambda: data).is_dir()


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "a" * 63, "A" * 64, "a" * 64 + "/x"])
def test_only_a_digest_names_a_folder(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValueError, match="is not a SHA-256 digest"):
        BundleCache(tmp_path, MIB).path(digest, never)


def test_the_least_recently_used_folder_is_evicted(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", 2_500)
    bundles = [archive(tmp_path, letter * 1_000) for letter in "abc"]
    first, second, third = (digest for digest, _ in bundles)
    for digest, data in bundles[:2]:
        age(cache.path(digest, functools.partial(bytes, data)), 3 * IN_USE_S)
    age(cache.path(first, never), 2 * IN_USE_S)
    cache.path(third, lambda: bundles[2][1])
    assert kept(tmp_path / "cache") == {first, third}
    assert second not in kept(tmp_path / "cache")


def test_a_folder_nested_too_deeply_does_not_prevent_eviction(tmp_path: Path) -> None:
    """Python cannot remove such a folder; the cache removes it nevertheless and fetches the next bundle."""
    cache = BundleCache(tmp_path / "cache", 10)
    (first, old), (second, new) = (archive(tmp_path, letter * 1_000) for letter in "ab")
    folder = cache.path(first, lambda: old)
    subprocess.run(["mkdir", "-p", folder / ("d/" * 1_100)], check=True)
    age(folder, 2 * IN_USE_S)
    assert (cache.path(second, lambda: new) / "file").read_text() == "b" * 1_000
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [second]


def test_a_folder_used_within_the_hour_is_never_evicted(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", 10)
    digests = set()
    for letter in "abc":
        digest, data = archive(tmp_path, letter * 1_000)
        age(cache.path(digest, functools.partial(bytes, data)), IN_USE_S - 60)
        digests.add(digest)
    cache.trim()
    assert kept(tmp_path / "cache") == digests
    cache.trim(now=time.time() + 61)
    assert kept(tmp_path / "cache") == set()


def test_asking_for_a_folder_keeps_it_for_another_hour(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", 10)
    digest, data = archive(tmp_path, "x" * 1_000)
    age(cache.path(digest, lambda: data), 2 * IN_USE_S)
    BundleCache(tmp_path / "cache", 10).path(digest, never)  # a process marks a folder once a minute
    cache.trim()
    assert kept(tmp_path / "cache") == {digest}


def test_half_written_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """But not what another process may be writing at this moment."""
    root = tmp_path / "cache"
    cache = BundleCache(root, MIB)
    digest, data = archive(tmp_path, "x")
    for name, seconds in ((f".{digest}.old", 2 * IN_USE_S), (f".{digest}.new", 0)):
        (root / name).mkdir(parents=True)
        (root / name / "half").touch()
        age(root / name, seconds)
    assert (cache.path(digest, lambda: data) / "file").read_text() == "x"
    assert kept(root) == {digest, f".{digest}.new"}


def test_threads_that_ask_at_once_share_one_fetch(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path / "cache", MIB)
    digest, data = archive(tmp_path, "x")
    fetches: list[int] = []
    found: list[Path] = []
    together = threading.Barrier(8)

    def fetch() -> bytes:
        fetches.append(1)
        return data

    def ask() -> None:
        together.wait()
        found.append(cache.path(digest, fetch))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(fetches), set(found), len(found)) == (1, {tmp_path / "cache" / digest}, 8)


def ask_and_trim(root: Path, bundles: list[tuple[str, bytes]], fetches: Path) -> None:
    """A process of a node: asks for everything, again and again, while it is removed all the time."""
    cache = BundleCache(root, 0)
    for _ in range(15):
        for digest, data in bundles:

            def fetch(data: bytes = data) -> bytes:
                with fetches.open("a") as file:
                    file.write("x")
                return data

            assert (cache.path(digest, fetch) / "file").is_file()


def ask_and_remove(root: Path, bundles: list[tuple[str, bytes]]) -> None:
    """A process of a node that makes everything look old: it removes what the others have just got."""
    cache = BundleCache(root, 0)
    for _ in range(15):
        for digest, data in bundles:
            folder = cache.path(digest, functools.partial(bytes, data))
            with contextlib.suppress(FileNotFoundError):
                age(folder, 2 * IN_USE_S)
            cache.trim()


def run_three(target: Callable[..., None], *args: object) -> list[int | None]:
    """The exit codes of three processes that run *target* at the same time."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=args) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_processes_that_ask_at_once_all_find_whole_folders(tmp_path: Path) -> None:
    bundles = [archive(tmp_path, letter * 1_000) for letter in "abcd"]
    assert run_three(ask_and_trim, tmp_path / "cache", bundles, tmp_path / "fetches") == [0, 0, 0]
    assert (tmp_path / "fetches").stat().st_size == len(bundles)


def test_processes_that_remove_at_once_do_not_trip_over_each_other(tmp_path: Path) -> None:
    bundles = [archive(tmp_path, letter * 1_000) for letter in "abcd"]
    assert run_three(ask_and_remove, tmp_path / "cache", bundles) == [0, 0, 0]
    assert len(kept(tmp_path / "cache")) <= len(bundles)


def test_a_command_that_holds_the_locks_does_not_stop_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as the worker's user, so it can open and lock the files."""
    monkeypatch.setattr(bundle_cache, "BRIEF_S", 0.1)
    monkeypatch.setattr(bundle_cache, "FETCH_S", 0.1)
    root = tmp_path / "cache"
    cache = BundleCache(root, MIB)
    digest, data = archive(tmp_path, "x")
    root.mkdir()
    with contextlib.ExitStack() as held:
        for name in ("trim", f"fetch-{digest[0]}"):
            fcntl.flock(held.enter_context((root / f"{name}.lock").open("w")), fcntl.LOCK_EX)
        folder = cache.path(digest, lambda: data)
        assert (folder / "file").read_text() == "x"
        monkeypatch.setattr(bundle_cache, "BRIEF_S", 1e9)  # the locks were replaced: no later call waits
        assert cache.path(digest, never) == folder
        cache.trim()
