"""Bundles: loading from each kind of input, checking again after a change, and packing."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.bundle.archive import unpack
from mirrorneuron.bundle.load import JobBundle, load, pack, validate_manifest
from mirrorneuron.bundle.manifest import AgentType, Edge, Manifest, Node, OnIdle
from mirrorneuron.errors import ManifestError, PayloadTooLarge
from mirrorneuron.message import decode

MIB = 1024 * 1024
MANIFEST: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["a"],
    "nodes": [
        {"node_id": "a", "agent_type": "executor", "config": {"command": "true", "output_message_type": "x"}},
        {"node_id": "b", "agent_type": "router"},
    ],
    "edges": [{"from_node": "a", "to_node": "b", "message_type": "x"}],
}


def write(folder: Path, config: Any = None, **files: str) -> Path:
    """A bundle folder; *files* go into payloads, with `__` for `/`."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["nodes"][0]["config"].update(config or {})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name, text in files.items():
        path = folder / "payloads" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def refusal(source: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        load(source)
    return str(caught.value)


def test_a_folder_is_loaded_by_str_or_path_and_keeps_its_paths(tmp_path: Path) -> None:
    folder = write(tmp_path / "job", main="x")
    for given in (str(folder), folder):
        bundle = validate_manifest(given)
        assert (bundle.path, bundle.manifest_path) == (folder, folder / "manifest.json")
        assert bundle.payloads_path == folder / "payloads"
    assert load(write(tmp_path / "bare")).payloads_path is None


def test_paths_of_a_bundle_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "job")
    monkeypatch.chdir(tmp_path)
    assert load("job").path == tmp_path / "job"


def test_a_mapping_is_a_bundle_without_a_folder() -> None:
    bundle = load(MANIFEST)
    assert (bundle.path, bundle.manifest_path, bundle.payloads_path) == (None, None, None)


def test_each_kind_of_invalid_input_has_its_own_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "job")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / "nowhere") == f"folder {tmp_path}/nowhere does not exist"
    assert refusal(tmp_path / "empty") == f"folder {tmp_path}/empty has no manifest.json"
    assert refusal(tmp_path / "file") == f"{tmp_path}/file is a file (a bundle is a folder)"
    assert refusal(folder / "manifest.json") == f"{folder}/manifest.json is a file (pass its folder, {folder})"
    assert refusal("a\0b").endswith(" does not exist")
    assert refusal("x" * 5_000).endswith(" does not exist")
    assert refusal("").endswith("has no manifest.json")
    for other, name in ((None, "null"), (3, "a number"), ([], "a list"), (b"x", "bytes"), ({1}, "set")):
        assert refusal(other) == f"a bundle must be the path of a folder, a mapping or a JobBundle, not {name}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1,\n  "b": }', "is not valid JSON: expected value at line 2 column 8"),
        (b"", "is not valid JSON: EOF while parsing a value at line 1 column 0"),
        (b'{"a": NaN}', "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[" * 10_000, "is not valid JSON: recursion limit exceeded"),
        (b"[1]", "a manifest must be a JSON object, not a list"),
        (b"null", "a manifest must be a JSON object, not null"),
        (b'"x"', "a manifest must be a JSON object, not a string"),
    ],
)
def test_an_error_in_a_manifest_file_has_line_and_column(tmp_path: Path, text: bytes, says: str) -> None:
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(text)
    assert says in refusal(tmp_path)


def test_a_manifest_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "manifest.json").open("ab") as file:
        file.truncate(2**40)  # a sparse file: it takes no space
    assert "has more than 67108864 bytes" in refusal(tmp_path)


@pytest.mark.parametrize(("key", "most"), [("nodes", 100_000), ("edges", 1_000_000)])
def test_a_graph_that_is_too_large_is_one_issue(key: str, most: int) -> None:
    assert refusal({**MANIFEST, key: [None] * (most + 1)}).startswith(f"{key}: has {most + 1} members; at most {most}")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(MANIFEST).encode())
    assert load(tmp_path).manifest.graph_id == "g"


def test_loading_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"upload_path": "src"}, src__main="x")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    load(load(tmp_path))
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("source", ["src", "src/", "./src", "src/main.py", "."])
def test_an_existing_upload_is_not_an_issue(tmp_path: Path, source: str) -> None:
    write(tmp_path, {"upload_path": source, "uploads": [{"source": source, "target": "x"}]}, **{"src__main.py": "x"})
    load(tmp_path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("sorc", '"sorc" is not in payloads/ (did you mean "src"?)'),
        ("src/mian.py", '"src/mian.py" is not in payloads/ (did you mean "main.py"?)'),
        ("../outside", "points outside payloads/"),
        ("src/../../x", "points outside payloads/"),
        ("/etc/passwd", "is an absolute path"),
        ("", "is not a valid path"),
        ("a\0b", "is not a valid path"),
        ("x" * 300, "is not in payloads/"),
        (3, "must be a string, not a number"),
    ],
)
def test_an_upload_that_is_missing_or_escapes_is_an_issue(tmp_path: Path, source: Any, says: str) -> None:
    write(tmp_path, {"upload_path": source, "uploads": [{"source": source, "target": "x"}]}, **{"src__main.py": "x"})
    upload_path, uploads = refusal(tmp_path).splitlines()
    assert upload_path.startswith('nodes[0].config.upload_path (node "a"): ')
    assert uploads.startswith('nodes[0].config.uploads[0].source (node "a"): ')
    assert says in upload_path
    assert says in uploads


