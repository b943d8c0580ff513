"""Free ports for tests' own servers."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port that nobody listens on now, out of a range from which no system picks the ports of outgoing connections.

    One picked by the kernel may be the local port of somebody's connection by the time a server wants it; and a client
    that reconnects to such a port while its server is down may find itself.
    """
    for port in random.sample(range(10_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
