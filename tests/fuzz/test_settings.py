"""The environment: any text is a valid setting, or an error that names its variable."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.errors import SettingsError
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.job_store import Store
from tests.fuzz.conftest import fuzzed

NAMES = sorted(Settings.model_fields)
#: the values that an environment can hold: no NUL; bytes that are not UTF-8 are lone surrogates
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=40).filter(
    lambda text: text == os.fsdecode(os.fsencode(text)) if _fits(text) else False
)
NUMBERS = st.integers().map(str) | st.sampled_from(
    ["0", "1", "200", " 5 ", "+5", "1_000", "5.0", "1e3", "0x10", "9" * 13, "9" * 20, "9" * 5_000, "nan", "inf", "true"]
)
PIECES = (
    "redis rediss unix sentinel amqp :// / : @ , ; ? & = # % [ ] ::1 host 127.0.0.1 6379 0 15 99999 -1 db x 0/1 user"
    " tmp socket_timeout soon protocol 3 health_check_interval max_connections ssl_cert_reqs none s.sock"
)
URLS = st.lists(st.sampled_from(PIECES.split()), max_size=9).map("".join)
POOLS = st.lists(
    st.sampled_from(["default", "gpu", "light", "=", "1", "0", ",", " ", "a b", "x" * 65, "\udcff", "9" * 20, "{}"])
).map("".join)
VALUES = st.one_of(TEXTS, NUMBERS, URLS, POOLS, URLS.map(lambda url: f"redis://{url}"))


def _fits(text: str) -> bool:
    try:
        return bool(os.fsencode(text)) or not text
    except UnicodeEncodeError:
        return False


@pytest.fixture(autouse=True)
def _nothing_set() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.delenv(PREFIX + name.upper(), raising=False)
        yield


@fuzzed(100)
@given(st.sampled_from(NAMES), VALUES)
@example("redis_url", "redis")
@example("redis_url", "redis://[")
@example("redis_url", "redis://h:port")
@example("redis_url", "redis://h/db")
@example("redis_url", "redis://h?x=1")
@example("redis_url", "unix://")
@example("redis_url", "sentinel://h:x/m")
@example("redis_url", "sentinel://:p%2F@h:1,h/m/1")
@example("broker_url", "amqp://[")
@example("retention_seconds", "9" * 25)
@example("executor_pool_capacities", "light=1")
@example("executor_pool_capacities", "a b=1")
@example("temp_dir", "")
def test_any_text_is_a_valid_setting_or_one_error(name: str, value: str) -> None:
    variable = PREFIX + name.upper()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        try:
            settings = Settings.load()
        except SettingsError as error:
            lines = str(error).splitlines()
            assert lines
            assert all(line.startswith(f"{variable}: ") for line in lines)
            return
    can_be_used(settings)


@fuzzed(15)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=2))
def test_all_invalid_settings_are_reported_at_once(values: dict[str, str]) -> None:
    def wrong(given: dict[str, str]) -> set[str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(PREFIX + name.upper(), value)
            try:
                Settings.load()
            except SettingsError as error:
                return {line.partition(":")[0] for line in str(error).splitlines()}
        return set()

    assert wrong(values) == set().union(*(wrong({name: value}) for name, value in values.items()))


def can_be_used(settings: Settings) -> None:
    """Make a client and a node of the settings, without connecting to a server."""
    store = Store(settings)
    if not settings.redis_url.startswith("sentinel://"):
        store.client.connection_pool.make_connection()
    app = make_app(settings)
    if settings.redis_url.startswith("sentinel://"):
        app.connection_for_write().close()
        assert app.backend.as_uri()
    assert len({queue.name for queue in app.conf.task_queues}) == len({"light", *settings.pools})
    assert settings.pools
    assert settings.temp_dir.absolute()
