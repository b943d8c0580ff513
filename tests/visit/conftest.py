"""A namespace of a real server without workers: tests make the visits themselves, in their own process."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from celery import Celery

from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.settings import Settings
from workers.runtime import Runtime


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """A namespace without workers, with a short lease."""
    name = f"visit-{secrets.token_hex(4)}"
    return Settings(redis_url=redis_url, redis_namespace=name, temp_dir=tmp_path / "temp", claim_lease_ms=1_000)


@pytest.fixture
def runtime(settings: Settings) -> Runtime:
    return Runtime(settings, "worker@test")


@pytest.fixture
def app(settings: Settings) -> Celery:
    return make_app(settings)
