"""The first call of a process: imports, forks in the middle of them, and threads that outlive the main thread."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.valkey import ValkeyServer

GRAPH = """
import os, signal, sys, threading
import mirrorneuron
GRAPH = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["a"],
         "nodes": [{"node_id": "a", "agent_type": "aggregator", "config": {"complete_after": 1}}], "edges": []}
"""
FORK = """
middle, forking, forked = threading.Event(), threading.Event(), threading.Event()

class Finder:  # holds the thread in the middle of an import until the process is forked, or does not fork
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            middle.set()
            forking.wait(30)
            forked.wait(1)

sys.meta_path.insert(0, Finder())
os.register_at_fork(before=forking.set, after_in_parent=forked.set)
thread = threading.Thread(target=lambda: mirrorneuron.run_manifest(GRAPH))
thread.start()
assert middle.wait(30)
child = os.fork()
if not child:
    signal.alarm(20)
    mirrorneuron.run_manifest(GRAPH)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""
LATE = """
def late():
    threading.main_thread().join()
    job_id = mirrorneuron.run_manifest(GRAPH)
    mirrorneuron.cancel(job_id)
    print(mirrorneuron.wait_for_job(job_id)["status"], flush=True)

threading.Thread(target=late).start()
"""
IMPORTS = """
client = mirrorneuron.Client(mirrorneuron.Settings())
client.list_jobs()
before = set(sys.modules)
client._live_parts().app
ready = set(sys.modules)
job_id = client.run_manifest(GRAPH)
client.send_message(job_id, "a", {})
print("kombu.transport.redis" in ready - before, sorted(set(sys.modules) - ready))
"""


def said(program: str, server: ValkeyServer, *args: str) -> str:
    env = {**os.environ, "MIRROR_NEURON_REDIS_URL": server.url, "MIRROR_NEURON_REDIS_NAMESPACE": "first_use"}
    command = [sys.executable, "-c", GRAPH + program, *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_that_is_forked_during_an_import_of_the_first_call_works(server: ValkeyServer) -> None:
    """In the child nothing would release the lock of a module that another thread was importing."""
    for module in ("celery.app.base", "kombu.transport.redis"):
        assert said(FORK, server, module) == "0", module


def test_the_first_call_may_come_from_a_thread_that_outlives_the_main_thread(server: ValkeyServer) -> None:
    assert said(LATE, server) == "cancelled"


def test_the_first_publication_imports_nothing_after_the_app_is_made(server: ValkeyServer) -> None:
    assert said(IMPORTS, server) == "True []"
