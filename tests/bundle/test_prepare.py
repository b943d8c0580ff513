"""Submissions: an unchanged bundle is checked and packed once, whatever inputs its jobs have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.bundle import fingerprint, load, prepare
from mirrorneuron.bundle.load import JobBundle, validate_manifest
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.prepare import JobRequest, Preparation
from mirrorneuron.errors import ManifestError, PayloadTooLarge

MIB = 1024 * 1024
GRAPH: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["a"],
    "nodes": [
        {"node_id": "a", "agent_type": "executor", "config": {"command": ["sh", "run.sh"], "upload_path": "run.sh"}},
        {"node_id": "b", "agent_type": "router"},
    ],
    "edges": [{"from_node": "a", "to_node": "b", "message_type": "*"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle that was written long ago."""
    (tmp_path / "payloads").mkdir()
    write(tmp_path, "payloads/run.sh", "echo one")
    write(tmp_path, "manifest.json", json.dumps(GRAPH))
    for place in (tmp_path / "payloads", tmp_path):
        os.utime(place, (1, 1))
    return tmp_path


def write(folder: Path, name: str, text: str, at: float = 1) -> None:
    """Write a file as if at second *at* of the epoch; the time of a change cannot be set back by anyone."""
    (folder / name).write_text(text)
    os.utime(folder / name, (at, at))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done from now on: `check` and `pack`."""
    done: list[str] = []

    def noted(module: Any, name: str, word: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: (done.append(word), real(*args))[1])

    noted(load, "check", "check")
    noted(prepare, "pack", "pack")
    return done


Prepare = Callable[..., JobRequest]


@pytest.fixture
def prepared() -> Prepare:
    preparation = Preparation(MIB, False)
    return lambda given, payloads=None, inputs=None: preparation.prepare(given, payloads, inputs or {})


@pytest.mark.parametrize("as_object", [True, False])
def test_an_unchanged_bundle_is_checked_and_packed_once(
    folder: Path, prepared: Prepare, work: list[str], as_object: bool
) -> None:
    given = validate_manifest(folder) if as_object else folder
    first = prepared(given)
    for n in range(3):
        again = prepared(given, inputs={"a": {"n": n}})
        assert again.packed is first.packed
        assert again.inputs == {"a": [{"n": n}]}
    assert work == ["check", "pack"]


def test_inputs_and_metadata_that_the_caller_sets_are_checked_alone(folder: Path, work: list[str]) -> None:
    bundle = validate_manifest(folder)
    preparation = Preparation(MIB, False)
    for n in range(3):
        bundle.manifest.initial_inputs = {"b": {"n": n}}  # type: ignore[dict-item]
        bundle.manifest.metadata = {"n": n}
        request = preparation.prepare(bundle, None, {})
        assert (request.inputs, request.metadata) == ({"a": [{}], "b": [{"n": n}]}, {"n": n})
    assert work == ["check", "pack"]
    bundle.manifest.metadata = []  # type: ignore[assignment]
    bundle.manifest.initial_inputs = {"c": [], "b": [{"ttl_ms": "x"}]}
    with pytest.raises(ManifestError) as caught:
        preparation.prepare(bundle, None, {})
    assert sorted(issue.path for issue in caught.value.issues) == [
        "initial_inputs.b[0]",
        "initial_inputs.c",
        "metadata",
    ]


def test_the_given_inputs_replace_those_of_their_nodes(prepared: Prepare) -> None:
    graph = {**GRAPH, "nodes": [{**GRAPH["nodes"][0], "agent_type": "router", "config": {}}, GRAPH["nodes"][1]]}
    bundle = validate_manifest({**graph, "initial_inputs": {"a": [1, 2], "b": [3]}})
    for given, expected in (
        ({"a": 5}, {"a": [5], "b": [3]}),
        ({"b": [6, 7]}, {"a": [1, 2], "b": [6, 7]}),
        ({"a": [], "b": None}, {"a": [{}]}),
    ):
        assert prepared(bundle, inputs=given).inputs == expected
    assert bundle.manifest.initial_inputs == {"a": [1, 2], "b": [3]}


@pytest.mark.parametrize("as_model", [True, False])
def test_a_manifest_that_comes_again_and_again_is_checked_twice(
    folder: Path, prepared: Prepare, work: list[str], as_model: bool
) -> None:
    """A producer that makes a new graph for each job keeps none of them."""

    def given(n: int, **more: Any) -> Any:
        made = {**GRAPH, "initial_inputs": {"b": n}, "metadata": {"n": n}, **more}
        return Manifest.from_dict(made) if as_model else made

    payloads = folder / "payloads"
    digests = set()
    for n in range(5):
        request = prepared(given(n), payloads)
        assert (request.inputs, request.metadata) == ({"a": [{}], "b": [n]}, {"n": n})
        digests.add(request.packed.digest)
    assert work == ["check", "pack"] * 2
    assert len(digests) == 1
    assert prepared(given(0, job_name="other"), payloads).packed.digest not in digests
    write(folder, "payloads/run.sh", "echo two")
    assert prepared(given(0), payloads).packed.digest not in digests
    with pytest.raises(ManifestError, match=r'"run.sh" does not exist'):
        prepared(given(0))
    if not as_model:
        with pytest.raises(ManifestError, match="metadata: must be an object"):
            prepared(given(0, metadata=[1]), payloads)


def test_the_inputs_of_a_manifest_that_comes_again_may_have_any_form(prepared: Prepare) -> None:
    graph = {**GRAPH, "nodes": [{"node_id": "a", "agent_type": "router"}, GRAPH["nodes"][1]]}
    for _ in range(3):
        for given, expected in (
            ({"initial_inputs": [1, 2]}, {"a": [1, 2]}),
            ({"initial_inputs": None, "metadata": None}, {"a": [{}]}),
            ({}, {"a": [{}]}),
            ({"initial_inputs": {"b": 5}}, {"a": [{}], "b": [5]}),
        ):
            request = prepared({**graph, **given})
            assert (request.inputs, request.metadata) == (expected, {})


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({"c": {}}, "inputs.c"),
        ({"a": [1, {"headers": 3}]}, "inputs.a[1]"),
        ({"a": {"x": {1, 2}}}, "inputs.a.x"),
        ({"a": float("nan")}, "inputs.a"),
        ({3: {}}, "inputs"),
    ],
)
def test_inputs_that_no_message_can_have_are_issues(
    folder: Path, prepared: Prepare, inputs: dict[Any, Any], path: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        prepared(folder, inputs=inputs)
    assert [issue.path for issue in caught.value.issues] == [path]


@pytest.mark.parametrize("as_object", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder, "payloads/run.sh", "echo two"),
        lambda folder: (folder / "payloads" / "run.sh").chmod(0o755),
        lambda folder: write(folder, "payloads/more", ""),
        lambda folder: os.replace(copy(folder, "echo two"), folder / "payloads" / "run.sh"),
    ],
    ids=["same size and time of modification", "made executable", "another file", "replaced"],
)
def test_a_changed_file_is_seen(
    folder: Path, prepared: Prepare, as_object: bool, change: Callable[[Path], None]
) -> None:
    """The digest is that of what is sent, also for a bundle whose files were changed after it was validated."""
    given = validate_manifest(folder) if as_object else folder
    first = prepared(given).packed
    change(folder)
    found = prepared(given).packed
    assert found.digest != first.digest
    assert found == prepared(validate_manifest(folder)).packed


def copy(folder: Path, text: str) -> Path:
    write(folder, "other", text)
    return folder / "other"


def test_a_file_removed_after_validation_is_an_issue(folder: Path, prepared: Prepare) -> None:
    bundle = validate_manifest(folder)
    prepared(bundle)
    (folder / "payloads" / "run.sh").unlink()
    for given in (bundle, folder):
        with pytest.raises(ManifestError, match=r'"run.sh" is not in payloads/'):
            prepared(given)


def test_files_that_were_just_written_are_not_trusted(folder: Path, prepared: Prepare, work: list[str]) -> None:
    """Within one tick of the clock of the file system, a file may be written twice with the same size and times."""
    (folder / "payloads" / "run.sh").write_text("echo two")
    bundle = validate_manifest(folder)
    for given in (folder, bundle):
        prepared(given)
        prepared(given)
    assert work.count("check") == 1 + 4
    os.utime(folder / "payloads" / "run.sh", (1, 1))
    work.clear()
    for given in (folder, bundle):
        prepared(given)
        prepared(given)
    assert work == ["check", "pack"] * 2


def test_a_changed_graph_is_checked_and_packed_again(folder: Path, prepared: Prepare) -> None:
    bundle = validate_manifest(folder)
    first = prepared(bundle).packed
    bundle.manifest.nodes[0].config["max_attempts"] = 1
    assert prepared(bundle).packed.digest != first.digest
    bundle.manifest.nodes[0].config["max_attempts"] = True
    with pytest.raises(ManifestError, match="max_attempts"):
        prepared(bundle)
    del bundle.manifest.nodes[0].config["max_attempts"]
    assert prepared(bundle).packed.digest == first.digest


def test_a_bundle_is_checked_again_under_another_setting(prepared: Prepare) -> None:
    bundle = load.load(GRAPH | {"nodes": [GRAPH["nodes"][1] | {"node_id": "a"}], "edges": []}, True)
    assert load.graph_unchanged(bundle, True)
    assert not load.graph_unchanged(bundle, False)
    assert prepared(bundle).packed.digest


def test_the_limit_of_the_client_holds_for_a_bundle_that_another_client_has_packed(folder: Path) -> None:
    bundle = validate_manifest(folder)
    Preparation(MIB, False).prepare(bundle, None, {})
    with pytest.raises(PayloadTooLarge):
        Preparation(100, False).prepare(bundle, None, {})


def test_a_folder_with_a_link_is_read_each_time(folder: Path) -> None:
    assert fingerprint.of_files(folder / "payloads") is not None
    (folder / "payloads" / "link").symlink_to("run.sh")
    os.utime(folder / "payloads", (1, 1))
    assert fingerprint.of_files(folder / "payloads") is None
    assert fingerprint.of_files(folder / "nothing") is None


def test_the_digest_of_inputs_does_not_depend_on_the_order_of_keys() -> None:
    one, other = {"a": [{"x": 1, "y": [1, 2]}], "b": [2]}, {"b": [2], "a": [{"y": [1, 2], "x": 1}]}
    assert prepare.digest_of(one) == prepare.digest_of(other)
    assert prepare.digest_of(one) != prepare.digest_of({**one, "b": ["2"]})


def test_a_bundle_made_by_the_caller_is_checked_each_time(prepared: Prepare) -> None:
    manifest = validate_manifest(GRAPH | {"nodes": [GRAPH["nodes"][1]], "edges": [], "entrypoints": ["b"]}).manifest
    bundle = JobBundle(manifest)
    assert prepared(bundle).packed == prepared(manifest).packed
