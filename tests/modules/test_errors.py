"""What a module does wrong is one clear error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.modules import WHO, Bundle, Handle, output_of, pid_of
from workers.modules.pool import ModulePool


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("raise ValueError('boom')", "ValueError: boom"),
        ("raise ValueError('boom\\nmore')", "ValueError: boom"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "Odd: (its text cannot be read)"),
        ("raise ValueError('\\ud800')", "ValueError: ?"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("self.state = [1]", "state must be a dict of JSON values, not list"),
        ("self.state['a'] = {'b': [1, {2}]}", "state['a']['b'][1] is of type set, which is not a JSON value"),
        ("self.state['a'] = [(1, 2)]", "state['a'][0] is of type tuple, which is not a JSON value; use a list"),
        (
            "context.emit('e', {'x': (1,)})",
            "body of 'e'['x'] is of type tuple, which is not a JSON value; use a list",
        ),
        ("self.state['a'] = b'x'", "state['a'] is of type bytes, which is not a JSON value"),
        ("self.state[1] = 1", "state has the key 1; keys of JSON objects must be strings"),
        ("self.state['a'] = float('nan')", "state['a'] is nan, which JSON cannot represent"),
        ("context.emit('e', [float('inf')])", "body of 'e'[0] is inf, which JSON cannot represent"),
        ("context.event('e', object())", "payload of event 'e' is of type object, which is not a JSON value"),
        ("context.emit('e', 1, to=5)", "emit of 'e': `to` must be the id of an agent, not 5"),
        ("context.emit('e', 1, colour=5)", "ValueError: 'colour' is not a message field that an agent can set"),
        ("context.actions.append('x')", "'x' is not an action: use emit, event and complete_job of the context"),
    ],
)
def test_invalid_behaviour_is_an_error_and_the_child_is_kept(handle: Handle, lines: str, error: str) -> None:
    result = handle(lines)
    assert result.error == error
    assert (result.state, result.actions, result.transient) == ({}, [], False)


def test_a_state_that_contains_itself_is_refused(handle: Handle) -> None:
    assert str(handle("self.state['me'] = self.state").error).endswith("... is nested too deeply or contains itself")


def test_text_that_is_not_valid_unicode_is_refused(handle: Handle) -> None:
    assert str(handle("self.state['half'] = '\\ud800'").error).startswith("state or actions are not valid JSON: ")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("async def handle(self, message, context): pass", "a coroutine function"),
        ("async def handle(self, message, context): yield", "a coroutine function"),
        ("def handle(self, message, context): yield", "a generator"),
    ],
)
def test_an_async_or_generator_handle_is_refused(pool: ModulePool, bundle: Bundle, method: str, kind: str) -> None:
    bundle.write("agent.py", f"class It(Agent):\n    {method}")
    result = bundle.run(pool)
    assert (result.error or "").startswith(f"It.handle is {kind}")
    assert "not supported" in (result.error or "")
    assert result.permanent


def test_a_returned_value_is_refused(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("agent.py", "class It(Agent):\n    def handle(self, message, context): return {}")
    result = bundle.run(pool)
    assert (result.error or "").startswith(
        "It.handle returned a value of type dict, which has no effect; use context.emit"
    )
    assert result.permanent


def test_an_exception_comes_with_a_traceback_that_begins_in_the_module(handle: Handle) -> None:
    details = handle("print('before')\nraise ValueError('boom\\nmore')").details
    assert details["stderr"] == "before\n"
    lines = details["traceback"].splitlines()
    assert 'agent.py"' in lines[1]
    assert lines[-2:] == ["ValueError: boom", "more"]
    assert "module_child" not in details["traceback"]


def test_an_import_error_says_so_with_its_traceback(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("agent.py", "import nowhere_at_all")
    result = bundle.run(pool)
    assert result.error == "cannot import agent: ModuleNotFoundError: No module named 'nowhere_at_all'"
    assert "import nowhere_at_all" in result.details["traceback"]
    assert pid_of(pool, bundle.write("who.py", WHO), module="who:It")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"module": "agent:Gone"}, "cannot import Gone: module 'agent' has no such class"),
        ({"module": "agent:os"}, "agent:os is not a subclass of mirrorneuron.Agent"),
        ({"module": "agent"}, "config.module is 'agent'; it must be of the form package.mod:Class"),
        ({"module": 5}, "config.module and config.module_source must be strings"),
        ({"module_source": "../x"}, "module_source '../x' is not in the bundle's payloads/"),
        ({"module_source": "gone.py"}, "module_source 'gone.py' is not in the bundle's payloads/"),
        (
            {"module": "struct:It"},
            "cannot import struct: the runtime has a module named 'struct' too; rename the one in the bundle",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_one_error(
    pool: ModulePool, bundle: Bundle, config: dict[str, Any], error: str
) -> None:
    bundle.write("agent.py", WHO).write("struct.py", WHO)
    assert bundle.run(pool, **config).error == error
    (bundle.payloads / "struct.py").unlink()
    assert pid_of(pool, bundle)


def test_a_module_may_shadow_a_library(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write(
        "json.py", "class It(Agent):\n    def handle(self, m, c):\n        import celery\n        celery.go(c)"
    )
    bundle.write("celery.py", "def go(context): context.complete_job(__file__)")
    assert output_of(bundle.run(pool, module="json:It")) == str(bundle.payloads / "celery.py")
    assert json.loads("[1]") == [1]