def test_an_upload_needs_a_source_and_a_target_that_stays_inside(tmp_path: Path) -> None:
    write(tmp_path, {"upload_paths": [{"target": "x"}, "src", {"source": "src", "target": "../x"}]}, src="x")
    assert [line.split(": ")[0] for line in refusal(tmp_path).splitlines()] == [
        'nodes[0].config.upload_paths[0].source (node "a")',
        'nodes[0].config.upload_paths[1] (node "a")',
        'nodes[0].config.upload_paths[2].target (node "a")',
    ]


def test_an_upload_without_any_payloads_folder_says_so(tmp_path: Path) -> None:
    assert "the bundle has no payloads folder" in refusal(write(tmp_path, {"upload_path": "src"}))


def test_the_source_of_a_module_must_exist(tmp_path: Path) -> None:
    module = {"agent_type": "module", "config": {"module": "m:C", "module_source": "m.py"}}
    manifest = {**MANIFEST, "nodes": [{**MANIFEST["nodes"][0], **module}, MANIFEST["nodes"][1]]}
    write(tmp_path, **{"n.py": ""})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(tmp_path).startswith('nodes[0].config.module_source (node "a"): "m.py" is not in payloads/')
    (tmp_path / "payloads" / "m.py").write_text("from elsewhere import C")
    load(tmp_path)


def test_links_may_point_inside_payloads_but_not_outside(tmp_path: Path) -> None:
    folder = write(tmp_path / "job", {"upload_path": "link"}, file="x", sub__file="y")
    payloads = folder / "payloads"
    (payloads / "link").symlink_to("sub")
    load(folder)
    (payloads / "out").symlink_to("/etc")
    (payloads / "nothing").symlink_to("gone")
    (payloads / "sub" / "loop").symlink_to("..")
    found = refusal(folder)
    assert "payloads/out: is a symbolic link to a place outside the folder" in found
    assert "payloads/nothing: is a broken symbolic link" in found
    assert "payloads/sub/loop: is a symbolic link to a folder that contains it" in found


def test_an_upload_through_a_link_to_the_outside_is_an_issue(tmp_path: Path) -> None:
    folder = write(tmp_path / "job", {"upload_path": "out/passwd"}, file="x")
    (folder / "payloads" / "out").symlink_to("/etc")
    assert 'upload_path (node "a"): "out/passwd" is a symbolic link to a place outside payloads/' in refusal(folder)


def test_a_payload_that_is_not_a_file_or_folder_is_an_issue(tmp_path: Path) -> None:
    folder = write(tmp_path / "j", file="x")
    os.mkfifo(folder / "payloads" / "pipe")
    assert "payloads/pipe: is not a regular file or folder" in refusal(folder)
    (tmp_path / "k" / "payloads").mkdir(parents=True)
    (tmp_path / "k" / "payloads").rmdir()
    write(tmp_path / "k")
    (tmp_path / "k" / "payloads").write_text("x")
    assert refusal(tmp_path / "k") == "payloads: must be a folder"


def test_loading_an_unchanged_bundle_returns_the_same_object(tmp_path: Path) -> None:
    for bundle in (load(MANIFEST), load(write(tmp_path, file="x"))):
        assert load(bundle) is bundle


def test_payloads_removed_after_the_first_check_are_an_issue(tmp_path: Path) -> None:
    node = {"node_id": "x", "agent_type": "executor", "config": {"command": "true", "upload_path": "data"}}
    manifest = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["x"], "nodes": [node]}
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "data").write_text("x")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    bundle = load(tmp_path)
    (tmp_path / "payloads" / "data").unlink()
    assert "nodes[0].config.upload_path" in refusal(bundle)


