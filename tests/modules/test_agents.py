"""What a module agent may do, and what it sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirrorneuron.agent import Complete, Emit, Record
from tests.support.modules import WHO, Bundle, Handle, output_of, pid_of
from workers.lifecycle.run_handle import RunHandle
from workers.modules.pool import ModulePool, ModuleRequest, ModuleResult


def test_an_agent_changes_its_state_and_answers_with_actions(handle: Handle) -> None:
    result = handle(
        """
        self.state["seen"] = [message.body, message.type, message.sender, message.id]
        context.emit("next", {"n": 1}, to="b", headers={"h": 1}, ttl_ms=5)
        context.event("looked", [context.job_id, context.agent_id, context.config["colour"]])
        context.complete_job(context.payloads_path.name)
        """,
        {"text": "ünïcode"},
        colour="blue",
    )
    assert result == ModuleResult(
        {"seen": [{"text": "ünïcode"}, "init", "runtime", "m1"]},
        [
            Emit("next", {"n": 1}, "b", {"headers": {"h": 1}, "ttl_ms": 5}),
            Record("looked", ["job", "a", "blue"]),
            Complete("payloads"),
        ],
        None,
        {},
    )


def test_an_emitted_body_is_a_copy_of_its_value_at_that_time(handle: Handle) -> None:
    """Changing a body, header, payload or output later does not change what was emitted."""
    lines = (
        "body = {'n': [1]}\n"
        "context.emit('e', body, headers=body)\ncontext.event('e', body)\ncontext.complete_job(body)\n"
        "body['n'].append(2)\nself.state = body"
    )
    result = handle(lines)
    then = {"n": [1]}
    assert result.actions == [Emit("e", then, None, {"headers": then}), Record("e", then), Complete(then)]
    assert result.state == {"n": [1, 2]}


def test_the_state_comes_in_and_each_message_gets_a_fresh_instance(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write(
        "agent.py",
        """
        class It(Agent):
            def handle(self, message, context):
                assert not hasattr(self, "left")
                self.left = True
                self.state["n"] = self.state.get("n", 0) + 1
        """,
    )
    first = bundle.run(pool)
    second = bundle.run(pool, state=first.state)
    assert (first.state, second.state, second.error) == ({"n": 1}, {"n": 2}, None)


def test_the_child_of_a_bundle_stays_warm(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("agent.py", WHO)
    assert pid_of(pool, bundle) == pid_of(pool, bundle) != os.getpid()


def test_two_bundles_with_the_same_module_names_use_two_children(pool: ModulePool, tmp_path: Path) -> None:
    one, two = Bundle(tmp_path / "one", "d1"), Bundle(tmp_path / "two", "d2")
    for each in (one, two):
        each.write("agent.py", WHO.replace("os.getpid()", f"[os.getpid(), {each.digest!r}]"))
    first, second = output_of(one.run(pool)), output_of(two.run(pool))
    assert first[0] != second[0]
    assert (first[1], second[1]) == ("d1", "d2")


def test_two_sources_of_one_bundle_may_use_the_same_module_names(pool: ModulePool, bundle: Bundle) -> None:
    """They share the child, but each sees its own folder only, also in imports that come late."""
    for name in ("red", "blue"):
        bundle.write(f"{name}/colour.py", f"NAME = {name!r}")
        bundle.write(
            f"{name}/agent.py",
            """
            import os
            class It(Agent):
                def handle(self, message, context):
                    import colour
                    context.complete_job([colour.NAME, os.getpid()])
            """,
        )
    asked = [output_of(bundle.run(pool, module_source=name)) for name in ("red", "blue/agent.py", "red", "blue")]
    assert [colour for colour, _ in asked] == ["red", "blue", "red", "blue"]
    assert len({pid for _, pid in asked}) == 1


def test_a_package_of_the_payloads_is_found_without_a_source(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("pack/__init__.py", "").write("pack/mod.py", "from pack.part import It").write("pack/part.py", WHO)
    assert pid_of(pool, bundle, module="pack.mod:It")


def test_an_installed_module_needs_no_payloads(pool: ModulePool, bundle: Bundle) -> None:
    request = bundle.request(module="mirrorneuron.agent:Agent")
    request = ModuleRequest("d", None, "job", "a", request.config, request.message, {})
    assert pool.run(request, RunHandle()).error == "NotImplementedError"


def test_messages_of_many_megabytes_pass_both_ways(handle: Handle) -> None:
    body = {"text": "x" * (9 << 20), "list": list(range(100_000))}
    result = handle("self.state['kept'] = message.body; context.emit('e', message.body)", body)
    assert result.error is None
    assert result.state == {"kept": body}
    assert result.actions == [Emit("e", body)]


def test_the_printed_output_of_a_module_is_kept(handle: Handle) -> None:
    result = handle("print('out'); print('err', file=sys.stderr); os.write(1, b'raw\\xff')", imports="import os, sys")
    assert result.error is None
    assert set(result.details["stderr"].split("\n")) == {"out", "err", "raw�"}


def test_the_child_sees_little_of_the_nodes_environment(
    pool: ModulePool, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR_NEURON_REDIS_URL", "redis://:secret@host")
    lines = "context.complete_job([sorted(os.environ), sys.argv, os.listdir('.'), os.getsid(0) == os.getpid()])"
    names, argv, files, own_session = output_of(handle(lines, imports="import os, sys"))
    assert set(names) <= {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LC_CTYPE"}
    assert (argv, files, own_session) == ([""], [], True)


def test_the_child_loads_neither_celery_nor_redis_and_leaves_no_files_in_the_payloads(
    handle: Handle, bundle: Bundle
) -> None:
    heavy = output_of(handle("context.complete_job(sorted(sys.modules))", imports="import sys"))
    assert not {"celery", "kombu", "redis", "pydantic", "workers", "json"} & set(heavy)
    assert sorted(path.name for path in bundle.payloads.iterdir()) == ["agent.py", "who.py"]
