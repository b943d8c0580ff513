"""Errors: one root class, a builtin as base class, ids and data as attributes, and support for pickle."""

from __future__ import annotations

import inspect
import pickle

import pytest

from mirrorneuron import errors
from mirrorneuron.errors import (
    AgentNotFound,
    BundleNotFound,
    Issue,
    JobExists,
    JobFailed,
    JobNotFound,
    JobStateError,
    ManifestError,
    MessageInvalid,
    MessageNotFound,
    MirrorNeuronError,
    NotFound,
    PayloadTooLarge,
    RecordDamaged,
    RuntimeUnavailable,
    SettingsError,
    WaitTimeout,
)

ISSUES = (Issue("nodes[0].node_id", "is missing"), Issue("", "no nodes", "add one"))
EXAMPLES = [
    ManifestError(ISSUES),
    SettingsError("MIRROR_NEURON_X: bad"),
    PayloadTooLarge("too large"),
    JobNotFound("j"),
    AgentNotFound("no agent 'a'"),
    BundleNotFound("bundle 0 is not in the store"),
    MessageInvalid("type must not be empty"),
    MessageNotFound("no message"),
    RecordDamaged("the record of job 'j' cannot be read"),
    JobExists("j"),
    JobStateError("is running"),
    JobFailed("failed", {"job_id": "j"}),
    WaitTimeout("not yet", "j"),
    RuntimeUnavailable("away", "j", hint="start it"),
]


def test_every_error_is_in_the_tree_and_has_an_example_here() -> None:
    classes = {n: v for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, MirrorNeuronError)}
    assert errors.__doc__
    assert [name for name in classes if name not in errors.__doc__] == []
    assert {type(e) for e in EXAMPLES} | {MirrorNeuronError, NotFound} == set(classes.values())


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ManifestError, ValueError),
        (SettingsError, ValueError),
        (PayloadTooLarge, ValueError),
        (MessageInvalid, ValueError),
        (JobNotFound, LookupError),
        (AgentNotFound, LookupError),
        (MessageNotFound, LookupError),
        (WaitTimeout, TimeoutError),
        (RuntimeUnavailable, ConnectionError),
    ],
)
def test_an_error_can_be_caught_as_its_builtin(error: type, builtin: type) -> None:
    assert issubclass(error, builtin)
    assert issubclass(error, MirrorNeuronError)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_can_be_pickled(error: MirrorNeuronError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_manifest_error_prints_one_issue_a_line() -> None:
    assert str(ManifestError(ISSUES)).splitlines() == ["nodes[0].node_id: is missing", "no nodes (add one)"]
    assert ManifestError(list(ISSUES)).issues == ISSUES


def test_a_wait_timeout_has_no_errno() -> None:
    error = WaitTimeout("not yet", "j")
    assert (str(error), error.errno, error.job_id) == ("not yet", None, "j")
    assert (str(RuntimeUnavailable("away")), RuntimeUnavailable("away").job_id) == ("away", None)


def test_an_unavailable_runtime_has_a_hint_that_its_text_repeats() -> None:
    error = RuntimeUnavailable("no answer", hint="start it")
    assert (str(error), error.message, error.hint) == ("no answer; start it", "no answer", "start it")
    assert RuntimeUnavailable("no answer").hint == ""