def test_a_changed_bundle_is_checked_again_and_not_modified() -> None:
    bundle = load(MANIFEST)
    bundle.manifest.nodes[0].config["max_attempts"] = 3
    again = load(bundle)
    assert again is not bundle
    assert again.manifest.nodes[0].config["max_attempts"] == 3
    bundle.manifest.nodes[0].config["max_attempts"] = 0
    bundle.manifest.edges[0].to_node = "nowhere"
    assert refusal(bundle).count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: setattr(manifest, "daemon", "x"),
        lambda manifest: setattr(manifest, "nodes", 3),
        lambda manifest: setattr(manifest, "policies", "local"),
        lambda manifest: manifest.edges.append("x"),
        lambda manifest: manifest.nodes.append({"node_id": 3}),
        lambda manifest: manifest.metadata.update(x=object()),
        lambda manifest: manifest.metadata.update(x=float("nan")),
        lambda manifest: setattr(manifest.nodes[0], "agent_type", object),
    ],
)
def test_any_value_that_a_caller_puts_into_a_manifest_is_an_issue_and_not_a_crash(change: Any) -> None:
    bundle = load(MANIFEST)
    change(bundle.manifest)
    assert refusal(bundle)


def test_filled_in_defaults_follow_a_change() -> None:
    """A default that depends on the changed key is derived again; a value that the caller set is kept."""
    bundle = load(MANIFEST)
    bundle.manifest.entrypoints = ["b"]
    bundle.manifest.graph_id = "other"
    bundle.manifest.nodes.append(Node(node_id="s", agent_type=AgentType.SENSOR))
    manifest = load(bundle).manifest
    assert (manifest.job_name, manifest.initial_inputs) == ("other", {"b": [{}]})
    assert manifest.policies.on_idle is OnIdle.WAIT
    bundle.manifest.initial_inputs["a"] = [{"n": 1}]
    assert load(bundle).manifest.initial_inputs == {"b": [{}], "a": [{"n": 1}]}


def test_a_bundle_can_be_constructed_by_the_caller() -> None:
    nodes = [Node(node_id="a", agent_type=AgentType.ROUTER), Node(node_id="b", agent_type=AgentType.ROUTER)]
    edges = [Edge(from_node="a", to_node="b", message_type="*")]
    manifest = Manifest(manifest_version="1.0", graph_id="g", nodes=nodes, edges=edges, entrypoints=["a"])
    assert load(JobBundle(manifest)).manifest.initial_inputs == {"a": [{}]}
    assert load(JobBundle(MANIFEST)).manifest.graph_id == "g"  # type: ignore[arg-type]
    assert "must be a Manifest" in refusal(JobBundle(3))  # type: ignore[arg-type]


def test_the_same_bundle_in_another_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    files = {"main.py": "x", "sub__b": "y", "sub__a": "z"}
    one, two = write(tmp_path / "one", **files), write(tmp_path / "two", **dict(reversed(files.items())))
    os.utime(two / "payloads" / "main.py", (1, 1))
    first, second = pack(load(one), MIB), pack(load(two), MIB)
    assert first == second
    assert first.payloads_digest == hashlib.sha256(first.payloads or b"").hexdigest()
    (two / "payloads" / "main.py").chmod(0o755)
    third = pack(load(two), MIB)
    assert third.manifest_json == first.manifest_json
    assert third.digest != first.digest


def test_the_digest_depends_on_manifest_and_payloads(tmp_path: Path) -> None:
    bare = pack(load(MANIFEST), MIB)
    assert (bare.payloads, bare.payloads_digest) == (None, None)
    assert pack(load(write(tmp_path / "bare")), MIB).digest == bare.digest
    assert pack(load(write(tmp_path / "with", file="x")), MIB).digest != bare.digest
    assert pack(load({**MANIFEST, "job_name": "n"}), MIB).digest != bare.digest
    job_values = {"initial_inputs": {"a": [{"n": 1}]}, "metadata": {"tenant": "acme"}}
    assert pack(load({**MANIFEST, **job_values}), MIB) == bare


def test_the_packed_manifest_is_the_checked_one(tmp_path: Path) -> None:
    bundle = load(write(tmp_path))
    packed = Manifest.from_dict(decode(pack(bundle, MIB).manifest_json))
    assert packed.initial_inputs == {}
    packed.initial_inputs = bundle.manifest.initial_inputs
    assert packed == bundle.manifest


def test_a_manifest_nested_too_deeply_for_the_store_is_an_issue() -> None:
    """The store keeps the manifest inside another document, so the limit of nesting is lower than the parser's."""
    deep: Any = 0
    for _ in range(197):
        deep = [deep]
    packed = pack(load({**MANIFEST, "metadata": {"x": deep}}), MIB)
    assert decode(b'{"manifest":%b}' % packed.manifest_json)
    assert "nested too deeply" in refusal({**MANIFEST, "metadata": {"x": [deep]}})


def test_packed_payloads_unpack_to_the_same_files(tmp_path: Path) -> None:
    packed = pack(load(write(tmp_path / "job", sub__file="héllo")), MIB)
    assert packed.payloads is not None
    unpack(packed.payloads, tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "file").read_text() == "héllo"


