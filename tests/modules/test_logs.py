"""Log records of module agents: on stderr with level and logger, once each, and never the cause of a failed run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.agent import Emit
from tests.support.modules import Bundle
from tests.support.waiting import wait_until
from workers.lifecycle.run_handle import RunHandle
from workers.modules.pool import ModulePool, ModuleResult

HEAD = "import logging, sys, threading, warnings\nlog = logging.getLogger('my.agent')\n"


def said(pool: ModulePool, bundle: Bundle, **config: Any) -> tuple[dict[str, list[str]], ModuleResult]:
    """The lines of each stream, and the result of one message."""
    streams = {"stdout": b"", "stderr": b""}

    def echo(name: str, chunk: bytes) -> None:
        streams[name] += chunk

    result = pool.run(replace(bundle.request(**config), echo=echo), RunHandle())
    return {name: data.decode().splitlines() for name, data in streams.items()}, result


def lines_of(pool: ModulePool, bundle: Bundle, lines: str, *, top: str = "", **config: Any) -> list[str]:
    """The lines on stderr of a module with the given lines."""
    method = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
    top = textwrap.dedent(top)
    bundle.write("agent.py", f"{HEAD}{top}\nclass It(Agent):\n    def handle(self, message, context):\n{method}\n")
    streams, result = said(pool, bundle, **config)
    assert result.error is None, result
    return streams["stderr"]


def test_records_have_level_and_logger_and_are_on_stderr(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write(
        "agent.py",
        f"""
        {HEAD.replace(chr(10), chr(10) + " " * 8)}
        log.info("imported")
        class It(Agent):
            def handle(self, message, context):
                log.debug("hidden")
                log.info("rows: %s", 3)
                logging.info("by the root logger")
                print("printed")
                print("complained", file=sys.stderr)
        """,
    )
    streams, result = said(pool, bundle)
    assert result.error is None
    info = ["INFO my.agent: imported", "INFO my.agent: rows: 3", "INFO root: by the root logger"]
    assert streams == {"stdout": ["printed"], "stderr": [*info, "complained"]}
    assert set(result.details["stderr"].splitlines()) == {*info, "printed", "complained"}


@pytest.mark.parametrize(("level", "seen"), [("DEBUG", 3), ("info", 2), ("Warning", 1), ("ERROR", 0)])
def test_the_level_is_that_of_the_agents_config(pool: ModulePool, bundle: Bundle, level: str, seen: int) -> None:
    """Also when agents of other levels use the same child."""
    script = "log.debug('d')\nlog.info('i')\nlog.warning('w')"
    assert lines_of(pool, bundle, script, log_level="CRITICAL") == []
    assert len(said(pool, bundle, log_level=level)[0]["stderr"]) == seen
    assert len(said(pool, bundle)[0]["stderr"]) == 2


@pytest.mark.parametrize(
    ("top", "line"),
    [
        ("logging.basicConfig(format='mine: %(message)s')", "mine: hello"),
        ("logging.basicConfig(format='mine: %(message)s', level=logging.DEBUG)", "mine: hello"),
        ("h = logging.StreamHandler(); log.addHandler(h)", "hello"),
        ("logging.getLogger().addHandler(logging.StreamHandler())", "hello"),
        ("logging.getLogger('my').addHandler(logging.StreamHandler())", "hello"),
        (
            """
            import logging.config
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
                "formatters": {"f": {"format": "dict: %(message)s"}},
                "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
                "root": {"handlers": ["h"], "level": "INFO"}})
            """,
            "dict: hello",
        ),
        ("log.addHandler(logging.NullHandler())", "INFO my.agent: hello"),
        ("logging.getLogger().handlers[0].setFormatter(logging.Formatter('short: %(message)s'))", "short: hello"),
    ],
)
def test_logging_that_a_module_sets_up_itself_is_respected(
    pool: ModulePool, bundle: Bundle, top: str, line: str
) -> None:
    assert lines_of(pool, bundle, "log.info('hello')", top=top) == [line]


def test_a_level_that_a_module_sets_itself_is_kept(pool: ModulePool, bundle: Bundle) -> None:
    top = "logging.getLogger().setLevel(logging.ERROR)"
    lines = lines_of(pool, bundle, "log.warning('no')\nlog.error('yes')", top=top, log_level="DEBUG")
    assert lines == ["ERROR my.agent: yes"]
    assert said(pool, bundle, log_level="DEBUG")[0]["stderr"] == lines


def test_warnings_are_records(pool: ModulePool, bundle: Bundle) -> None:
    (first, *_) = lines_of(pool, bundle, "warnings.warn('careful')")
    assert first.startswith("WARNING py.warnings: ")
    assert first.endswith("UserWarning: careful")
    bundle.write(
        "two.py",
        "import warnings\nclass It(Agent):\n    def handle(self, message, context):\n"
        "        with warnings.catch_warnings(record=True) as seen:\n"
        "            warnings.simplefilter('always')\n            warnings.warn('caught')\n"
        "        context.complete_job(len(seen))\n",
    )
    streams, result = said(pool, bundle, module="two:It")
    assert (streams["stderr"], result.error) == ([], None)


def test_records_of_threads_are_whole_lines(pool: ModulePool, bundle: Bundle) -> None:
    lines = lines_of(
        pool,
        bundle,
        """
        def work(name):
            for number in range(50):
                log.info("%s %s", name * 100, number)
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        """,
    )
    assert sorted(lines) == sorted(f"INFO my.agent: {name * 100} {n}" for name in "abc" for n in range(50))


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ("log.info('%d', 'no number')", "--- Logging error ---"),
        ("sys.stderr.close(); log.info('closed')", "INFO my.agent: closed"),
        ("sys.stderr = None; log.info('none')", "INFO my.agent: none"),
        ("log.info('half a pair: \\udc80')", "INFO my.agent: half a pair: \\udc80"),
        ("try: 1 / 0\nexcept ZeroDivisionError: log.exception('failed')", "ZeroDivisionError: division by zero"),
        (
            "log.addHandler(logging.StreamHandler(open('/dev/full', 'w'))); log.info('x')",
            "--- Logging error ---",
        ),
        (
            "class Logged:\n    def write(self, text): logging.getLogger('stderr').error(text.strip())\n"
            "    def flush(self): pass\n"
            "sys.stderr = Logged(); log.info('x')",
            "ERROR stderr: INFO my.agent: x",
        ),
    ],
)
def test_logging_that_goes_wrong_fails_no_run(pool: ModulePool, bundle: Bundle, lines: str, seen: str) -> None:
    assert seen in lines_of(pool, bundle, lines)
    assert said(pool, bundle)[1].error is None  # the child can handle the next message


def test_more_output_than_the_pipes_hold_on_both_streams(pool: ModulePool, bundle: Bundle) -> None:
    script = "for n in range(200):\n    log.info('x' * 5_000)\n    print('y' * 5_000)"
    bundle.write(
        "agent.py",
        f"{HEAD}class It(Agent):\n    def handle(self, message, context):\n" + textwrap.indent(script, " " * 8),
    )
    streams, result = said(pool, bundle)
    assert result.error is None
    assert [len(lines) for lines in streams.values()] == [200, 200]


LATE = """
import os, threading, time
class It(Agent):
    def handle(self, message, context):
        gate = message.body
        def work():
            while not os.path.exists(gate):
                time.sleep(0.01)
            print("late", flush=True)
            context.emit("x", 1)
        def swallow():
            try:
                work()
            except RuntimeError:
                pass
        for target in (work, swallow):
            threading.Thread(target=target, daemon=True).start()
        context.emit("in time", 1)
