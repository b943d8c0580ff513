"""Settings: read once from the environment, checked, then passed down. Nothing else reads `os.environ` for them."""

from __future__ import annotations

import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mirrorneuron.errors import SettingsError

PREFIX = "MIRROR_NEURON_"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
MIB = 1024 * 1024


class Settings(BaseSettings):
    """One frozen object for a client or a node. Each field is the environment variable `MIRROR_NEURON_<FIELD>`.

    Build it with `Settings.load()`, which raises `SettingsError` naming the variable that is wrong.
    """

    model_config = SettingsConfigDict(frozen=True, env_prefix=PREFIX, extra="forbid")

    redis_url: str = DEFAULT_REDIS_URL  #: the job store: redis, rediss, unix or sentinel scheme
    broker_url: str = ""  #: anything kombu speaks; empty means the job store's server
    redis_namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "mirror_neuron"
    executor_max_concurrency: PositiveInt = 4  #: slots of the pool "default" on one node
    executor_pool_capacities: Annotated[dict[str, PositiveInt], NoDecode] = {}  #: "default=4,gpu=1"
    temp_dir: Path = (
        Path(tempfile.gettempdir()) / f"mirrorneuron-{os.getuid()}"
    )  #: run folders and the bundle cache of a node
    max_bundle_bytes: PositiveInt = 64 * MIB
    max_message_bytes: PositiveInt = 8 * MIB
    max_output_bytes: PositiveInt = MIB  #: kept of a command's stdout and of its stderr, each
    claim_lease_ms: Annotated[int, Field(ge=200)] = 6_000  #: an agent whose worker is silent this long runs again
    stop_grace_seconds: NonNegativeInt = 30  #: that a worker which is asked to stop gives what it runs
    retention_seconds: NonNegativeInt = 7 * 86_400  #: of a terminal job; 0 keeps it for ever
    events_max: PositiveInt = 100_000  #: events kept of one job
    logs_max_bytes: NonNegativeInt = 4 * MIB  #: of what commands print, kept of one job for `mn logs`; 0 keeps none

    @field_validator("executor_pool_capacities", mode="before")
    @classmethod
    def _parse_capacities(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pools: dict[str, str] = {}
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            name, separator, slots = part.partition("=")
            if not separator or not name.strip():
                raise ValueError(f"{part!r} is not of the form pool=slots, as in default=4,gpu=1")
            pools[name.strip()] = slots.strip()
        return pools

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value.partition("://")[0] not in {"redis", "rediss", "unix", "sentinel"}:
            raise ValueError(f"{value!r} must begin with redis://, rediss://, unix:// or sentinel://")
        return value

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment, with *overrides* before it. Raises SettingsError."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            problems = [
                f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
            ]
            raise SettingsError("\n".join(problems)) from None

    @cached_property
    def pools(self) -> dict[str, int]:
        """Pool name -> slots of one node."""
        return {"default": self.executor_max_concurrency, **self.executor_pool_capacities}
