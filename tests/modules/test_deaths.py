"""A child that dies or misbehaves harms no other run."""

from __future__ import annotations

import os
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.support.modules import WHO, Bundle, Handle, pid_of
from workers.lifecycle.run_handle import RunHandle
from workers.modules.module_child import HEADER
from workers.modules.pool import ModulePool


@pytest.mark.parametrize(
    ("lines", "error", "detail"),
    [
        ("import os; os._exit(7)", "child ended with exit code 7", ("exit_code", 7)),
        ("import ctypes; ctypes.string_at(0)", "child was killed by signal SIGSEGV", ("signal", "SIGSEGV")),
        ("import os; os.abort()", "child was killed by signal SIGABRT", ("signal", "SIGABRT")),
        ("import os; os.kill(os.getpid(), 9)", "child was killed by signal SIGKILL", ("signal", "SIGKILL")),
        ("import os; os.kill(os.getpid(), 40)", "child was killed by signal 40", ("signal", "40")),
        ("import os; os.closerange(0, 4096)", "the module closed the connection to its node", None),
        ("import os; os.closerange(0, 4096); import signal; signal.pause()", "the module closed the connection", None),
    ],
)
def test_the_death_of_a_child_is_a_transient_error(
    handle: Handle, lines: str, error: str, detail: tuple[str, Any] | None
) -> None:
    result = handle("print('last words')\n" + lines, {"big": "x" * 1_000_000})
    assert str(result.error).startswith(error)
    assert result.transient
    assert "last words" in result.details["stderr"]
    assert detail is None or detail in result.details.items()


def test_a_segmentation_fault_shows_where_it_happened(handle: Handle) -> None:
    details = handle("import ctypes; ctypes.string_at(0)").details
    assert "Segmentation fault" in details["stderr"]
    assert "in handle" in details["stderr"]


