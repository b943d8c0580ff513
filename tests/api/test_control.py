"""The operator's controls without a node: what the store holds afterwards, and what was announced."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import JobStateError, MessageInvalid, MessageNotFound, PayloadTooLarge
from mirrorneuron.job import JobStatus
from mirrorneuron.message import Message, encode, seed
from mirrorneuron.pools import LIGHT
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import DeadLetterDraft, JobRef, ReplyCode, Step, new_token
from tests.support.store import Jobs

THEN = "2020-01-01T00:00:00.000Z"
Announced = list[tuple[str, int, str]]  # (pool, due, the agent if it is one)


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings)


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Announced:
    """The rows that are announced, as they are announced."""
    rows: Announced = []
    announce = Chains.announce

    def recorded(self: Chains, job: JobRef, row: Any) -> None:
        rows.append((row.pool, row.due, row.agent_id))
        announce(self, job, row)

    monkeypatch.setattr(Chains, "announce", recorded)
    return rows


def give_up(store: Store, job: JobRef, *reasons: str) -> None:
    """Commit a run of `a` after which a message for `nobody` becomes a dead letter, once for each of *reasons*."""
    payload = {"envelope": {"correlation_id": "thread"}, "body": {"n": 1}}
    message = encode(seed(payload, job_id=job.job_id, to="nobody", message_id="m", timestamp=THEN))
    token = new_token()
    store.scripts.claim(job, token, ((LIGHT, 1),), agents=["a"])
    step = Step("a", 1, 1, dead=[DeadLetterDraft("m", "nobody", reason, message) for reason in reasons])
    assert store.scripts.commit(job, token, [step], new_token()).word is ReplyCode.COMMITTED


def mail(store: Store, agent: str) -> list[Message]:
    return [Message.parse(raw) for raw in store.client.lrange(store.keys.mail("j", agent), 0, -1)]


@pytest.mark.parametrize(("given", "kept"), [("too dear", "too dear"), (None, "cancelled")])
def test_a_cancelled_job_records_who_and_why_and_leaves_the_live_index_at_once(
    client: Client, store: Store, jobs: Jobs, given: str | None, kept: str
) -> None:
    jobs.submit("j")
    job = client.cancel("j", reason=given)
    assert job["result"] is not None
    assert (job["status"], job["result"]["reason"]) == ("cancelled", kept)
    assert job["result"]["by"]
    assert store.events("j")[-1]["payload"] == job["result"]
    assert store.index.live() == []


def test_a_cancel_that_loses_against_a_retry_cancels_the_retried_run(
    client: Client, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.submit("j")
    jobs.open("j")
    scripts = client._live_parts().store.scripts
    lost: list[Any] = []
    finish = scripts.finish

    def retried_meanwhile(job: JobRef, *args: Any) -> ReplyCode:
        if not lost:
            jobs.end("j", JobStatus.FAILED)
            store.scripts.retry(job, b"{}", ["a", "x", "join"], "", [])
        lost.append(finish(job, *args))
        return lost[-1]

    monkeypatch.setattr(scripts, "finish", retried_meanwhile)
    job = client.cancel("j")
    assert (job["status"], job["run"], lost) == ("cancelled", 2, [ReplyCode.STALE, ReplyCode.SETTLED])


def test_a_resume_announces_all_ready_agents(client: Client, jobs: Jobs, announced: Announced) -> None:
    jobs.submit("j", initial_inputs={"a": [1], "x": [2]})
    jobs.open("j")
    client.pause("j")
    assert announced == []
    assert client.resume("j")["status"] == "running"
    assert sorted(announced) == [("default", 1, "x"), (LIGHT, 1, "a")]


def test_a_message_announces_the_agents_that_it_makes_ready(client: Client, jobs: Jobs, announced: Announced) -> None:
    jobs.submit("j", initial_inputs={"x": [1]}, entrypoints=["x"])
    jobs.open("j")
    client.send_message("j", "join", {"n": 1})
    assert announced == [], "`join` has one of two messages, and `x` was announced before"
    client.send_message("j", "join", {"n": 2})
    assert announced == [(LIGHT, 1, "join")]


def test_a_message_with_a_value_that_json_cannot_hold_is_refused(client: Client, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.open("j")
    for message, text in (
        ({"body": {1: "a", "1": "b"}}, "body has the key 1; keys of JSON objects are strings"),
        ({"body": {"s": [{1}]}}, "body.s[0] is of type set, which is not a JSON type; use a list"),
        ({"n": float("nan")}, "n is nan; NaN and Infinity are not valid JSON"),
    ):
        with pytest.raises(MessageInvalid, match=f"^{re.escape(text)}$"):
            client.send_message("j", "x", message)


def test_a_message_may_have_as_many_bytes_as_the_settings_say(client: Client, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.open("j")
    message = {"message_id": "m", "body": "x"}
    client.send_message("j", "x", message)
    size = len(store.client.lindex(store.keys.mail("j", "x"), 0))
    exact, less = (Client(store.settings.model_copy(update={"max_message_bytes": size - n})) for n in (0, 1))
    assert exact.send_message("j", "x", {**message, "message_id": "n"}) == "n"
    with pytest.raises(PayloadTooLarge, match=f"has {size} bytes, MIRROR_NEURON_MAX_MESSAGE_BYTES is {size - 1}"):
        less.send_message("j", "x", {**message, "message_id": "o"})
    assert [found.id for found in mail(store, "x")] == ["m", "n"]


def test_an_initial_input_over_the_cap_creates_no_job(store: Store) -> None:
    small = Store(store.settings.model_copy(update={"max_message_bytes": 1_000}))
    with pytest.raises(PayloadTooLarge, match="MIRROR_NEURON_MAX_MESSAGE_BYTES is 1000"):
        Jobs(small).submit("j", initial_inputs={"a": ["x" * 1_001]})
    assert store.read_job("j") is None
    assert store.index.live() == []
    small.client.close()


def test_a_replayed_message_is_a_new_one_with_the_old_correlation_id(client: Client, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.open("j")
    give_up(store, jobs.ref("j"), "first", "second")
    new = client.replay("j", "m", to_agent="x")
    (message,) = mail(store, "x")
    envelope = message.envelope
    assert (message.id, message.body, envelope["to"]) == (new, {"n": 1}, "x")
    assert (envelope["causation_id"], envelope["correlation_id"]) == ("m", "thread")
    assert envelope["timestamp"] > THEN
    assert [dead["reason"] for dead in client.dead_letters("j")] == ["first"], "the newer of two of that id is sent"


def test_of_two_concurrent_replays_one_is_refused(
    client: Client, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.submit("j")
    jobs.open("j")
    give_up(store, jobs.ref("j"), "why")
    scripts = client._live_parts().store.scripts
    deliver = scripts.deliver

    def replayed_meanwhile(*args: Any) -> Any:
        Client(store.settings).replay("j", "m", to_agent="x")
        return deliver(*args)

    monkeypatch.setattr(scripts, "deliver", replayed_meanwhile)
    with pytest.raises(MessageNotFound, match="already replayed"):
        client.replay("j", "m", to_agent="x")
    assert len(mail(store, "x")) == 1


def test_a_completed_job_lists_no_message_as_the_one_it_failed_on(client: Client, store: Store, jobs: Jobs) -> None:
    """Messages in the mailbox of the agent that completed the job are not dead letters."""
    jobs.submit("j", initial_inputs={"join": [1]})
    jobs.open("j")
    jobs.end("j")
    assert client.inspect_job("j")["result"] == {"agent_id": "join", "output": 1}
    assert client.dead_letters("j") == []


def test_a_retry_announces_all_ready_agents(client: Client, jobs: Jobs, announced: Announced) -> None:
    jobs.submit("j", initial_inputs={"a": [1], "x": [2]})
    jobs.open("j")
    jobs.end("j", JobStatus.CANCELLED)
    client.retry("j")
    assert sorted(announced) == [("default", 1, "x"), (LIGHT, 1, "a")]


def test_a_retry_without_ready_agents_is_announced_so_that_a_worker_settles_it(
    client: Client, jobs: Jobs, announced: Announced
) -> None:
    jobs.submit("j", initial_inputs={"join": [1]}, entrypoints=["join"])
    jobs.open("j")
    jobs.end("j", JobStatus.CANCELLED)
    client.retry("j")
    assert announced == [(LIGHT, 2, "")]


def test_a_retry_from_an_agent_resets_it_and_all_downstream(client: Client, store: Store, jobs: Jobs) -> None:
    """An aggregator with a lowered threshold gets its first threshold back."""
    jobs.submit("j", initial_inputs={"a": [0], "x": [1], "join": [2]})
    jobs.open("j")
    for name in ("a", "x"):
        token = new_token()
        pool = "default" if name == "x" else LIGHT
        held = store.scripts.claim(jobs.ref("j"), token, ((pool, 1),), agents=[name]).claims[0]
        store.scripts.commit(jobs.ref("j"), token, [Step(name, 1, 1, b'{"s":1}', last=held.mail[0])], new_token())
    store.client.hset(store.keys.agent("j", "join"), "threshold", 1)
    jobs.end("j", JobStatus.FAILED)
    client.retry("j", from_agent="x")
    depths = {agent["agent_id"]: agent["mailbox_depth"] for agent in client.inspect_agents("j")}
    assert depths == {"a": 0, "x": 1, "join": 0}
    assert store.client.hget(store.keys.agent("j", "join"), "threshold") == b"2"
    assert store.client.hget(store.keys.agent("j", "a"), "state") == b'{"s":1}'
    assert store.client.hget(store.keys.agent("j", "x"), "state") is None


def test_an_interrupted_retry_leaves_its_job_in_the_live_index(
    client: Client, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no sweeper would see the new run."""
    jobs.submit("j")
    jobs.end("j", JobStatus.FAILED)
    store.index.mark_ended(["j"])
    scripts = client._live_parts().store.scripts
    retry = scripts.retry

    def killed(*args: Any) -> None:
        retry(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts, "retry", killed)
    with pytest.raises(KeyboardInterrupt):
        client.retry("j")
    assert store.known_job("j")["status"] == "running"
    assert store.index.live() == ["j"]


