"""The public API of `import mirrorneuron`: exactly `__all__`, with the documented signatures."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest

import mirrorneuron
from mirrorneuron import aio, errors, job
from mirrorneuron.api.client import Client

# Names, order, defaults and `*` are promised; mypy checks the annotations.
FUNCTIONS = {
    "validate_manifest": "(input, *, payloads=None)",
    "run_manifest": "(input=None, *, inputs=None, metadata=None, payloads=None, await_=False, timeout=None,"
    " job_bundle=None, job_id=None, submit_timeout=None)",
    "wait_for_job": "(job_id, timeout=None)",
    "async_result": "(job_id)",
    "inspect_job": "(job_id)",
    "inspect_agents": "(job_id)",
    "events": "(job_id, *, after=None, limit=None)",
    "stream_events": "(job_id, *, after=None)",
    "inspect_nodes": "()",
    "list_jobs": "(*, limit=None, include_terminal=True, status=None, metadata=None)",
    "job_details": "(job_id, *, event_limit=25)",
    "cluster_overview": "(*, limit=None)",
    "job_manifest": "(job_id)",
    "pause": "(job_id)",
    "resume": "(job_id)",
    "cancel": "(job_id, *, reason=None)",
    "send_message": "(job_id, agent_id, message)",
    "retry": "(job_id, *, from_agent=None)",
    "why": "(job_id)",
    "logs": "(job_id, agent_id=None, *, follow=False)",
    "dead_letters": "(job_id)",
    "replay": "(job_id, message_id, *, to_agent=None)",
    "cleanup_jobs": "(*, all=False, older_than=None)",
}
RECORDS = {
    "AgentSnapshot", "AgentStatus", "ClusterOverview", "DeadLetter", "Event", "EventType", "JobDetails", "JobMap",
    "JobStatus", "JobSummary", "LogChunk", "NodeInfo",
}  # fmt: skip
OTHERS = {"Agent", "Cause", "Client", "Context", "Diagnosis", "Issue", "JobBundle", "Manifest", "Message", "Settings"}


def bare_signature(function: object) -> str:
    """A signature without annotations and `self`."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    bare = [p.replace(annotation=inspect.Parameter.empty) for name, p in signature.parameters.items() if name != "self"]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_the_public_names_are_exactly_all() -> None:
    assert dir(mirrorneuron) == sorted(mirrorneuron.__all__)
    assert len(mirrorneuron.__all__) == len(set(mirrorneuron.__all__))
    found = {name for name in dir(mirrorneuron) if not inspect.ismodule(getattr(mirrorneuron, name))}
    assert found == set(mirrorneuron.__all__)


def test_all_has_the_functions_the_records_and_every_error() -> None:
    raised = {n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, errors.MirrorNeuronError)}
    assert set(mirrorneuron.__all__) >= {*FUNCTIONS, *RECORDS, *OTHERS, *raised}


@pytest.mark.parametrize(("name", "expected"), FUNCTIONS.items())
def test_a_function_has_the_documented_signature(name: str, expected: str) -> None:
    assert bare_signature(getattr(mirrorneuron, name)) == expected
    assert getattr(mirrorneuron, name).__doc__


@pytest.mark.parametrize(("name", "expected"), FUNCTIONS.items())
def test_a_client_has_the_same_methods(name: str, expected: str) -> None:
    assert bare_signature(getattr(Client, name)) == expected


@pytest.mark.parametrize(("name", "expected"), FUNCTIONS.items())
def test_aio_has_the_same_functions_as_coroutines(name: str, expected: str) -> None:
    function = getattr(aio, name)
    assert bare_signature(function) == expected
    assert inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.isasyncgenfunction(inspect.unwrap(function))


def test_aio_is_an_attribute_of_the_package() -> None:
    program = "import mirrorneuron; print(mirrorneuron.aio.run_manifest.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "mirrorneuron.aio\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        mirrorneuron.no_such_name  # noqa: B018


def test_the_record_types_are_those_of_the_job_module() -> None:
    for name in RECORDS:
        assert getattr(mirrorneuron, name) is getattr(job, name)


def test_a_star_import_works_in_a_fresh_interpreter() -> None:
    program = "from mirrorneuron import *; print(run_manifest.__module__, JobStatus.RUNNING)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["mirrorneuron.api.client", "running"]


def test_a_bad_environment_is_reported_by_the_first_call_and_not_by_the_import() -> None:
    program = """
from mirrorneuron import *
from mirrorneuron import aio
validate_manifest
try:
    inspect_nodes()
except SettingsError as error:
    print(error)
"""
    env = {"MIRROR_NEURON_CLAIM_LEASE_MS": "soon"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert "MIRROR_NEURON_CLAIM_LEASE_MS" in done.stdout, done.stderr


def test_a_function_can_be_sent_to_a_process_pool() -> None:
    assert pickle.loads(pickle.dumps(mirrorneuron.inspect_job)) == mirrorneuron.inspect_job


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "either input or job_bundle"),
        ({"input": {}, "job_bundle": {}}, "either input or job_bundle"),
        ({"input": {}, "timeout": 5}, "await_=True"),
        ({"input": {}, "await_": True, "timeout": "5"}, "milliseconds"),
        ({"input": {}, "await_": True, "timeout": True}, "milliseconds"),
    ],
)
def test_invalid_arguments_are_type_errors_before_any_io(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        mirrorneuron.run_manifest(**given)


def test_importing_does_not_change_the_producers_celery_app_logging_or_signals() -> None:
    program = """
import logging, signal, celery
app = celery.Celery("theirs"); app.set_current()
before = logging.root.handlers[:], signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
import mirrorneuron
client = mirrorneuron.Client(mirrorneuron.Settings())
client._live_parts().app.send_task
assert celery.current_app._get_current_object() is app
assert before == (logging.root.handlers[:], signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
