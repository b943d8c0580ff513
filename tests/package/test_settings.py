"""Settings: the documented defaults, and one error that names the variable for each invalid value."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from mirrorneuron.errors import SettingsError
from mirrorneuron.limits import ALLOW_UNSANDBOXED, unsandboxed_allowed
from mirrorneuron.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{field.upper()}", raising=False)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load()
    assert settings.model_dump(exclude={"temp_dir"}) == {
        "redis_url": "redis://127.0.0.1:6379/0",
        "broker_url": "",
        "redis_namespace": "mirror_neuron",
        "client_timeout_ms": 30_000,
        "executor_max_concurrency": 4,
        "executor_pool_capacities": {},
        "max_bundle_bytes": 64 * 1024 * 1024,
        "max_message_bytes": 8 * 1024 * 1024,
        "max_output_bytes": 1024 * 1024,
        "claim_lease_ms": 6_000,
        "stop_grace_seconds": 30,
        "logs_max_bytes": 4 * 1024 * 1024,
        "retention_seconds": 7 * 86_400,
        "max_attempts": 1_000,
        "max_run_seconds": 0,
        "events_max": 100_000,
        "events_max_bytes": 64 * 1024**2,
        "max_mail_bytes": 256 * 1024**2,
        "warm_python": False,
        "pass_env": ("*",),
        "dashboard_token": "",
        "dashboard_hosts": (),
        "allow_unsandboxed": False,
    }


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_NEURON_REDIS_URL", "rediss://there:7000/1")
    monkeypatch.setenv("MIRROR_NEURON_EXECUTOR_POOL_CAPACITIES", " gpu = 1 , default=8,")
    monkeypatch.setenv("MIRROR_NEURON_RETENTION_SECONDS", "0")
    settings = Settings.load()
    assert settings.redis_url == "rediss://there:7000/1?ssl_cert_reqs=required"
    assert settings.retention_seconds == 0
    assert settings.pools == {"default": 8, "gpu": 1}


def test_the_default_pool_has_the_slots_of_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_NEURON_EXECUTOR_MAX_CONCURRENCY", "3")
    assert Settings.load(executor_pool_capacities={"gpu": 2}).pools == {"default": 3, "gpu": 2}


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "light"])
def test_pool_names_given_as_a_dict_are_checked(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^MIRROR_NEURON_EXECUTOR_POOL_CAPACITIES: .* is (not a valid pool name|reserved)"
    ):
        Settings.load(executor_pool_capacities={name: 1})


def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_NEURON_REDIS_NAMESPACE", "theirs")
    assert Settings.load(redis_namespace="ours").redis_namespace == "ours"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://127.0.0.1"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", ""),
        ("REDIS_URL", "redis"),
        ("REDIS_URL", "redis://["),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://h:99999"),
        ("REDIS_URL", "redis://h/db"),
        ("REDIS_URL", "redis://h/0?socket_timeout=soon"),
        ("REDIS_URL", "redis://h/0?unheard_of=1"),
        ("REDIS_URL", "unix://"),
        ("REDIS_URL", "sentinel://h:x/m"),
        ("REDIS_URL", "sentinel://h/m/x"),
        ("REDIS_URL", "sentinel://"),
        ("REDIS_URL", "sentinel://h:99999/m"),
        ("BROKER_URL", "sentinel://a;sentinel://b"),
        ("BROKER_URL", "amqp://["),
        ("BROKER_URL", "amqp://h:port"),
        ("BROKER_URL", "foo://h"),
        ("BROKER_URL", "h:5672"),
        ("TEMP_DIR", ""),
        ("REDIS_NAMESPACE", "has blanks"),
        ("REDIS_NAMESPACE", ""),
        ("REDIS_NAMESPACE", "x" * 65),
        ("EXECUTOR_MAX_CONCURRENCY", "0"),
        ("EXECUTOR_MAX_CONCURRENCY", "many"),
        ("EXECUTOR_POOL_CAPACITIES", "gpu"),
        ("EXECUTOR_POOL_CAPACITIES", "gpu=0"),
        ("EXECUTOR_POOL_CAPACITIES", "=1"),
        ("EXECUTOR_POOL_CAPACITIES", '{"gpu": 1}'),
        ("EXECUTOR_POOL_CAPACITIES", "a b=1"),
        ("EXECUTOR_POOL_CAPACITIES", "light=1"),
        ("EXECUTOR_POOL_CAPACITIES", "gpu=1,gpu=2"),
        ("MAX_BUNDLE_BYTES", "64MiB"),
        ("MAX_MESSAGE_BYTES", "-1"),
        ("MAX_OUTPUT_BYTES", "1.5"),
        ("CLAIM_LEASE_MS", "10"),
        ("RETENTION_SECONDS", "-1"),
        ("RETENTION_SECONDS", "9" * 20),
        ("CLAIM_LEASE_MS", "9" * 20),
        ("EVENTS_MAX", "9" * 20),
        ("EVENTS_MAX", ""),
    ],
)
def test_a_bad_value_is_one_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"MIRROR_NEURON_{name}", value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"MIRROR_NEURON_{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://user:secret@host"),
        ("REDIS_URL", "user:secret@host"),
        ("REDIS_URL", "redis://user:secret/x@host"),
        ("REDIS_URL", "redis://host/0/user:secret@host"),
        ("REDIS_URL", "redis://user:[secret]@host"),
        ("REDIS_URL", "sentinel://:secret/x@host/service/0"),
        ("REDIS_URL", "unix://?password=secret"),
        ("BROKER_URL", "foo://user:secret@host"),
        ("BROKER_URL", "amqp://user:secret/x@host"),
        ("BROKER_URL", "amqp://user:[secret]@host"),
    ],
)
def test_an_error_does_not_contain_the_password(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MIRROR_NEURON_{name}", value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert "secret" not in str(caught.value)


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_NEURON_EVENTS_MAX", "no")
    monkeypatch.setenv("MIRROR_NEURON_CLAIM_LEASE_MS", "no")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {
        "MIRROR_NEURON_EVENTS_MAX",
        "MIRROR_NEURON_CLAIM_LEASE_MS",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://user:pass@[::1]:6379/15?socket_timeout=1.5"),
        ("REDIS_URL", "unix:///run/redis.sock?db=2"),
        ("REDIS_URL", "sentinel://a:26379,b/mymaster/0"),
        ("BROKER_URL", "amqp://a:5672//;amqp://b:5672//"),
        ("BROKER_URL", "sqs://"),
        ("BROKER_URL", "sentinel://a:26379,b/mymaster/0"),
    ],
)
def test_urls_of_every_scheme_are_accepted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MIRROR_NEURON_{name}", value)
    assert getattr(Settings.load(), name.lower()) == value


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().redis_namespace = "another"


def test_settings_constructed_directly_raise_the_same_errors() -> None:
    with pytest.raises(SettingsError, match=r"^MIRROR_NEURON_REDIS_URL: 'foo' must start"):
        Settings(redis_url="foo")


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "on", "t", "y", "0", "false", "no", "off", "f", "n"])
def test_validation_reads_the_switch_for_missing_sandboxes_as_the_settings_do(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(ALLOW_UNSANDBOXED, text)
    assert unsandboxed_allowed(os.environ) == Settings.load().allow_unsandboxed


def test_an_absent_or_unknown_word_allows_nothing() -> None:
    assert [unsandboxed_allowed({}), unsandboxed_allowed({ALLOW_UNSANDBOXED: "maybe"})] == [False, False]


def test_relative_paths_are_those_of_the_folder_in_which_settings_are_read(tmp_path, monkeypatch):
    """A node runs in another folder than `mn worker` was started in."""
    monkeypatch.chdir(tmp_path)
    url = "rediss://h:6379/0?ssl_ca_certs=certs/my+ca.pem&ssl_keyfile=/k.pem"
    settings = Settings(redis_url=url, broker_url=url, temp_dir="here")
    monkeypatch.chdir("/")
    assert settings.temp_dir == tmp_path / "here"
    for read in (settings.redis_url, settings.broker_url):
        options = dict(parse_qsl(urlsplit(read).query))
        assert (options["ssl_ca_certs"], options["ssl_keyfile"]) == (str(tmp_path / "certs/my ca.pem"), "/k.pem")
