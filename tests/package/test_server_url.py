"""URLs of servers: an option works for store, broker and backend alike, or is refused with the variable's name."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.diagnostics.checkup import findings
from mirrorneuron.dispatch.celery_app import broker_error, broker_url, make_app
from mirrorneuron.errors import SettingsError
from mirrorneuron.server_url import sentinels_of
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import block_ms, connect, connect_async
from mirrorneuron.store.job_store import Store
from tests.support.graphs import completed, single
from tests.support.node import RealNode

ALL = (
    "protocol=2&health_check_interval=7&client_name=ours&socket_keepalive=true"
    "&socket_timeout=9&socket_connect_timeout=2"
)


def test_a_node_works_with_every_option(redis_url: str, tmp_path: Path) -> None:
    """Redis-py, kombu and Celery read the URL, each with other words."""
    url = f"{redis_url}?{ALL}&max_connections=50&db=3"
    settings = Settings(redis_url=url, redis_namespace="options", temp_dir=tmp_path, executor_max_concurrency=1)
    client = Client(settings)
    with RealNode(tmp_path, settings):
        completed(client, single("echo hi"))
        names = [row for row in client._live_parts().store.client.client_list() if row["name"] == "ours"]
        assert {row["db"] for row in names} == {"3"}
        assert [(row["lib-name"], row["cmd"]) for row in names if row["resp"] != "2"] == []
        broker = [row for row in findings(client._live_parts().runtime_status()) if row["check"] == "broker"]
        assert [row["level"] for row in broker] == ["ok"]


@pytest.mark.parametrize(
    "url", ["redis://u:p@[::1]:7000/1?{}", "rediss://u:p@[::1]:7000/1?{}", "unix:///run/r.sock?db=1&{}"]
)
def test_every_option_reaches_store_broker_and_backend(url: str) -> None:
    settings = Settings(redis_url=url.format(ALL.replace("socket_keepalive=true&", "")))
    wanted = {"protocol": 2, "health_check_interval": 7, "client_name": "ours", "socket_timeout": 9.0}
    app = make_app(settings)
    pools = [Store(settings).client.connection_pool, connect_async(settings.redis_url).connection_pool]
    for options in (*(pool.connection_kwargs for pool in pools), app.backend.connparams):
        assert {name: options[name] for name in wanted} == wanted
        assert options["db"] == 1
    broker = app.connection_for_write()
    assert {name: broker.transport_options[name] for name in wanted} == wanted
    assert "protocol" in broker.get_transport_cls().Channel.from_transport_options
    if not url.startswith("unix"):
        assert (broker.hostname, broker.port, broker.virtual_host) == ("::1", 7000, "1")
        assert pools[0].make_connection().host == "::1"


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("decode_responses=True", "the option decode_responses is not supported"),
        ("encoding=latin-1", "the option encoding is not supported"),
        ("retry_on_error=x", "the option retry_on_error is not supported"),
        ("password=secret", "the option password is not supported"),
        ("protocol=4", "the option protocol must be 2 or 3, not '4'"),
        ("max_connections=many", "the option max_connections must be a whole number, not 'many'"),
        ("socket_timeout=0", "the option socket_timeout must be a positive number of seconds, not '0'"),
        ("socket_keepalive=perhaps", "the option socket_keepalive must be true or false, not 'perhaps'"),
        ("db=1&db=2", "the option db is given twice"),
    ],
)
@pytest.mark.parametrize("place", ["redis://h:1/0", "rediss://h:1/0", "unix:///run/r.sock", "sentinel://h:1/main/0"])
@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
def test_an_option_that_not_every_library_knows_is_refused(name: str, place: str, option: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: f"{place}?{option}"})
    text = str(caught.value)
    assert text.startswith(f"MIRROR_NEURON_{name.upper()}: ")
    assert problem in text
    assert "secret" not in text


def test_options_of_other_brokers_are_left_to_kombu() -> None:
    url = "amqp://a:5672//?heartbeat=10"
    assert broker_url(Settings(broker_url=url)) == url


def test_a_broker_that_is_the_stores_server_is_opened_too(redis_url: str, nobody: str) -> None:
    assert broker_error(make_app(Settings(redis_url=redis_url))) == ""
    problem = broker_error(make_app(Settings(redis_url=f"redis://:secret@{nobody}/0")))
    assert problem.startswith(f"the broker at redis://***@{nobody}/0 does not answer: ")
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("sentinel://[::1]:26380/main/0", [("::1", 26380)]),
        ("sentinel://[fe80::1],h:1,[::2]:3", [("fe80::1", 26379), ("h", 1), ("::2", 3)]),
        ("sentinel://u:p@[::1]/main?sentinel_username=s", [("::1", 26379)]),
    ],
)
def test_sentinels_may_have_ipv6_addresses(url: str, hosts: list[tuple[str, int]]) -> None:
    settings = Settings(redis_url=url)
    assert sentinels_of(settings.redis_url).hosts == hosts
    pool = connect(url).connection_pool
    found = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(options["host"], options["port"]) for options in found] == hosts
    parts = [each.rpartition("@")[2] for each in broker_url(settings).split(";")]
    assert parts[0].removeprefix("sentinel://").startswith(f"[{hosts[0][0]}]:{hosts[0][1]}/")


@pytest.mark.parametrize("hosts", ["[::1", "::1", "[::1]x", "[::1]:0", "[]:1", "h:1:2", ""])
def test_a_sentinel_that_is_not_an_address_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="must have the form sentinel://"):
        Settings(redis_url=f"sentinel://{hosts}/main/0")


def test_sentinels_with_tls_and_a_login_of_their_own() -> None:
    url = "sentinel://mn:pw@h:1/main/2?sentinel_username=su&sentinel_password=s%40&ssl=true&ssl_ca_certs=/ca.pem&protocol=2"
    settings = Settings(redis_url=url)
    app = make_app(settings)
    pools = [
        Store(settings).client.connection_pool,
        connect_async(url).connection_pool,
        app.backend.client.connection_pool,
    ]
    for pool in pools:
        server = pool.make_connection()
        assert (server.username, server.password, server.db, server.cert_reqs) == ("mn", "pw", 2, ssl.CERT_REQUIRED)
        sentinel = pool.sentinel_manager.sentinels[0].connection_pool.make_connection()
        assert (sentinel.username, sentinel.password, sentinel.ca_certs) == ("su", "s@", "/ca.pem")
        assert (server.protocol, sentinel.protocol) == (2, 2)
    broker = app.connection_for_write()
    assert broker.ssl == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"}
    kwargs = broker.transport_options["sentinel_kwargs"]
    assert (kwargs["username"], kwargs["password"], kwargs["ssl"]) == ("su", "s@", True)
    with pytest.raises(SettingsError, match="need ssl=true"):
        Settings(redis_url="sentinel://h/main?ssl_ca_certs=/ca.pem")


def test_a_short_time_out_of_the_url_does_not_break_streams(unserved: Client) -> None:
    """A blocking read must end before the time-out of its connection."""
    settings = Settings(
        redis_url=f"{unserved.settings.redis_url}?socket_timeout=0.4", redis_namespace=unserved.settings.redis_namespace
    )
    store = Store(settings)
    assert store.follow("no-job", "0", 2_000) == []
    assert asyncio.run(_async_read(settings.redis_url)) == []


async def _async_read(url: str) -> list[object]:
    async with connect_async(url) as server:
        rows: list[object] = await server.xread({"none": "0"}, block=block_ms(server, 2_000))
        return list(rows)
