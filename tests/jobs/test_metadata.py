"""Metadata: in the job map and in lists, which can be filtered by it; not part of the bundle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mirrorneuron import JobExists, PayloadTooLarge, aio
from mirrorneuron.api.client import Client
from tests.support.graphs import line


def labelled(**labels: Any) -> dict[str, Any]:
    return {**line(3), "metadata": labels}


def test_metadata_of_manifest_and_submission_is_in_the_record_and_in_lists(unserved: Client) -> None:
    job_id = unserved.run_manifest(labelled(tenant="acme", user="u"), metadata={"user": "v", "n": 5, "on": True})
    wanted = {"tenant": "acme", "user": "v", "n": 5, "on": True}
    assert unserved.inspect_job(job_id)["metadata"] == unserved.list_jobs()[0]["metadata"] == wanted
    plain = unserved.run_manifest(line(3))
    assert unserved.inspect_job(plain)["metadata"] == {}


def test_lists_are_filtered_by_metadata(unserved: Client) -> None:
    acme = unserved.run_manifest(labelled(tenant="acme", n=5, on=True, none=None))
    other = unserved.run_manifest(labelled(tenant="other", n="5"))
    unserved.run_manifest(line(3))
    for wanted, found in (
        ({"tenant": "acme"}, {acme}),
        ({"n": 5}, {acme}),
        ({"n": "5"}, {acme, other}),
        ({"on": "true", "none": "null", "tenant": "acme"}, {acme}),
        ({"on": 1}, set()),
        ({"tenant": "acme", "n": 6}, set()),
    ):
        assert {job["job_id"] for job in unserved.list_jobs(metadata=wanted)} == found, wanted
        again = asyncio.run(aio.Client(unserved.settings).list_jobs(metadata=wanted))
        assert {job["job_id"] for job in again} == found
    assert [job["job_id"] for job in unserved.list_jobs(metadata={"n": "5"}, limit=1)] == [other]
    by_aio = asyncio.run(aio.Client(unserved.settings).run_manifest(line(3), metadata={"by": "aio"}))
    assert [job["job_id"] for job in unserved.list_jobs(metadata={"by": "aio"})] == [by_aio]


@pytest.mark.parametrize("wrong", [["a"], {"a": []}, {"a": {}}, {1: "a"}, {"a": object()}, "a=b"])
def test_metadata_of_a_call_is_a_flat_object(unserved: Client, wrong: Any) -> None:
    for call in (lambda: unserved.run_manifest(line(3), metadata=wrong), lambda: unserved.list_jobs(metadata=wrong)):
        with pytest.raises(TypeError, match="metadata"):
            call()


def test_the_size_of_metadata_is_bounded_because_lists_read_it(unserved: Client) -> None:
    for graph, more in ((labelled(text="x" * 20_000), {}), (line(3), {"text": "x" * 20_000})):
        with pytest.raises(PayloadTooLarge, match="metadata has 20011 bytes as JSON; at most 16384"):
            unserved.run_manifest(graph, metadata=more)
    assert unserved.list_jobs() == []


def test_a_taken_id_says_what_differs(unserved: Client) -> None:
    inputs = {"initial_inputs": {"r0": [{"n": 1}]}}
    unserved.run_manifest({**labelled(tenant="acme"), **inputs}, job_id="taken")
    assert unserved.run_manifest({**labelled(tenant="other"), **inputs}, job_id="taken") == "taken"
    with pytest.raises(JobExists, match="'taken' already exists with other inputs; choose another job id"):
        unserved.run_manifest({**line(3), "initial_inputs": {"r0": [{"n": 2}]}}, job_id="taken")
    with pytest.raises(JobExists, match="with another bundle"):
        unserved.run_manifest({**line(4), **inputs}, job_id="taken")
    assert unserved.inspect_job("taken")["metadata"] == {"tenant": "acme"}
