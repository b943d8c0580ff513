"""The dashboard's guard: the Host header, the token, and what the pages of a worker show."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from mirrorneuron.cli.dashboard_address import token_of, url
from mirrorneuron.cli.dashboard_server import known_hosts
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.embedded.launcher import free_port
from mirrorneuron.settings import Settings
from tests.cli.conftest import Mn, Started
from tests.support.waiting import wait_until

SECRET = "correct-horse"


def answered(url: str, **headers: str) -> tuple[int, str]:
    """Status and text of the answer; 0 if nothing listens yet. Redirects are followed with the cookies they set."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture
def dashboard(env: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The URL that `mn dashboard` has printed. It runs in a folder with somebody's `flowerconfig.py`."""
    (tmp_path / "flowerconfig.py").write_text("open('executed', 'w')")
    more = {"MIRROR_NEURON_DASHBOARD_HOSTS": "flow.example, other.example"}
    command = ("dashboard", "--port", str(free_port()), "--json")
    with Started(*command, env={**env, **more}, cwd=tmp_path) as running:
        printed = running.document()["url"]
        wait_until(lambda: answered(f"{root(printed)}healthcheck")[0] == 200, timeout=60)
        yield printed
        assert running.ctrl_c()[0] == 0
    assert not (tmp_path / "executed").exists(), "the configuration of the working folder was executed"


def authorised(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def root(printed: str) -> str:
    return printed.partition("?")[0]


def test_the_dashboard_answers_only_to_its_names_and_its_token(dashboard: str) -> None:
    at, token = root(dashboard), dashboard.partition("token=")[2]
    port = urlsplit(at).port
    assert len(token) > 20
    assert answered(at)[0] == 401
    assert answered(f"{at}metrics")[0] == 401
    assert answered(f"{at}static/favicon.ico")[0] == 401
    assert answered(f"{at}workers?token=wrong")[0] == 401
    assert answered(at, Authorization="Bearer wrong")[0] == 401
    assert answered(f"{at}metrics", Authorization=f"Bearer {token}")[0] == 200
    status, page = answered(f"{at}workers?token={token}")
    assert status == 200
    assert token not in page
    refused = urllib.request.Request(f"{at}api/worker/shutdown/light@x", method="POST", headers=authorised(token))
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        urllib.request.urlopen(refused, timeout=10)
    assert "workers refuse this" in caught.value.read().decode()
    for host in ("evil.example", f"evil.example:{port}", "192.0.2.7", "127.0.0.1.evil.example", "["):
        assert answered(f"{at}?token={token}", Host=host)[0] == 403, host
        assert answered(f"{at}healthcheck", Host=host)[0] == 403, host
    for host in (f"localhost:{port}", "flow.example", "OTHER.example:80"):
        assert answered(f"{at}workers", Host=host, Authorization=f"Bearer {token}")[0] == 200, host


def test_no_page_of_a_worker_shows_a_password(dashboard: str, mn: Mn) -> None:
    """The node of the tests has no password; its settings would be shown in full."""
    token = dashboard.partition("token=")[2]
    names = [node["name"] for node in json.loads(mn("node", "list", "--json").stdout)]

    def page() -> str:
        return answered(f"{root(dashboard)}worker/{quote(names[0])}", Authorization=f"Bearer {token}")[1]

    shown = wait_until(lambda: text if "broker_url" in (text := page()) else "", timeout=60)
    assert "redis_url" not in shown
    assert "Settings(" not in shown


@pytest.mark.parametrize(
    "store",
    [
        f"redis://:{SECRET}@127.0.0.1:6379/0",
        f"redis://me:{SECRET}@127.0.0.1:6379/0?health_check_interval=3",
        f"sentinel://:{SECRET}@a:1,b:2/mymaster/0",
    ],
)
def test_the_configuration_of_the_celery_app_holds_no_password(store: str) -> None:
    """Flower prints it, and anybody who reaches the broker can ask a worker for it."""
    broker = f"amqp://guest:{SECRET}@h//;amqp://guest:{SECRET}@g//"
    for app in (make_app(Settings(redis_url=store)), make_app(Settings(redis_url=store, broker_url=broker))):
        assert SECRET not in repr(app.conf.table(with_defaults=False, censored=False))
        assert SECRET not in repr(app.conf.table(with_defaults=False))


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, True),
        ({"FLOWER_BASIC_AUTH": "me:pw"}, False),
        ({"FLOWER_AUTH": ".*@example.org"}, False),
        ({"FLOWER_UNAUTHENTICATED_API": "true"}, False),
        ({"FLOWER_UNAUTHENTICATED_API": "false"}, True),
    ],
)
def test_a_token_is_asked_for_unless_there_is_a_login(
    variables: Mapping[str, str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert bool(token_of(Settings())) is asked
    assert token_of(Settings(dashboard_token="mine")) == ("mine" if asked else "")


def test_the_url_holds_the_token() -> None:
    assert url("0.0.0.0", 80, "a&b") == "http://127.0.0.1:80/?token=a%26b"
    assert url("::1", 80, "") == "http://[::1]:80/"


def test_a_dashboard_on_all_addresses_answers_to_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    assert "box" in known_hosts("0.0.0.0", ())
    assert "box" not in known_hosts("127.0.0.1", ())
    assert "flow.example" in known_hosts("127.0.0.1", ["Flow.example"])