def test_the_error_for_a_bundle_over_the_cap_has_both_sizes_and_the_setting(tmp_path: Path) -> None:
    bundle = load(write(tmp_path, file="x" * 100_000))
    with pytest.raises(PayloadTooLarge, match=r"100,\d+ bytes, MIRROR_NEURON_MAX_BUNDLE_BYTES allows 50,000|101,"):
        pack(bundle, 50_000)
    with pytest.raises(PayloadTooLarge, match="MIRROR_NEURON_MAX_BUNDLE_BYTES allows 100"):
        pack(load(MANIFEST), 100)
    pack(bundle, 200_000)


def test_payloads_removed_before_packing_are_an_issue(tmp_path: Path) -> None:
    bundle = load(write(tmp_path / "job", file="x"))
    (tmp_path / "job" / "payloads").rename(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="payloads: cannot be packed"):
        pack(bundle, MIB)


def test_a_socket_that_appears_after_the_check_is_an_issue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load(write(tmp_path, file="x"))
    monkeypatch.chdir(tmp_path / "payloads")  # the path of a socket has a small maximal length
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(ManifestError, match="s: is not a regular file or folder"):
            pack(bundle, MIB)


SCRIPT = {
    "manifest_version": "1.0",
    "graph_id": "made",
    "entrypoints": "work",
    "initial_inputs": {"work": {"x": 1}},
    "nodes": [
        {"node_id": "work", "agent_type": "executor", "config": {"command": ["sh", "run.sh"], "upload_path": "run.sh"}}
    ],
}


@pytest.mark.parametrize("as_text", [True, False])
def test_a_manifest_from_python_takes_its_payloads_from_a_folder(tmp_path: Path, as_text: bool) -> None:
    """The bundle has the bytes of a folder with the same manifest and payloads."""
    folder = tmp_path / "bundle"
    (folder / "payloads").mkdir(parents=True)
    (folder / "payloads" / "run.sh").write_text("echo hi")
    (folder / "manifest.json").write_text(json.dumps(SCRIPT))
    payloads = folder / "payloads"
    for manifest in (SCRIPT, Manifest.from_dict(SCRIPT)):
        bundle = validate_manifest(manifest, payloads=str(payloads) if as_text else payloads)
        assert (bundle.path, bundle.payloads_path) == (None, payloads)
        assert validate_manifest(bundle) is bundle
        assert pack(bundle, MIB).digest == pack(load(folder), MIB).digest


def test_payloads_of_a_manifest_from_python_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"payloads: must be a folder; .*/none does not exist"):
        validate_manifest(SCRIPT, payloads=tmp_path / "none")
    with pytest.raises(ManifestError, match=r'nodes\[0\].config.upload_path .*"run.sh" is not in payloads/'):
        validate_manifest(SCRIPT, payloads=tmp_path)
    with pytest.raises(ManifestError, match=r'"run.sh" does not exist: .*without `payloads`'):
        validate_manifest(SCRIPT)


def test_payloads_are_for_a_manifest_from_python_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "job")
    for other in (folder, load(folder)):
        with pytest.raises(TypeError, match="payloads"):
            validate_manifest(other, payloads=tmp_path)
    with pytest.raises(TypeError, match="payloads"):
        validate_manifest(SCRIPT, payloads=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ({"initial_inputs": {"work": {"x": 1}}}, {"work": [{"x": 1}]}),
        ({"initial_inputs": {"work": [{"x": 1}, 2]}}, {"work": [{"x": 1}, 2]}),
        ({"initial_inputs": [{"x": 1}]}, {"work": [{"x": 1}]}),
        ({"initial_inputs": None, "edges": None, "policies": None}, {}),
    ],
)
def test_from_dict_accepts_what_a_file_may_hold(form: dict[str, Any], read: dict[str, Any]) -> None:
    manifest = Manifest.from_dict({**SCRIPT, **form, "long_lived": True})
    assert (manifest.initial_inputs, manifest.entrypoints, manifest.daemon) == (read, ["work"], True)
    by_role = {key: value for key, value in SCRIPT.items() if key != "entrypoints"} | {"initial_inputs": [3]}
    by_role["nodes"] = [{"node_id": "a", "agent_type": "router", "role": "root"}]
    assert Manifest.from_dict(by_role).initial_inputs == {"a": [3]}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"nodes": [{"node_id": "a"}]}, r"^nodes\[0\].agent_type: is required$"),
        ({"initial_inputs": 3}, "^initial_inputs: must be an object, not a number$"),
        ({"entrypoints": [{}]}, r"^entrypoints\[0\]: must be a string, not an object$"),
        ({"graph_id": None}, "^graph_id: is required$"),
    ],
)
def test_from_dict_names_the_path_of_each_problem(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ManifestError, match=problem):
        Manifest.from_dict({**SCRIPT, **wrong})