def test_a_refused_retry_leaves_no_ended_job_in_the_live_index(client: Client, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j")
    store.index.mark_ended(["j"])
    with pytest.raises(JobStateError, match="'j' cannot be retried: it is completed"):
        client.retry("j")
    assert store.index.live() == []
    assert store.client.zrange(store.keys.ended, 0, -1) == [b"j"]


def test_a_job_that_ends_during_its_cleanup_is_deleted(
    client: Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("j", "k"):
        jobs.submit(name)
    control = client._live_parts().control
    cancel = control.cancel

    def ended_meanwhile(job_id: str, reason: str | None) -> Any:
        jobs.end(job_id)
        return cancel(job_id, reason)

    monkeypatch.setattr(control, "cancel", ended_meanwhile)
    assert sorted(client.cleanup_jobs(all=True)) == ["j", "k"]
    assert client.list_jobs() == []


def test_only_existing_ended_jobs_are_deleted(client: Client, jobs: Jobs) -> None:
    for name in ("j", "live"):
        jobs.submit(name)
    jobs.end("j")
    assert client._live_parts().control.delete(["gone", "j", "live", "j"]) == ["j"]


def test_a_cancel_takes_effect_although_its_user_may_publish_nothing(
    settings: Settings, store: Store, jobs: Jobs, announced: Announced
) -> None:
    """A push is a hint. An error of the server in the middle of a script would leave the end half written."""
    jobs.submit("j")
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), new_token(), ((LIGHT, 1),))
    user = settings.redis_namespace
    store.client.acl_setuser(
        user, enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"], reset_channels=True
    )
    try:
        url = re.sub(r"^redis://([^@]*@)?", f"redis://{user}:secret@", settings.redis_url)
        limited = Client(settings.model_copy(update={"redis_url": url}))
        assert limited.cancel("j")["status"] == "cancelled"
        assert limited.events("j")[-1]["type"] == "job_cancelled"
        assert store.client.zcard(store.keys.claims("j")) == 0
    finally:
        store.client.acl_deluser(user)
