"""The job API on a default client, built from the environment on first use."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from mirrorneuron.api.client import Client

_lock = threading.Lock()
_client: Client | None = None


def default_client() -> Client:
    """The client that the functions of `mirrorneuron` act on. Raises SettingsError for a bad environment."""
    global _client
    if _client is None:
        with _lock:
            _client = _client or Client()
    return _client


def verb(name: str) -> Callable[..., Any]:
    """The method *name* of Client as a function on the default client."""
    method = getattr(Client, name)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(default_client(), *args, **kwargs)

    signature = inspect.signature(method)
    call.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    call.__module__, call.__qualname__ = "mirrorneuron", name
    return call
