"""The jobs of the crash test: small graphs in which every lost or repeated message shows, with the expected results.

Their commands are short `sh` scripts. A killed command is a failed run, and a killed worker loses its run. Both may
happen to one message many times, so the limits on attempts and restarts are high.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from mirrorneuron.chaos.invariants import Expected

MARK: Final = "mn-chaos"  #: `$0` of every command; finds it in the list of processes
POLICIES: Final = {"max_agent_restart_attempts": 1_000, "recovery_mode": "cluster_recover"}
TRIES: Final = {"max_attempts": 1_000, "retry_backoff_ms": 20}

INPUTS: Final = (3, 5)
WIDTH: Final = 4
LINE: Final = 12  # messages that pass the chain
LAPS: Final = 12  # rounds of the counter's loop
BATCHED: Final = (1, 2, 3, 4, 5, 6, 7)
FED: Final = (1, 2, 3, 4, 5)  # sent from outside the job

COUNTER: Final = '''
from mirrorneuron import Agent


class Counter(Agent):
    """Counts and adds up the numbers, and emits each number plus one into its loop."""

    def handle(self, message, context):
        self.state["count"] = self.state.get("count", 0) + 1
        self.state["sum"] = self.state.get("sum", 0) + message.body
        if self.state["count"] < context.config["laps"]:
            context.emit("lap", message.body + 1)
        else:
            context.complete_job(self.state)
'''

STEP: Final = '''
import time
from mirrorneuron import Agent


class Step(Agent):
    """Emits its number plus one, after a while."""

    def handle(self, message, context):
        time.sleep(context.config["takes_s"])
        context.emit("number", message.body + 1)
'''


@dataclass(frozen=True, slots=True)
class Graph:
    """One kind of job, and its expected result."""

    name: str
    manifest: Mapping[str, Any]
    expected: Expected
    payloads: Mapping[str, str] = field(default_factory=dict)  #: file name -> text
    feed: tuple[int, ...] = ()  #: message bodies that the producer sends to `source` after the submission, in order

    def write(self, folder: Path) -> Path:
        """Write the bundle into a new folder below *folder*, and return that folder."""
        bundle = folder / self.name
        (bundle / "payloads").mkdir(parents=True, exist_ok=True)
        (bundle / "manifest.json").write_text(json.dumps(self.manifest))
        for name, text in self.payloads.items():
            (bundle / "payloads" / name).write_text(text)
        return bundle


def all_graphs() -> tuple[Graph, ...]:
    return (_fan(), _chain(), _counter(), _steps(), _flaky(), _batches(), _fed())


def _fan() -> Graph:
    """A router sends to executors that multiply; an aggregator collects the products."""
    names = [f"times-{n}" for n in range(1, WIDTH + 1)]
    script = 'n=$(cat "$MIRROR_NEURON_INPUT_FILE"); sleep 0.2; ' + _emit("part", "$((n * TIMES))")
    nodes = [_node("source", "router", emit_type="number"), _sink(WIDTH * len(INPUTS))]
    nodes += [_command(name, script, environment={"TIMES": n}) for n, name in enumerate(names, start=1)]
    edges = [_edge("source", name, "number") for name in names] + [_edge(name, "sink", "part") for name in names]
    processed = {"source": len(INPUTS), "sink": WIDTH * len(INPUTS)} | dict.fromkeys(names, len(INPUTS))
    collected = [n * number for n in range(1, WIDTH + 1) for number in INPUTS]
    return Graph("fan", _manifest("fan", INPUTS, nodes, edges), Expected(processed, messages=tuple(collected)))


def _chain() -> Graph:
    """A linear run of routers, which must keep the order of the messages."""
    names = ["source", "second", "third", "fourth"]
    numbers = range(1, LINE + 1)
    nodes = [_node(name, "router", emit_type="number") for name in names] + [_sink(LINE)]
    edges = [_edge(a, b, "number") for a, b in zip(names, [*names[1:], "sink"], strict=True)]
    expected = Expected(dict.fromkeys([*names, "sink"], LINE), messages=tuple(numbers), ordered=True)
    return Graph("chain", _manifest("chain", numbers, nodes, edges), expected)


def _counter() -> Graph:
    """A loop through a module that counts in its state."""
    config = {"module": "counter:Counter", "module_source": "counter.py", "laps": LAPS, **TRIES}
    nodes = [_node("source", "module", **config), _node("back", "router", emit_type="number")]
    edges = [_edge("source", "back", "lap"), _edge("back", "source", "number")]
    expected = Expected({"source": LAPS, "back": LAPS - 1}, output={"count": LAPS, "sum": sum(range(1, LAPS + 1))})
    return Graph("counter", _manifest("counter", [1], nodes, edges), expected, {"counter.py": COUNTER})


def _steps() -> Graph:
    """A line of modules and a fan of others, most of which run for so short a time that they share claims."""
    line, fan = ["source", "second", "third"], [f"part-{n}" for n in range(WIDTH)]
    slow = {"third", "part-2"}
    nodes = [
        _node(name, "module", module="step:Step", module_source="step.py", takes_s=0.05 * (name in slow), **TRIES)
        for name in (*line, *fan)
    ]
    edges = [_edge(a, b, "number") for a, b in pairwise(line)]
    edges += [_edge("third", name, "number") for name in fan] + [_edge(name, "sink", "number") for name in fan]
    count = WIDTH * len(INPUTS)
    processed = {"sink": count} | dict.fromkeys((*line, *fan), len(INPUTS))
    collected = tuple(number + 4 for number in INPUTS for _ in fan)
    manifest = _manifest("steps", INPUTS, [*nodes, _sink(count)], edges)
    return Graph("steps", manifest, Expected(processed, messages=collected), {"step.py": STEP})


def _flaky() -> Graph:
    """A command that fails in its first run. It leaves a file outside its run folder, so that the next run succeeds."""
    script = 'trace="${TMPDIR:?}/{job_id}"; [ -e "$trace" ] || { : > "$trace"; exit 75; }; sleep 0.1; ' + _emit(
        "part", "7"
    )
    nodes = [_command("source", script), _sink(1)]
    manifest = _manifest("flaky", [0], nodes, [_edge("source", "sink", "part")])
    return Graph("flaky", manifest, Expected({"source": 1, "sink": 1}, messages=(7,)))


def _batches() -> Graph:
    """A router sends to a batch executor that adds up in its state; the job completes when it is idle."""
    script = (
        """sum=$(sed -n 's/.*"agent_state":\\([0-9][0-9]*\\).*/\\1/p' "$MIRROR_NEURON_CONTEXT_FILE"); """
        """sum=$((${sum:-0} + $(tr -d '[] ' < "$MIRROR_NEURON_INPUT_FILE" | tr , +))); sleep 0.1; """
        """printf '{"next_state":%s,"emit_messages":[{"type":"sum","body":%s}]}' "$sum" "$sum" """
    )
    batch = {**_command("adder", script, batch_size=3), "type": "batch"}
    nodes = [_node("source", "router", emit_type="number"), batch, _node("out", "router")]
    edges = [_edge("source", "adder", "number"), _edge("adder", "out", "sum")]
    runs = -(-len(BATCHED) // 3)
    expected = Expected(
        {"source": len(BATCHED), "adder": len(BATCHED), "out": runs}, runs={"adder": runs}, output={"out": sum(BATCHED)}
    )
    return Graph("batches", _manifest("batches", BATCHED, nodes, edges), expected)


def _fed() -> Graph:
    """A sensor that observes messages of the producer, which may send each of them more than once."""
    nodes = [_node("source", "sensor", complete_job=True, complete_after=1 + len(FED))]
    expected = Expected({"source": 1 + len(FED)}, output={"count": 1 + len(FED), "last_message": FED[-1]})
    return Graph("fed", _manifest("fed", [0], nodes, []), expected, feed=FED)


def fed_for_long(count: int = 0) -> Graph:
    """A router that gets *count* messages from outside. A message to `gate`, with that number, ends the job."""
    nodes = [_node("source", "router"), _node("gate", "sensor", complete_job=True, complete_after=1)]
    expected = Expected({"source": 1 + count, "gate": 1}, output={"count": 1, "last_message": count})
    return Graph("fed-for-long", _manifest("fed-for-long", [0], nodes, []), expected)


def _manifest(name: str, inputs: Any, nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "manifest_version": "1.0",
        "graph_id": f"chaos-{name}",
        "entrypoints": ["source"],
        "initial_inputs": {"source": list(inputs)},
        "nodes": nodes,
        "edges": edges,
        "policies": POLICIES,
    }


def _node(name: str, agent_type: str, **config: Any) -> dict[str, Any]:
    return {"node_id": name, "agent_type": agent_type, "config": config}


def _sink(complete_after: int) -> dict[str, Any]:
    return _node("sink", "aggregator", complete_after=complete_after)


def _command(name: str, script: str, **config: Any) -> dict[str, Any]:
    command = ["sh", "-c", script, MARK]
    return _node(name, "executor", command=command, output_message_type=None, **TRIES, **config)


def _edge(start: str, end: str, message_type: str) -> dict[str, Any]:
    return {"from_node": start, "to_node": end, "message_type": message_type}


def _emit(message_type: str, number: str) -> str:
    """Return the `sh` command that emits one message with a number as its body."""
    return f"""printf '{{"emit_messages":[{{"type":"{message_type}","body":%s}}]}}' "{number}" """
