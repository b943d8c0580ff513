"""The payload scripts of the examples, run without a worker, with the files and variables of the runner."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mirrorneuron.agent import Complete, Context, Emit, Record
from mirrorneuron.message import Message, seed

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BUNDLES = sorted(path.parent.name for path in EXAMPLES.glob("*/manifest.json"))
GENERATOR = EXAMPLES / "prime_sweep_scale" / "generate.py"
SANDBOX = "/sandbox/job"

RunNode = Callable[..., dict[str, Any]]


def manifest_of(bundle: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / bundle / "manifest.json").read_text(encoding="utf-8"))


def node_of(bundle: str, node_id: str) -> dict[str, Any]:
    return next(node for node in manifest_of(bundle)["nodes"] if node["node_id"] == node_id)


def body_bytes(message: dict[str, Any]) -> bytes:
    """The body as the runner writes it: by content type, then by content encoding."""
    if message.get("content_type") == "application/x-ndjson":
        raw = "".join(json.dumps(record) + "\n" for record in message["body"]).encode()
    else:
        raw = json.dumps(message["body"]).encode()
    return gzip.compress(raw) if message.get("content_encoding") == "gzip" else raw


def prepare(folder: Path, node: dict[str, Any], message: dict[str, Any], state: Any) -> dict[str, str]:
    """Write the four files of a run into *folder*; return the variables that name them."""
    context = {"job_id": "job-1", "agent_id": node["node_id"], "agent_type": node["agent_type"]}
    context |= {
        "template_type": node.get("type", "generic"),
        "agent_state": state,
        "timestamp": "2030-01-01T00:00:00.000Z",
    }
    texts = {"INPUT": message["body"], "MESSAGE": {"envelope": {}, **message}, "CONTEXT": context}
    files = {name: json.dumps(value).encode() for name, value in texts.items()} | {"BODY": body_bytes(message)}
    variables = {
        "MIRROR_NEURON_BODY_CONTENT_TYPE": message.get("content_type", "application/json"),
        "MIRROR_NEURON_BODY_CONTENT_ENCODING": message.get("content_encoding", "identity"),
        "MIRROR_NEURON_WORKDIR": str(folder),
    }
    for name, raw in files.items():
        path = folder / f".mn_{name.lower()}"
        path.write_bytes(raw)
        variables[f"MIRROR_NEURON_{name}_FILE"] = str(path)
    return variables


def upload(bundle: Path, node: dict[str, Any], folder: Path) -> None:
    for item in node["config"]["uploads"]:
        source = bundle / "payloads" / item["source"]
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / item["target"])


@pytest.fixture
def run_node(tmp_path: Path) -> RunNode:
    """Run one node's command in a fresh folder with a clean environment, and return its stdout as JSON."""

    def run(bundle: str, node_id: str, body: Any, *, state: Any = None, **message: Any) -> dict[str, Any]:
        node = node_of(bundle, node_id)
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        upload(EXAMPLES / bundle, node, folder)
        variables = prepare(folder, node, {**message, "body": body}, state)
        variables |= {"PATH": os.environ["PATH"], **node["config"].get("environment", {})}
        first, *words = node["config"]["command"]
        assert first == "python3"
        command = [sys.executable, *(word.replace(SANDBOX, str(folder)) for word in words)]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------ every bundle


def test_there_are_six_bundles():
    assert len(BUNDLES) == 6


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bundle_is_complete(bundle):
    """Edges join nodes of the manifest, uploads exist, and a README gives the command."""
    manifest = manifest_of(bundle)
    ids = {node["node_id"] for node in manifest["nodes"]}
    assert manifest["graph_id"] == bundle
    assert {edge[end] for edge in manifest["edges"] for end in ("from_node", "to_node")} <= ids
    assert {*manifest["entrypoints"], *manifest.get("initial_inputs", {})} <= ids
    for node in manifest["nodes"]:
        for item in node["config"].get("uploads", []):
            assert (EXAMPLES / bundle / "payloads" / item["source"]).exists()
    assert f"mn run examples/{bundle}" in (EXAMPLES / bundle / "README.md").read_text(encoding="utf-8")
    assert f"[{bundle}]" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------ prime_sweep_scale


def test_the_committed_sweep_is_what_the_generator_writes():
    generator = load(GENERATOR)
    committed = (GENERATOR.parent / "manifest.json").read_text(encoding="utf-8")
    assert committed == generator.render(generator.build())
    assert json.loads(committed) == generator.build(workers=40, limit=100_000)


