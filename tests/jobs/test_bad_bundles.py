"""Invalid bundles: one clear error that says what is wrong and where, before anything is submitted."""

from __future__ import annotations

import json
import os

import pytest

from mirrorneuron import ManifestError, MirrorNeuronError, PayloadTooLarge, validate_manifest
from mirrorneuron.api.client import Client
from tests.support.graphs import executor, line, manifest, router, single


def write(folder, text: str | None, **files: bytes):
    """A bundle folder with *text* as its manifest, and payload *files*."""
    (folder / "payloads").mkdir(parents=True)
    if text is not None:
        (folder / "manifest.json").write_text(text)
    for name, data in files.items():
        (folder / "payloads" / name).write_bytes(data)
    return folder


def uploading(**upload: str) -> str:
    return json.dumps(manifest([executor("work", "true", uploads=[upload])]))


GOOD = json.dumps(line(3))
BAD_FOLDERS = {
    "no manifest": (None, "has no manifest.json"),
    "an empty manifest": ("", "is not valid JSON"),
    "broken JSON": ('{"nodes": [\n  {"node_id": "a",}\n]}', "line 2 column"),
    "no object": ("[1, 2]", "object"),
    "NaN": ('{"manifest_version": NaN}', "is not valid JSON"),
    "nested too deeply": ("[" * 5_000 + "]" * 5_000, "is not valid JSON"),
    "nodes of the wrong type": ('{"manifest_version": "1.0", "graph_id": "g", "nodes": 5}', "nodes: "),
    "a node of the wrong type": ('{"manifest_version": "1.0", "graph_id": "g", "nodes": [5]}', "nodes[0]"),
    "an unknown agent type": (GOOD.replace('"router"', '"rooter"'), "nodes[0].agent_type"),
    "an edge to nobody": (GOOD.replace('"to_node": "r1"', '"to_node": "r9"'), "edges[0].to_node"),
    "a payload that is missing": (uploading(source="nowhere", target="x"), "nodes[0].config.uploads[0]"),
    "a payload that escapes": (uploading(source="../manifest.json", target="x"), "nodes[0].config.uploads[0]"),
    "an absolute payload": (uploading(source="/etc/passwd", target="x"), "nodes[0].config.uploads[0]"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_is_one_clear_error(unserved, tmp_path, name):
    """A ManifestError with the path; nothing is submitted."""
    text, where = BAD_FOLDERS[name]
    with pytest.raises(ManifestError) as caught:
        unserved.run_manifest(write(tmp_path / "bundle", text))
    assert where in str(caught.value)
    assert len(str(caught.value)) < 5_000
    assert unserved.list_jobs() == []


@pytest.mark.parametrize(
    ("path", "said"),
    [("file.txt", "is a file"), ("bundle/manifest.json", "pass its folder"), ("nowhere", "does not exist")],
)
def test_a_path_that_is_not_a_folder_is_reported(unserved, tmp_path, path, said):
    write(tmp_path / "bundle", GOOD)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ManifestError, match=said):
        unserved.run_manifest(tmp_path / path)


@pytest.mark.parametrize(
    "given", [5, None, 1.5, [line(3)], b"bundle", object()], ids=lambda given: type(given).__name__
)
def test_a_value_that_is_not_a_bundle_is_a_manifest_error_or_a_type_error(unserved, given):
    with pytest.raises((MirrorNeuronError, TypeError)):
        unserved.run_manifest(given)
    assert unserved.list_jobs() == []


@pytest.mark.parametrize("value", [float("nan"), object(), b"\xff"], ids=["NaN", "object", "bytes"])
def test_a_mapping_must_be_json(unserved, value):
    with pytest.raises(ManifestError):
        unserved.run_manifest({**line(3), "metadata": {"x": value}})
    assert unserved.list_jobs() == []


def test_all_problems_are_reported_at_once(unserved):
    graph = manifest([router("a"), router("a"), executor("b", "true", max_attempts=0, timeout_seconds="long")])
    with pytest.raises(ManifestError) as caught:
        unserved.run_manifest({**graph, "entrypoints": ["nobody"], "edges": [{"from_node": "a"}]})
    paths = {issue.path for issue in caught.value.issues}
    expected = {"nodes[1].node_id", "nodes[2].config.max_attempts", "nodes[2].config.timeout_seconds"}
    assert expected | {"entrypoints[0]", "edges[0].to_node", "edges[0].message_type"} <= paths


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_symlink_out_of_the_payloads_is_refused(unserved, tmp_path):
    folder = write(tmp_path / "bundle", GOOD)
    (folder / "payloads" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(ManifestError, match="secret"):
        unserved.run_manifest(folder)


@pytest.mark.parametrize("payloads", [True, False], ids=["payloads", "manifest"])
def test_a_bundle_over_its_cap_says_both_sizes_and_the_setting(unserved, tmp_path, payloads):
    settings = unserved.settings.model_copy(update={"max_bundle_bytes": 100_000})
    data = b"x" * 200_000
    bundle = write(tmp_path / "bundle", GOOD, large=data) if payloads else {**line(3), "notes": data.decode()}
    with pytest.raises(PayloadTooLarge) as caught:
        Client(settings).run_manifest(bundle)
    assert "MIRROR_NEURON_MAX_BUNDLE_BYTES" in str(caught.value)
    assert "100,000" in str(caught.value)
    assert unserved.list_jobs() == []


def test_an_input_over_the_cap_of_a_message_says_so(tight):
    """The error is raised or stands in the record; the node keeps running."""
    graph = manifest([router("in"), router("out")], [("in", "out", "go")], initial_inputs={"in": "x" * 40_000})
    try:
        _, job = tight.run_manifest(graph, await_=True, timeout=60_000)
        error = job["result"]["error"]
    except PayloadTooLarge as refused:
        error = str(refused)
    assert "MIRROR_NEURON_MAX_MESSAGE_BYTES" in error
    assert "32768" in error


def test_a_payload_that_vanishes_after_validation_is_an_error(unserved, tmp_path):
    folder = write(tmp_path / "bundle", json.dumps(single("true")), word=b"x")
    bundle = validate_manifest(folder)
    (folder / "payloads" / "word").unlink()
    (folder / "payloads").rmdir()
    with pytest.raises(ManifestError, match="payloads"):
        unserved.run_manifest(job_bundle=bundle)
    assert unserved.list_jobs() == []
