"""URLs of Redis servers: which options they may have, and what each library is told of them.

One URL is read by redis-py (the store), kombu (the broker), Celery (the result backend) and Flower. They know different
options, so that only those are accepted that can be passed to all of them, or that concern only the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

SENTINEL: Final = "sentinel://"
SENTINEL_PORT: Final = 26379
MAX_TIMEOUT_S: Final = 86_400.0
_SENTINEL_URL: Final = re.compile(
    r"sentinel://(?:(?P<user>[^@/]*)@)?(?P<hosts>[^/?@]+)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?"
)
_HOST: Final = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+(?:%[^\]]+)?)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("must be a whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MAX_TIMEOUT_S:
        raise ValueError("must be a positive number of seconds")
    return number


def _protocol(text: str) -> int:
    if text not in ("2", "3"):
        raise ValueError("must be 2 or 3")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("must be true or false")
    return text.lower() in ("true", "1", "yes")


#: for the connections of the store, the broker and the result backend
SHARED: Final[dict[str, Callable[[str], Any]]] = {
    "protocol": _protocol,
    "health_check_interval": _number,
    "client_name": str,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _flag,
}
#: of the store and the result backend: the broker's library counts otherwise
OF_STORE: Final[dict[str, Callable[[str], Any]]] = {"max_connections": _number, "db": _number}
TLS: Final[dict[str, Callable[[str], Any]]] = {
    "ssl_cert_reqs": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_check_hostname": _flag,
}
OF_SENTINELS: Final[dict[str, Callable[[str], Any]]] = {
    "sentinel_username": str,
    "sentinel_password": str,
    "ssl": _flag,
}
REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "unix"})


@dataclass(frozen=True, slots=True)
class Sentinels:
    """A `sentinel://` URL: the sentinels, the name of their service, and the options of both kinds of connection."""

    hosts: list[tuple[str, int]]
    service: str
    server: dict[str, Any]  #: options of a connection to the server, `ssl` among them
    sentinel: dict[str, Any]  #: options of a connection to a sentinel

    @property
    def tls(self) -> dict[str, Any]:
        """The options of TLS without `ssl` itself; empty without TLS."""
        return {name: value for name, value in self.server.items() if name.startswith("ssl_")}


def sentinels_of(url: str) -> Sentinels:
    """Parse a `sentinel://` URL, or raise ValueError."""
    found = _SENTINEL_URL.fullmatch(url)
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else []
    service, _, db = (found["path"] or "").strip("/").partition("/") if found else ("", "", "")
    ports = [int(host["port"] or SENTINEL_PORT) for host in hosts if host]
    if not found or None in hosts or not all(0 < port < 65_536 for port in ports) or not (db or "0").isdecimal():
        raise ValueError(
            "must have the form sentinel://host:port,host:port/service/db"
            " (defaults: port 26379, service mymaster, db 0)"
        )
    options = _read(found["query"] or "", {**SHARED, **OF_STORE, **TLS, **OF_SENTINELS})
    user, _, password = (found["user"] or "").partition(":")
    tls = {name: value for name, value in options.items() if name in TLS}
    if tls and not options.get("ssl"):
        raise ValueError("has ssl_ options, which need ssl=true")
    if options.pop("ssl", False):
        tls = {"ssl": True, "ssl_cert_reqs": "required", **tls}
    protocol = {name: value for name, value in options.items() if name == "protocol"}
    login = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    server = {"db": int(db or 0), "username": unquote(user) or None, "password": unquote(password) or None}
    return Sentinels(
        [((host["ip6"] or host["name"]), port) for host, port in zip(filter(None, hosts), ports, strict=True)],
        service or "mymaster",
        {**server, **options, **tls},
        {**login, **protocol, **tls},
    )


def checked(url: str) -> str:
    """*url* of a Redis server, with its database in the path. Raises ValueError for an option that is not supported."""
    parts = urlsplit(url)
    options = _read(parts.query, {**SHARED, **OF_STORE, **TLS})
    if "db" not in options or parts.scheme == "unix":
        return url
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "db"]
    return urlunsplit(parts._replace(path=f"/{options['db']}", query=urlencode(query, safe="/")))


def shared_options(url: str) -> dict[str, Any]:
    """The options of *url* that kombu is given as transport options."""
    _, _, query = url.partition("?")
    return {name: SHARED[name](value) for name, value in parse_qsl(query) if name in SHARED}


def for_kombu(url: str) -> str:
    """*url* of a Redis server without the options that kombu would take for its own."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    kept = {name: value for name, value in query.items() if name in TLS}
    if parts.scheme == "unix":
        kept = {"virtual_host": query["db"]} if "db" in query else {}
    text = urlunsplit(parts._replace(query=urlencode(kept, safe="/")))
    return f"redis+socket://{text.removeprefix('unix://')}" if parts.scheme == "unix" else text


def _read(query: str, known: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ValueError(f"the option {name} is not supported (supported: {', '.join(known)})")
        if name in found:
            raise ValueError(f"the option {name} is given twice")
        try:
            found[name] = known[name](text)
        except ValueError as error:
            raise ValueError(f"the option {name} {error}, not {text!r}") from None
    return found
