"""A TCP proxy in front of a server, which makes its connections slow, dead or cut."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Final

CHUNK: Final = 65_536


class Proxy:
    """Forwards connections from a free port of this machine to *port*. Thread-safe."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0  #: before each chunk is forwarded, in each direction
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_dead(self) -> None:
        """From now on nothing passes the present connections, and none of them is closed. New ones work."""
        for link in self._present():
            link.dead = True

    def cut(self) -> None:
        """Close the present connections."""
        for link in self._present():
            link.close()

    def cut_next_replies(self) -> None:
        """Close each present connection when the next reply comes: the server has carried the request out."""
        for link in self._present():
            link.reply_is_cut = True

    def close(self) -> None:
        """Close the port and all connections."""
        self._listener.close()
        self.cut()

    def _present(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(link, one, other), name="proxy", daemon=True).start()

    def _forward(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                time.sleep(self.delay_s)
                if link.reply_is_cut and source is link.server:
                    break
                if not link.dead:
                    sink.sendall(chunk)
        link.close()
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection of a client and its connection to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.server = server
        self.dead = False
        self.reply_is_cut = False
        self._sockets = (client, server)

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            one.close()