"""


def test_an_operation_after_handle_has_ended_is_an_error_in_its_thread_and_in_the_log(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Nobody sends another message: the output of an idle child is read all the same."""
    seen: dict[str, str] = {"stdout": "", "stderr": ""}

    def echo(stream: str, chunk: bytes) -> None:
        seen[stream] += chunk.decode()

    def late(job: str, agent: str) -> nullcontext[Callable[[str, bytes], None]]:
        assert (job, agent) == ("job", "a")
        return nullcontext(echo)

    pool = ModulePool(late_output=late)
    try:
        bundle.payloads.joinpath("agent.py").write_text(f"from mirrorneuron.agent import Agent\n{LATE}")
        result = bundle.run(pool, str(tmp_path / "gate"))
        assert (result.error, [type(action) for action in result.actions]) == (None, [Emit])
        (tmp_path / "gate").touch()
        said = "emit of 'x' by 'a' after handle has ended: lost; handle must wait for its threads and tasks"
        wait_until(lambda: seen["stderr"].count(f"ERROR mirrorneuron: {said} (job job)\n") == 2)
        wait_until(lambda: f"RuntimeError: {said}" in seen["stderr"])
        assert seen["stdout"] == "late\nlate\n"
        assert bundle.run(pool, "none").error is None
    finally:
        pool.close()


@pytest.mark.parametrize("call", ["emit('x', 1)", "event('x')", "complete_job(1)"])
def test_the_context_of_an_earlier_message_is_an_error_also_after_a_failed_one(
    pool: ModulePool, bundle: Bundle, call: str
) -> None:
    bundle.write(
        "agent.py",
        f"""
        kept = []
        class It(Agent):
            def handle(self, message, context):
                if kept:
                    kept[0].{call}
                kept.append(context)
                1 / 0
        """,
    )
    assert "ZeroDivisionError" in str(bundle.run(pool).error)
    assert "after handle has ended: lost" in str(bundle.run(pool).error)
