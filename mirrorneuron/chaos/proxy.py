"""A TCP proxy in front of a server, which makes its connections slow, dead or cut.

Run as `python -m mirrorneuron.chaos.proxy PORT`, it prints its own port. Then it carries out the commands of its
standard input, one a line (`make_dead`, `cut_next_replies`, `delay_s SECONDS`), and prints a count for each. It ends
with its input.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Final

CHUNK: Final = 65_536
REPLY_S: Final = 1.0  #: how long `main` waits for a reply that it can cut
POLL_S: Final = 0.002


class Proxy:
    """Forwards connections from a free port of this machine to *port*. Thread-safe."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0  #: before each chunk is forwarded, in each direction
        self.replies_cut = 0  #: since the start
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_dead(self) -> int:
        """From now on nothing passes the present connections, and none of them is closed. New ones work.

        Returns the number of connections that were not dead before.
        """
        alive = [link for link in self.links() if not link.dead]
        for link in alive:
            link.dead = True
        return len(alive)

    def cut(self) -> None:
        """Close the present connections."""
        for link in self.links():
            link.close()

    def cut_next_replies(self) -> None:
        """Close each present connection when the next reply comes: the server has carried the request out."""
        for link in self.links():
            link.reply_is_cut = True

    def close(self) -> None:
        """Close the port and all connections."""
        self._listener.close()
        self.cut()

    def links(self) -> list[Link]:
        """Return the present connections."""
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
            link = Link(client, server)
            with self._lock:
                self._links.add(link)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(link, one, other), name="proxy", daemon=True).start()

    def _forward(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                time.sleep(self.delay_s)
                if link.reply_is_cut and source is link.server:
                    with self._lock:
                        self.replies_cut += not link.dead
                    break
                if not link.dead:
                    sink.sendall(chunk)
        link.close()
        with self._lock:
            self._links.discard(link)


class Link:
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


def main() -> None:
    """Run as a process of its own: the crash test forks, and so may not have the threads of a proxy."""
    with Proxy(int(sys.argv[1])) as proxy:
        print(proxy.port, flush=True)
        for line in sys.stdin:
            print(_carry_out(proxy, *line.split()), flush=True)


def _carry_out(proxy: Proxy, command: str, value: str = "") -> int:
    """Carry out one command. Returns how many connections it has affected so far."""
    match command:
        case "make_dead":
            return proxy.make_dead()
        case "cut_next_replies":
            before, deadline = proxy.replies_cut, time.monotonic() + REPLY_S
            proxy.cut_next_replies()
            while proxy.replies_cut == before and time.monotonic() < deadline:
                time.sleep(POLL_S)
            return proxy.replies_cut - before
        case "delay_s":
            proxy.delay_s = float(value)
            return len(proxy.links())
        case _:
            raise ValueError(f"unknown command: {command}")


if __name__ == "__main__":
    main()
