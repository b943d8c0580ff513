"""Flower with a guard before every page: the `Host` header must be known, and without a login a token is needed.

Flower checks neither: a page of any site could reach a dashboard on 127.0.0.1 under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import atexit
import contextlib
import hmac
import ipaddress
import os
import re
import signal
import socket
import sys
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from flower import command
from flower.app import Flower
from flower.urls import settings as flower_settings
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.options import options
from tornado.web import RequestHandler

from mirrorneuron.dispatch.celery_app import App
from mirrorneuron.settings import PREFIX

ARGUMENT: Final = "token"  #: of the first URL; the answer moves it into a cookie
#: What Flower would report as done, because it does not wait for the refusal of the worker.
_OPERATION: Final = re.compile(r"/api/(worker/(shutdown|pool|queue)|task/(revoke|timeout|rate-limit|abort))/")
ANY_ADDRESS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


def serve(app: App, arguments: list[str], address: str, token: str) -> None:
    """Serve the dashboard until SIGTERM or Ctrl-C. *arguments* are options of Flower."""
    # Without this option Flower executes `flowerconfig.py` of the working folder.
    conf = f"--conf={os.environ.get('FLOWER_CONF') or os.devnull}"
    command.apply_env_options()
    command.apply_options(sys.argv[0], [f"--address={address}", conf, *arguments])
    command.extract_settings()
    command.setup_logging()
    hosts = known_hosts(address, app.settings.dashboard_hosts)
    dashboard = Dashboard(hosts, token, capp=app, options=options, **flower_settings)
    atexit.register(dashboard.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    dashboard.start_http_server()
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        dashboard.start()


def known_hosts(address: str, more: Collection[str]) -> frozenset[str]:
    """The names in a `Host` header that are answered. A dashboard on all addresses answers to this machine's name."""
    own = {socket.gethostname()} if address in ANY_ADDRESS else {address}
    return frozenset(name.lower() for name in {"localhost", "127.0.0.1", "::1", *own, *more})


class Dashboard(Flower):  # type: ignore[misc]  # Flower has no types
    """Flower, guarded. An empty *token* asks for none."""

    def __init__(self, hosts: Collection[str], token: str, **flower: Any) -> None:
        super().__init__(**flower)
        self._hosts = hosts
        self._token = token
        prefix = (self.options.url_prefix or "").strip("/")
        self._open_path = f"/{prefix}/healthcheck" if prefix else "/healthcheck"  #: needs no token, and tells nothing
        self._cookie = f"mirrorneuron_{self.options.port}"  # cookies are shared by all ports of a host

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> HTTPMessageDelegate:
        if not self._is_known(request.host):
            text = f"unknown name in the Host header; set {PREFIX}DASHBOARD_HOSTS to the names of the dashboard\n"
            return self._answered(request, Answer, status=403, text=text)
        if self._token and request.path != self._open_path and not self._matches(self._given(request)):
            if self._matches(request.arguments.get(ARGUMENT, [b""])[0].decode("utf-8", "replace")):
                return self._answered(request, Admission, cookie=self._cookie, token=self._token)
            text = "open the URL with the token that `mn dashboard` has printed\n"
            return self._answered(request, Answer, status=401, text=text)
        if _OPERATION.search(request.path):
            text = "workers refuse this; use `mn cancel JOB`, or restart the node with other settings\n"
            return self._answered(request, Answer, status=403, text=text)
        found: HTTPMessageDelegate = super().find_handler(request, **more)
        return found

    def _answered(self, request: HTTPServerRequest, by: type[RequestHandler], **given: Any) -> HTTPMessageDelegate:
        delegate: HTTPMessageDelegate = self.get_handler_delegate(request, by, given)
        return delegate

    def _is_known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:  # an address cannot be rebound, but only who listens on all addresses is reached by other ones
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.options.address in ANY_ADDRESS

    def _given(self, request: HTTPServerRequest) -> str:
        """The token in the cookie, or in `Authorization: Bearer`."""
        cookie = request.cookies.get(self._cookie)
        return cookie.value if cookie else request.headers.get("Authorization", "").removeprefix("Bearer ")

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


class Answer(RequestHandler):
    """A refusal in one line."""

    def initialize(self, status: int, text: str) -> None:
        self._refusal = status, text

    def check_xsrf_cookie(self) -> None:
        """Nothing is done, so nothing needs protection."""

    def prepare(self) -> None:
        status, text = self._refusal
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


class Admission(RequestHandler):
    """Moves the token from the URL into a cookie, so that it is not in the browser's history of every page."""

    def initialize(self, cookie: str, token: str) -> None:
        self._admitted = cookie, token

    def get(self) -> None:
        name, token = self._admitted
        self.set_cookie(name, token, httponly=True, samesite="Strict", secure=self.request.protocol == "https")
        rest = urlencode([pair for pair in parse_qsl(self.request.query) if pair[0] != ARGUMENT])
        self.redirect("/" + self.request.path.lstrip("/") + (f"?{rest}" if rest else ""))