@pytest.mark.parametrize(("workers", "limit"), [(1, 1), (1, 100), (7, 100), (1000, 1_000_000)])
def test_a_sweep_of_any_width_covers_each_number_once(tmp_path, workers, limit):
    """The generator writes a complete bundle whose ranges cover 0 to the limit without gaps."""
    options = ["--workers", str(workers), "--limit", str(limit), "--out", str(tmp_path / "sweep")]
    subprocess.run([sys.executable, str(GENERATOR), *options], check=True, capture_output=True)
    manifest = json.loads((tmp_path / "sweep" / "manifest.json").read_text(encoding="utf-8"))
    ranges = [node["config"]["environment"] for node in manifest["nodes"] if "environment" in node["config"]]
    starts, ends = [int(each["START"]) for each in ranges], [int(each["END"]) for each in ranges]
    assert len(ranges) == workers
    assert [*starts, limit] == [0, *ends]
    collector = next(node for node in manifest["nodes"] if node["node_id"] == "collector")
    assert collector["config"]["complete_after"] == workers
    assert sorted(path.name for path in (tmp_path / "sweep" / "payloads").iterdir()) == [
        "add_up.py",
        "check_range.py",
    ]


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "5", "--limit", "4"]])
def test_the_generator_refuses_a_sweep_without_ranges(tmp_path, options):
    done = subprocess.run(
        [sys.executable, str(GENERATOR), *options, "--out", str(tmp_path / "sweep")],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert not (tmp_path / "sweep").exists()


def test_a_range_reports_its_primes(run_node):
    answer = run_node("prime_sweep_scale", "range_01", {"limit": 100_000})
    found = {"start": 0, "end": 2500, "count": 367, "largest": 2477}
    assert answer == {"emit_messages": [{"type": "range_checked", "body": found}]}


def test_small_primes_are_recognized():
    check_range = load(GENERATOR.parent / "payloads" / "check_range.py")
    primes = [number for number in range(-3, 50) if check_range.is_prime(number)]
    assert primes == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]


def test_the_summary_adds_the_ranges_up(run_node):
    """A range without primes has no largest prime and still counts as a range."""
    ranges = [
        {"start": 0, "end": 24, "count": 9, "largest": 23},
        {"start": 24, "end": 29, "count": 0, "largest": None},
    ]
    answer = run_node("prime_sweep_scale", "summary", {"messages": ranges, "count": 2, "last_message": ranges[-1]})
    assert answer == {"complete_job": {"prime_count": 9, "largest": 23, "ranges": 2, "limit": 29}}


def test_the_whole_sweep_finds_9592_primes(run_node, monkeypatch, capsys):
    """All 40 ranges, in this process, and their sum."""
    check_range = load(GENERATOR.parent / "payloads" / "check_range.py")
    for node in manifest_of("prime_sweep_scale")["nodes"]:
        for name, value in node["config"].get("environment", {}).items():
            monkeypatch.setenv(name, value)
        if "environment" in node["config"]:
            check_range.main()
    ranges = [json.loads(line)["emit_messages"][0]["body"] for line in capsys.readouterr().out.splitlines()]
    answer = run_node("prime_sweep_scale", "summary", {"messages": ranges, "count": 40, "last_message": ranges[-1]})
    assert answer["complete_job"] == {"prime_count": 9592, "largest": 99991, "ranges": 40, "limit": 100_000}


# ------------------------------------------------------------------ document_summarizer


def test_documents_are_split_summarized_and_combined(run_node):
    """The collector's threshold is the number of documents, and the digest does not depend on their order."""
    documents = run_node("document_summarizer", "splitter", {})["emit_messages"]
    assert len(documents) == node_of("document_summarizer", "collector")["config"]["complete_after"] == 5
    mappers = ["mapper_a", "mapper_b"] * 3
    summaries = [
        run_node("document_summarizer", mapper, document["body"])["emit_messages"][0]["body"]
        for mapper, document in zip(mappers, documents, strict=False)
    ]
    outputs = [
        run_node("document_summarizer", "reducer", {"messages": order, "count": 5, "last_message": order[-1]})
        for order in (summaries, summaries[::-1])
    ]
    assert outputs[0] == outputs[1]
    output = outputs[0]["complete_job"]
    texts = {document["body"]["document"]: " ".join(document["body"]["text"].split()) for document in documents}
    assert output["documents"] == 5
    assert output["total_words"] == sum(len(text.split()) for text in texts.values())
    for line in output["digest"]:
        name, _, sentence = line.partition(": ")
        assert sentence in texts[name]