def test_a_node_may_limit_the_length_of_runs(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("agent.py", "class It(Agent):\n    def handle(self, message, context):\n        while True: pass\n")
    result = pool.run(replace(bundle.request(None, timeout_seconds=900), max_seconds=1), RunHandle())
    assert result.error == "timed out after 1 s (this node allows MIRROR_NEURON_MAX_RUN_SECONDS=1)"


@pytest.mark.parametrize(
    "lines", ["while True: pass", "while True: print('x' * 1000)", "import signal; signal.pause()"]
)
def test_a_time_out_ends_the_child(handle: Handle, lines: str) -> None:
    result = handle(lines, timeout_seconds=0.3)
    assert result.error == "timed out after 0.3 s"
    assert result.transient
    assert len(result.details.get("stderr", "")) <= 64 * 1024


def test_a_kill_also_ends_what_the_module_has_started(pool: ModulePool, bundle: Bundle) -> None:
    """The pipe that the grandchild holds ends only when it is gone."""
    fifo = bundle.payloads / "fifo"
    os.mkfifo(fifo)
    bundle.write(
        "agent.py",
        """
        import os, signal
        class It(Agent):
            def handle(self, message, context):
                if os.fork() == 0:
                    with open(context.payloads_path / "fifo", "w"):
                        signal.pause()
                signal.pause()
        """,
    )
    handle = RunHandle()
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(pool.run, bundle.request(), handle)
        with open(fifo) as held:
            handle.kill("enough")
            assert held.read() == ""  # returns when the last writer is gone
    assert result.result().error == "killed: enough"


def test_a_run_can_be_killed_from_another_thread(pool: ModulePool, bundle: Bundle) -> None:
    fifo = bundle.payloads / "fifo"
    os.mkfifo(fifo)
    bundle.write(
        "agent.py",
        """
        class It(Agent):
            def handle(self, message, context):
                (context.payloads_path / "fifo").write_text("x")
                while True: pass
        """,
    )
    handle = RunHandle()
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(pool.run, bundle.request(), handle)
        assert fifo.read_text() == "x"  # it is in the middle of `handle` now
        handle.kill("the job was cancelled")
    assert result.result().error == "killed: the job was cancelled"
    assert result.result().transient


def test_a_handle_that_was_killed_before_starts_nothing(pool: ModulePool, bundle: Bundle) -> None:
    handle = RunHandle()
    handle.kill("cancelled")
    bundle.write("agent.py", "raise SystemExit")
    assert pool.run(bundle.request(), handle).error == "killed: cancelled"


@pytest.mark.parametrize(
    "lines",
    [
        "if os.fork() == 0: return",  # the copy goes back to the loop of the child and must not answer
        "if os.fork() == 0: raise ValueError",
        "threading.Thread(target=lambda: [print('x') for _ in iter(int, 1)], daemon=False).start()",
        "sys.stdout.close(); sys.stderr = None",
        "os.close(1); os.close(2); os.close(0)",
        "os.chdir('/'); sys.modules.pop('os'); sys.argv.clear()",
    ],
)
def test_odd_but_harmless_behaviour_is_success(handle: Handle, lines: str) -> None:
    result = handle(f"{lines}\nself.state['done'] = True", imports="import os, sys, threading")
    assert (result.error, result.state) == (None, {"done": True})


@pytest.mark.parametrize(
    ("forged", "error"),
    [
        (HEADER.pack(2, 1) + b"{}", "the module's answer is neither a result nor an error"),
        (HEADER.pack(27, 1) + b'{"error":"","traceback":""}', "the module's answer is neither a result nor an error"),
        (HEADER.pack(4, 1) + b"{{{{", "the module's answer cannot be read"),
        (HEADER.pack(2, 9) + b"{}", "the module wrote to the connection to its node"),
        (HEADER.pack(1 << 60, 1), "the module's state and messages are 1152921504606846976 bytes of JSON, more than"),
        (b"hello, world and everyone", "the module's state and messages are"),
        (
            HEADER.pack(27, 1) + b'{"state":{},"actions":[[]]}',
            "the module's answer cannot be read: [] is not a valid action",
        ),
        (HEADER.pack(29, 1) + b'{"state":{},"actions":[[1,2]]}', "the module wrote to the connection"),
        (HEADER.pack(300, 1) + b"[" * 300, "the module's answer cannot be read"),
    ],
)
def test_a_forged_answer_is_an_error(handle: Handle, forged: bytes, error: str) -> None:
    """Code of a bundle can find the socket, so the worker checks every answer."""
    lines = f"""
        for fd in range(3, 4096):
            try:
                socket.socket(fileno=os.dup(fd)).sendall({forged!r})
            except OSError:
                pass
        signal.pause()
    """
    result = handle(lines, imports="import os, signal, socket", timeout_seconds=30)
    assert str(result.error).startswith(error)


def test_an_answer_over_the_cap_is_an_error(bundle: Bundle) -> None:
    pool = ModulePool(max_answer_bytes=1000)
    bundle.write("agent.py", "class It(Agent):\n    def handle(self, m, c): self.state['x'] = 'x' * m.body")
    assert "more than the cap of 1000" in str(bundle.run(pool, 2000).error)
    assert bundle.run(pool, 20).error is None
    pool.close()


def test_a_forked_copy_of_the_child_keeps_no_run_waiting(handle: Handle) -> None:
    """It has the pipe for output open, and perhaps a copy of the socket: what counts is the end of the child itself."""
    lines = "sock = [os.dup(fd) for fd in range(500, 510) if os.path.exists(f'/proc/self/fd/{fd}')]"
    result = handle(f"{lines}\nif os.fork() == 0: signal.pause()\nos._exit(5)", imports="import os, signal")
    assert result.error == "child ended with exit code 5"


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a process that is not reaped here")
def test_a_child_that_died_while_it_was_idle_is_replaced(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("agent.py", WHO)
    first = pid_of(pool, bundle)
    exit_fd = os.pidfd_open(first)
    os.kill(first, signal.SIGKILL)
    assert select.select([exit_fd], [], [], 60)[0]
    os.close(exit_fd)
    assert pid_of(pool, bundle) != first
