"""Settings: read once from the environment, checked, then passed down. No other module reads them from `os.environ`.

Exception: validation reads `allow_unsandboxed` by `limits.unsandboxed_allowed`, because it must not load this module.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from kombu.transport import TRANSPORT_ALIASES
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis import ConnectionPool, RedisError

from mirrorneuron.errors import SettingsError
from mirrorneuron.limits import MOST
from mirrorneuron.pools import pool_problem
from mirrorneuron.server_url import REDIS_SCHEMES, SENTINEL, checked, sentinels_of
from mirrorneuron.text import without_password

PREFIX = "MIRROR_NEURON_"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
MIB = 1024 * 1024
FILE_OPTIONS = frozenset({"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"})  #: options of a URL
UNIT = "unit"  #: key of the unit in the description of a setting

Positive = Annotated[int, Field(ge=1, le=MOST)]
LeaseMs = Annotated[int, Field(ge=200, le=MOST)]
Seconds = Annotated[int, Field(ge=0, le=MOST // 1000)]
Bytes = Annotated[int, Field(ge=0, le=MOST)]


def _system_temp() -> Path:
    """The system's folder for temporary files. Only a node writes there, so none has to be usable here."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # a read-only root
        return Path("/tmp")  # noqa: S108 - a node refuses it if it cannot create its folder there


