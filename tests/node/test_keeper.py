"""Claims are renewed as long as their runs go on, whatever else fails."""

from __future__ import annotations

from mirrorneuron.claim import JobRef, new_token
from mirrorneuron.client import Client
from mirrorneuron.settings import Settings
from mirrorneuron.store import Store
from tests.jobs.graphs import job_ref, single
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.keeper import Keeper
from workers.runners import RunHandle


def lease_end(store: Store, job: JobRef) -> float:
    end = store.client.zscore(store.keys.claims(job.job_id), "work")
    assert end is not None
    return float(end)


def test_claims_are_renewed_where_the_ends_of_jobs_cannot_be_listened_to(own_server: ValkeyServer, caplog) -> None:
    """A server refuses the subscription, which is no loss of the connection; later it does not refuse it any more."""
    client = Client(Settings(redis_url=own_server.url))
    store = Store(client.settings)
    job = job_ref(client, client.run_manifest(single("true")))
    token = new_token()
    store.scripts.claim(job, token, (("default", 1),), opening=True)
    own_server.client.execute_command("ACL", "SETUSER", "default", "resetchannels")
    with Keeper(store, 0.05).holding(job, token, ["work"], RunHandle()):
        wait_until(lambda: caplog.text.count("cannot be listened to") >= 2)
        assert "NoPermissionError" in caplog.text
        seen = lease_end(store, job)
        wait_until(lambda: lease_end(store, job) > seen)
        own_server.client.execute_command("ACL", "SETUSER", "default", "allchannels")
        wait_until(lambda: own_server.client.pubsub_numsub(store.keys.ends)[0][1] == 1)