@pytest.mark.parametrize("text", ["", "Not one of these.", "One sentence without an end"])
def test_any_text_can_be_summarized(run_node, text):
    body = {"document": "odd", "text": text}
    summary = run_node("document_summarizer", "mapper_a", body)["emit_messages"][0]["body"]
    assert summary["sentence"] == text


# ------------------------------------------------------------------ streaming_peaks


def stream_through(run_node: RunNode, order: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Run source and detector chunk by chunk; return the job's output and the events."""
    state, events = None, []
    for message in run_node("streaming_peaks", "source", order)["emit_messages"]:
        answer = run_node("streaming_peaks", "detector", message.pop("body"), state=state, **message)
        state = answer["next_state"]
        events += [event["payload"] for event in answer["events"]]
        assert ("complete_job" in answer) == message["stream"]["last"]
    return answer["complete_job"], events


@pytest.mark.parametrize("chunk_size", [1, 13, 16, 96])
def test_peaks_do_not_depend_on_the_chunk_size(run_node, chunk_size):
    """One large chunk and many small chunks give the same peaks, each as one event."""
    samples = 32 if chunk_size == 1 else 96
    output, events = stream_through(run_node, {"stream_id": "s", "samples": samples, "chunk_size": chunk_size})
    whole = load(EXAMPLES / "streaming_peaks" / "payloads" / "telemetry.py").signal(samples)
    peaks = load(EXAMPLES / "streaming_peaks" / "payloads" / "detect.py").find_peaks(whole, 8.0)
    assert output["peaks"] == events == peaks
    assert (output["peak_count"], output["samples"]) == (len(peaks), samples)


def test_the_stream_of_the_manifest_has_peaks_on_chunk_borders(run_node):
    order = manifest_of("streaming_peaks")["initial_inputs"]["source"]
    output, _ = stream_through(run_node, order)
    assert (output["stream_id"], output["chunks"]) == (
        order["stream_id"],
        order["samples"] // order["chunk_size"],
    )
    assert any((peak["t"] + 1) % order["chunk_size"] < 2 for peak in output["peaks"])


def test_a_chunk_out_of_order_fails_the_run(run_node):
    with pytest.raises(AssertionError, match="expected chunk 0, got chunk 1"):
        run_node("streaming_peaks", "detector", [], stream={"stream_id": "s", "seq": 1, "last": True})


# ------------------------------------------------------------------ counter_module


def test_the_counter_counts_to_its_limit():
    """Each step emits the next one, every tenth leaves an event, and the last one completes the job."""
    config = node_of("counter_module", "counter")["config"]
    counter_class = load(EXAMPLES / "counter_module" / "payloads" / config["module_source"]).Counter
    raw = seed({}, job_id="job-1", to="counter", message_id="m-1", timestamp="2030-01-01T00:00:00.000Z")
    message = Message.parse(json.dumps(raw).encode())
    state: dict[str, Any] = {}
    actions: list[Any] = []
    while not any(isinstance(action, Complete) for action in actions):
        context = Context(job_id="job-1", agent_id="counter", config=config, payloads_path=None)
        counter = counter_class()
        counter.state = state
        counter.handle(message, context)
        state = json.loads(json.dumps(counter.state))
        actions += context.actions
    assert actions[-1] == Complete({"count": config["limit"]})
    assert sum(isinstance(action, Emit) for action in actions) == config["limit"] - 1
    marks = [action.payload["count"] for action in actions if isinstance(action, Record)]
    assert marks == [10, 20, 30, 40, 50]


# ------------------------------------------------------------------ conditional_route


@pytest.mark.parametrize(("reading", "branch"), [(12, "low"), (20, "normal"), (80, "normal"), (80.5, "high")])
def test_a_reading_is_classified(run_node, reading, branch):
    answer = run_node("conditional_route", "classifier", {"reading": reading})
    body = {"reading": reading, "outputs": {"branch": branch}}
    assert answer == {"emit_messages": [{"type": "classified", "body": body}]}


def test_each_handler_has_its_own_action(run_node):
    handlers = ["low_handler", "high_handler", "other_handler"]
    body = {"reading": 12, "outputs": {"branch": "low"}}
    answers = [run_node("conditional_route", handler, body) for handler in handlers]
    assert [answer["reading"] for answer in answers] == [12, 12, 12]
    assert len({answer["action"] for answer in answers}) == 3


def test_the_default_edge_comes_last():
    edges = [edge for edge in manifest_of("conditional_route")["edges"] if edge["from_node"] == "classifier"]
    assert {edge["routing_mode"] for edge in edges} == {"first_match"}
    assert ["conditions" in edge for edge in edges] == [True, True, False]
