"""Connections: one URL for store, broker and result backend, with certificates checked; and interrupted commands."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.errors import SettingsError
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import EndsSubscription, connect, connect_async, node_timeout_s
from mirrorneuron.store.job_store import Store
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

URL = "rediss://user:p%40ss@there:7000/1"
QUERIES = [
    ("", ssl.CERT_REQUIRED),
    *((f"?ssl_cert_reqs={word}", ssl.CERT_REQUIRED) for word in ("required", "CERT_REQUIRED")),
    *((f"?ssl_cert_reqs={word}", ssl.CERT_OPTIONAL) for word in ("optional", "CERT_OPTIONAL")),
    *((f"?ssl_cert_reqs={word}&ssl_ca_certs=/ca.pem", ssl.CERT_NONE) for word in ("none", "CERT_NONE")),
]


@pytest.mark.parametrize(("query", "wanted"), QUERIES)
def test_store_broker_and_backend_check_certificates_unless_the_url_disables_it(
    query: str, wanted: ssl.VerifyMode
) -> None:
    settings = Settings.load(redis_url=URL + query)
    for client in (Store(settings).client, connect(settings.redis_url), connect_async(settings.redis_url)):
        connection = client.connection_pool.make_connection()
        assert connection.cert_reqs == wanted
        assert (connection.host, connection.port, connection.db) == ("there", 7000, 1)
    app = make_app(settings)
    broker = app.connection_for_write()
    assert broker.ssl["ssl_cert_reqs"] == wanted
    assert (broker.userid, broker.password, broker.hostname) == ("user", "p@ss", "there")
    assert app.backend.connparams["ssl_cert_reqs"] == wanted
    assert (app.backend.connparams["password"], app.backend.connparams["db"]) == ("p@ss", 1)


def test_certificates_of_a_separate_broker_and_of_each_server_in_a_list_are_checked() -> None:
    settings = Settings.load(redis_url="redis://here/0", broker_url="rediss://a/0;REDISS://b/0;amqps://c//")
    app = make_app(settings)
    assert app.connection_for_write().ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    first, second, third = settings.broker_url.split(";")
    assert first.endswith("?ssl_cert_reqs=required")
    assert second.endswith("?ssl_cert_reqs=required")
    assert third == "amqps://c//"


@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
def test_an_invalid_ssl_cert_reqs_is_an_error_that_names_the_variable(name: str) -> None:
    with pytest.raises(SettingsError, match=r"^MIRROR_NEURON_.*_URL: ssl_cert_reqs.*required.*'maybe'"):
        Settings.load(**{name: "rediss://there/0?ssl_cert_reqs=maybe"})


@pytest.mark.parametrize(("query", "wanted"), QUERIES)
def test_the_backend_of_another_app_checks_certificates_unless_the_url_disables_it(
    query: str, wanted: ssl.VerifyMode
) -> None:
    app = Celery("theirs", broker="memory://", backend=f"mirrorneuron+{URL}{query}", set_as_current=False)
    assert app.backend.connparams["ssl_cert_reqs"] == wanted
    assert app.backend.store.client.connection_pool.make_connection().cert_reqs == wanted


def test_the_backend_of_another_app_keeps_the_tls_settings_of_that_app() -> None:
    app = Celery("theirs", broker="memory://", backend=f"mirrorneuron+{URL}", set_as_current=False)
    app.conf.redis_backend_use_ssl = {"ssl_cert_reqs": ssl.CERT_OPTIONAL}
    assert app.backend.connparams["ssl_cert_reqs"] == ssl.CERT_OPTIONAL


def test_ssl_check_hostname_false_applies_to_store_broker_and_backend() -> None:
    settings = Settings.load(redis_url=f"{URL}?ssl_check_hostname=false")
    assert Store(settings).client.connection_pool.make_connection().check_hostname is False
    app = make_app(settings)
    assert app.connection_for_write().ssl["ssl_check_hostname"] is False
    assert app.backend.client.connection_pool.make_connection().check_hostname is False


class Interrupted(BaseException):
    """What a signal handler raises: a soft time limit, or Ctrl-C."""


@pytest.mark.parametrize("reader", ["client", "pipeline", "transaction"])
@pytest.mark.parametrize("error", [Interrupted, ValueError, TimeoutError], ids=lambda kind: kind.__name__)
def test_the_reply_to_an_interrupted_command_is_never_the_reply_to_the_next(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, reader: str, error: type[BaseException]
) -> None:
    """The reply arrives late, on a connection that the client could use again: the connection must be closed."""
    client = connect(redis_url)
    client.set("after", "right")

    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    late: Callable[[], Any]
    if reader == "client":
        late = lambda: client.blpop("no-such-list", 0.3)  # noqa: E731
        monkeypatch.setattr(client, "parse_response", interrupted)
    else:
        pipe = client.pipeline(transaction=reader == "transaction")
        monkeypatch.setattr(pipe, "parse_response", interrupted)
        late = pipe.blpop("no-such-list", 0.3).execute
    with pytest.raises(error):
        late()
    monkeypatch.undo()
    assert client.get("after") == b"right"
    client.close()


def test_a_subscription_to_a_frozen_server_is_given_up(own_server: ValkeyServer) -> None:
    """Nothing would ever arrive on it, and nothing would fail."""
    with EndsSubscription(connect(own_server.url, retries=0, timeout_s=0.2), "ends") as ends:
        ends.subscribe()
        ends.wait(0.1)
        own_server.freeze()
        try:
            wait_until(lambda: ends.wait(0.1) or not ends.subscribed)
        finally:
            own_server.thaw()
        ends.subscribe()
        wait_until(lambda: own_server.client.publish("ends", "job"))
        wait_until(lambda: ends.wait(0.1))


def test_a_node_gives_a_server_less_time_than_its_claims_have() -> None:
    assert [node_timeout_s(lease_ms) for lease_ms in (200, 6_000, 3_600_000)] == [4.0, 4.5, 20.0]
