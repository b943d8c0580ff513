"""A node as such: how soon it is there, what it costs when it is idle, and what `mn run` adds to a job."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from benchmarks import graphs, harness, ours, work
from benchmarks.row import Row, at_most
from benchmarks.size import Size
from mirrorneuron import Client

START_SLOTS = 4
MANY_SLOTS = 8
MIB = 1024 * 1024


def rows(size: Size) -> Iterator[Row]:
    yield _registers(size)
    with harness.server() as url, ours.node(url) as node:
        yield from idle(node.client, node.pid, size)
        yield _run_command(node, size)
    yield _memory(size)


def _registers(size: Size) -> Row:
    found = []
    with harness.server() as url:
        for _ in range(size.rounds):
            with ours.node(url, START_SLOTS) as node:
                found.append(node.registered_s)
    return Row(
        f"`mn worker` registers, {START_SLOTS} slots", "s", {"MirrorNeuron": harness.median(found)}, (at_most(2),)
    )


def idle(client: Client, node_pid: int, size: Size) -> Iterator[Row]:
    """The node after some work, when no job is live."""
    client.run_manifest(job_bundle=graphs.python_chain(), await_=True)
    commands, cpu = watched(client, node_pid, size.watch_s)
    yield Row("an idle node", "commands/s", {"MirrorNeuron": commands}, (at_most(10),))
    yield Row("an idle node", "% of a core", {"MirrorNeuron": cpu}, (at_most(0.3),))


def watched(client: Client, node_pid: int, seconds: float) -> tuple[float, float]:
    """Commands per second that the server executes, and CPU of the node in per cent of a core, without jobs."""
    server: Any = Redis.from_url(client.settings.redis_url)

    def look() -> tuple[int, float, float]:
        return server.info("stats")["total_commands_processed"], harness.cpu_seconds(node_pid), time.perf_counter()

    look()  # the first call connects
    before = look()
    time.sleep(seconds)
    after = look()
    past = after[2] - before[2]
    return (after[0] - before[0] - 1) / past, 100 * (after[1] - before[1]) / past  # 1: our own INFO


def _run_command(node: ours.Node, size: Size) -> Row:
    """`mn run` of a bundle, compared with the same job from a process that is connected already."""
    bundle = graphs.python_chain()
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        (folder / "manifest.json").write_text(json.dumps(bundle.manifest.to_dict()))
        shutil.copytree(graphs.PAYLOADS, folder / "payloads", ignore=shutil.ignore_patterns("__pycache__"))
        command = (*ours.MN, "run", str(folder))

        def run() -> None:
            subprocess.run(command, env=node.environment, cwd=harness.ROOT, check=True, capture_output=True)

        def call() -> None:
            _, job = node.client.run_manifest(str(folder), await_=True)
            work.check(job["status"], "completed")

        run(), call()
        sides = (lambda: 1000 * harness.in_a_row(3, run), lambda: 1000 * harness.in_a_row(3, call))
        whole, job = map(harness.median, harness.alternate(size.rounds, *sides))
    note = f"`mn run` took {whole:.0f} ms, the same job from a connected process {job:.0f} ms"
    return Row("`mn run` on a warm machine adds", "ms", {"MirrorNeuron": whole - job}, (at_most(150),), note=note)


def _memory(size: Size) -> Row:
    """Memory of a node after each of its slots has run a job. The row has no goal."""
    with harness.server() as url, ours.node(url, MANY_SLOTS) as node:
        ours.Ours(node.client, node.pid).fan(1, size.fan)
        used, how = _used(node.pid)
    return Row(f"memory of a node, {MANY_SLOTS} slots", "MiB", {"MirrorNeuron": used / MIB}, note=how)


def _used(pid: int) -> tuple[float, str]:
    """Bytes of a process and its descendants, and how they were counted."""
    root = psutil.Process(pid)
    processes = [root, *root.children(recursive=True)]
    try:
        total = sum(process.memory_full_info().pss for process in processes)
        return total, f"{len(processes)} processes, shared pages counted once (PSS)"
    except (psutil.Error, AttributeError):  # a process that is protected, or a system without PSS
        total = 0
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total, f"{len(processes)} processes, shared pages counted in each (RSS)"
