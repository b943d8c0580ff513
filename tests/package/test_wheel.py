"""The distributions: what a `pip install` gets, and what the source archive holds."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source archive that were built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(argv, check=True, capture_output=True, timeout=110)
    return folder


def sources(*endings: str) -> set[str]:
    """The files of both packages with one of *endings*, by their path in the repository."""
    files = [path for package in ("mirrorneuron", "workers") for path in (ROOT / package).rglob("*")]
    return {str(path.relative_to(ROOT)) for path in files if path.suffix in endings and "__pycache__" not in path.parts}


def test_the_wheel_holds_both_packages_whole_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
        assert names == sources(".py", ".lua", ".typed")
        info = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        points = wheel.read(info).decode()
        assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    for line in ("mn = mirrorneuron.cli:main", "mirrorneuron = mirrorneuron.dispatch.result_backend:JobMapBackend"):
        assert line in points.splitlines()


def test_the_source_archive_holds_what_tests_and_documents_need(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "mkdocs.yml", "Makefile")
    assert {*wanted, "docs/glossary.md", "tests/conftest.py", "examples/README.md"} <= names
    assert sources(".py", ".lua", ".typed") <= names


def test_the_distributions_pass_the_check_of_the_index(dist: Path) -> None:
    """The README renders, and the metadata are complete."""
    files = [str(path) for path in sorted(dist.iterdir())]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