class Settings(BaseSettings):
    """The settings of a client or a worker; frozen. Each field is the environment variable `MIRROR_NEURON_<FIELD>`.

    Raises `SettingsError`, which names each invalid variable.
    """

    model_config = SettingsConfigDict(frozen=True, env_prefix=PREFIX, extra="forbid")

    redis_url: str = Field(
        DEFAULT_REDIS_URL,
        description="URL of the store, with the scheme `redis`, `rediss`, `unix` or `sentinel`.",
    )
    broker_url: str = Field("", description="URL of the broker, in any form that kombu reads; empty means the store.")
    redis_namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(
        "mirror_neuron", description="Prefix of every Redis key and every Celery queue."
    )
    client_timeout_ms: Positive = Field(
        30_000,
        description="Longest time for which a call of a producer waits for the store and the broker, retries included."
        " Lists and clean-ups: for each page. Waits and streams: for the first answer.",
        json_schema_extra={UNIT: "milliseconds"},
    )
    executor_max_concurrency: Positive = Field(
        4, description="Slots of the pool `default` on one runtime node.", json_schema_extra={UNIT: "slots"}
    )
    executor_pool_capacities: Annotated[dict[str, Positive], NoDecode] = Field(
        {},
        description="Slots of each pool on one runtime node, like `default=4,gpu=1`.",
        json_schema_extra={UNIT: "slots"},
    )
    temp_dir: Path = Field(
        default_factory=lambda: _system_temp() / f"mirrorneuron-{os.getuid()}",
        description="Folder for the run folders and the bundle cache of a runtime node.",
    )
    max_bundle_bytes: Positive = Field(
        64 * MIB, description="Largest bundle: manifest and payloads together.", json_schema_extra={UNIT: "bytes"}
    )
    max_message_bytes: Positive = Field(
        8 * MIB, description="Largest message, agent state and job output.", json_schema_extra={UNIT: "bytes"}
    )
    max_output_bytes: Positive = Field(
        MIB,
        description="Part of a command's stdout that is kept, and as much of its stderr; the rest is cut.",
        json_schema_extra={UNIT: "bytes"},
    )
    claim_lease_ms: LeaseMs = Field(
        6_000,
        description="Lease of a claim: an agent whose worker does not renew its claim for this time is run again.",
        json_schema_extra={UNIT: "milliseconds"},
    )
    retention_seconds: Seconds = Field(
        7 * 86_400,
        description="Time for which an ended job is kept; `0` keeps it until it is cleaned up.",
        json_schema_extra={UNIT: "seconds"},
    )
    max_attempts: Positive = Field(
        1_000,
        description="Most attempts for one message on this node, whatever `max_attempts` of a bundle says.",
        json_schema_extra={UNIT: "attempts"},
    )
    max_run_seconds: Seconds = Field(
        0,
        description="Longest run on this node, whatever `timeout_seconds` of a bundle says; `0` sets no limit.",
        json_schema_extra={UNIT: "seconds"},
    )
    events_max: Positive = Field(
        100_000,
        description="Events that are kept of one job; older ones are dropped.",
        json_schema_extra={UNIT: "events"},
    )
    events_max_bytes: Bytes = Field(
        64 * MIB,
        description="Payloads of events that are kept of one job; older events are dropped.",
        json_schema_extra={UNIT: "bytes"},
    )
    max_mail_bytes: Positive = Field(
        256 * MIB,
        description="Messages of one job that may wait in its mailboxes; a run that would send more fails. "
        "As many bytes of dead letters are kept.",
        json_schema_extra={UNIT: "bytes"},
    )
    stop_grace_seconds: Seconds = Field(
        30, description="Time that a stopping worker gives to its runs.", json_schema_extra={UNIT: "seconds"}
    )
    logs_max_bytes: Bytes = Field(
        4 * MIB,
        description="Output of commands and modules that is kept of one job for `mn logs`; `0` keeps none.",
        json_schema_extra={UNIT: "bytes"},
    )

    warm_python: bool = Field(
        False,
        description="`1` runs commands `python3 ...` in copies of warm interpreters, unless their `warm_python` is"
        " `false`.",
        json_schema_extra={UNIT: "boolean"},
    )
    pass_env: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",),
        description="Variables of the node that `pass_env` of a bundle may name, as patterns: `API_TOKEN,AWS_*`.",
    )
    dashboard_token: str = Field(
        "",
        repr=False,
        description="Token that the dashboard asks for if it has no login; empty makes a new one at each start.",
    )
    dashboard_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names that the dashboard answers to besides its address, like `a.example,b.example`.",
    )

    allow_unsandboxed: bool = Field(
        False,
        description="`1` accepts executors with a sandbox `policy`; their commands run on the host without it.",
        json_schema_extra={UNIT: "boolean"},
    )

    @field_validator("dashboard_hosts", "pass_env", mode="before")
    @classmethod
    def _parse_list(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("executor_pool_capacities", mode="before")
    @classmethod
    def _parse_capacities(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pools: dict[str, str] = {}
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            name, separator, slots = (piece.strip() for piece in part.partition("="))
            if not separator:
                raise ValueError(f"{part!r} must have the form pool=slots, like default=4,gpu=1")
            if name in pools:
                raise ValueError(f"pool {name!r} is given twice")
            pools[name] = slots
        return pools

    @field_validator("executor_pool_capacities")
    @classmethod
    def _valid_pool_names(cls, value: dict[str, int]) -> dict[str, int]:
        for name in value:
            problem, hint = pool_problem(name)
            if problem:
                raise ValueError(f"{name!r} {problem} ({hint})")
        return value

    @field_validator("redis_url")
    @classmethod
    def _valid_store(cls, value: str) -> str:
        scheme, separator, _ = value.partition("://")
        if not separator or scheme not in {"redis", "rediss", "unix", "sentinel"}:
            raise ValueError(f"{without_password(value)!r} must start with redis://, rediss://, unix:// or sentinel://")
        if scheme == "sentinel":
            return _with_absolute_files(_checked(value))
        path = _split(value).path.strip("/")
        if scheme == "unix" and not path:
            raise ValueError(
                f"{without_password(value)!r} does not name a socket; write it like unix:///run/redis.sock"
            )
        if scheme != "unix" and path and not path.isdecimal():  # redis-py would silently use database 0
            raise ValueError(
                f"the database in {without_password(value)!r} is not a number; write it like redis://host:6379/0"
            )
        value = _with_absolute_files(_with_certificate_mode(_checked(value)))
        _check_redis_url(value)
        return value

    @field_validator("broker_url")
    @classmethod
    def _valid_broker(cls, value: str) -> str:
        if value.startswith(SENTINEL):
            return _with_absolute_files(_checked(value))
        urls = value.split(";") if value else []  # several brokers of one cluster
        for url in urls:
            scheme = _split(url).scheme.partition("+")[0]
            if scheme not in (*TRANSPORT_ALIASES, "unix"):  # `unix` is an alias for kombu's redis+socket
                raise ValueError(
                    f"{without_password(url)!r} must start with a scheme that kombu knows, like redis:// or amqp://"
                )
        urls = [_checked(url) if urlsplit(url).scheme in REDIS_SCHEMES else url for url in urls]
        return ";".join(_with_absolute_files(_with_certificate_mode(url)) for url in urls)

    @field_validator("temp_dir", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("must not be empty")
        return value

    @field_validator("temp_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.absolute()  # a node runs in another folder than the one in which it was started

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            problems = [
                f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
            ]
            raise SettingsError("\n".join(problems)) from None

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; *overrides* take precedence. Raises SettingsError."""
        return cls(**overrides)

    @property
    def client_timeout_s(self) -> float:
        return self.client_timeout_ms / 1000

    @property
    def pools(self) -> dict[str, int]:
        """Pool name -> slots on one runtime node."""
        return {"default": self.executor_max_concurrency, **self.executor_pool_capacities}


def _split(url: str, *, port: bool = True) -> SplitResult:
    """Split *url*. Raises ValueError without the password, which the error of urllib would repeat."""
    try:
        parts = urlsplit(url)
        _ = parts.port if port else None
    except ValueError:
        raise ValueError(f"{without_password(url)!r} does not have a valid host and port") from None
    return parts


def _checked(url: str) -> str:
    """*url* of a Redis server. Raises ValueError, without the password, for a form or option that is not supported."""
    try:
        if url.startswith(SENTINEL):
            sentinels_of(url)
            return url
        return checked(url)
    except ValueError as error:
        raise ValueError(f"{without_password(url)!r} {error}") from None


def _with_certificate_mode(url: str) -> str:
    """*url*; a rediss URL with an explicit `ssl_cert_reqs`, in the spelling that redis-py, kombu and Celery all accept.

    Without the parameter redis-py requires certificates, kombu checks none, and Celery's backend rejects the URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    query = dict(parse_qsl(parts.query))
    given = query.get("ssl_cert_reqs", "required")
    known = given.removeprefix("CERT_").lower()
    if known not in ("required", "optional", "none"):
        raise ValueError(f"ssl_cert_reqs must be required, optional or none, not {given!r}")
    return urlunsplit(parts._replace(query=urlencode({**query, "ssl_cert_reqs": known}, safe="/")))


def _with_absolute_files(url: str) -> str:
    """*url* with absolute paths of certificate files: a node runs in another folder than `mn worker` was started in."""
    place, _, text = url.partition("?")
    query = dict(parse_qsl(text))
    relative = {name: path for name, path in query.items() if name in FILE_OPTIONS and not os.path.isabs(path)}
    if not relative:
        return url
    absolute = {name: os.path.abspath(path) for name, path in relative.items()}
    return f"{place}?{urlencode({**query, **absolute}, safe='/')}"


def _check_redis_url(url: str) -> None:
    """Raise ValueError if redis-py cannot make a connection object from *url*. Does not connect."""
    try:
        ConnectionPool.from_url(url).make_connection()
    except (RedisError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None
