"""A private Valkey server for tests, with a separate port and folder, ended by its pid."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import redis
from celery.platforms import set_pdeathsig
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirrorneuron.embedded.launcher import binary, free_port
from tests.support.waiting import wait_until


class ValkeyServer:
    """A server that tests may stop, kill, freeze and restart on the same port.

    With `durable=True` its data survives that; otherwise it starts empty each time.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder
        self.durable = durable
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def client(self) -> redis.Redis:
        """A client without retries, so that a test sees each error."""
        if self._client is None:
            self._client = redis.Redis.from_url(self.url, socket_timeout=10, retry=Retry(NoBackoff(), 0))
        return self._client

    def start(self) -> ValkeyServer:
        """Start the server and wait until it answers and has loaded its data."""
        assert self._process is None, "the server is running already"
        same = self.port
        for _ in range(5):
            self._spawn(same or free_port())  # another program may take a free port before the server does
            if wait_until(self._up_or_ended) == "up":
                return self
            self._forget()
        raise AssertionError(f"no server came up:\n{(self.folder / 'server.log').read_text()}")

    def stop(self) -> None:
        """Stop the server with TERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server, like a power cut."""
        self._end(signal.SIGKILL)

    def mark(self) -> int:
        """The size of the append-only file so far, for `lose_since`. Needs `durable=True`."""
        return self._record.stat().st_size

    def lose_since(self, mark: int) -> None:
        """Kill the server and drop its writes after *mark*, as if they had not reached the disk.

        With 0 all data is lost.
        """
        self.kill()
        os.truncate(self._record, mark)

    @property
    def _record(self) -> Path:
        (file,) = (self.folder / "appendonlydir").glob("*.incr.aof")  # there is one file as long as it is not rewritten
        return file

    def freeze(self) -> None:
        """Suspend the server with SIGSTOP: it keeps its connections and does not reply."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        """Make the server reply again, whether it was stopped, frozen or neither."""
        if self._process is None:
            self.start()
        self.thaw()

    def flush(self) -> None:
        """Delete all data of this private server."""
        self.client.flushall()

    def __enter__(self) -> ValkeyServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        if self._client is not None:
            self._client.close()

    def _arguments(self) -> list[str]:
        keep = ("--appendonly", "yes", "--appendfsync", "always") if self.durable else ("--appendonly", "no")
        return ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", *keep]

    def _spawn(self, port: int) -> None:
        if port != self.port:
            self.port, self._client = port, None
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [binary(), *self._arguments()],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C does not reach it, but it dies with a test run that is killed.
                start_new_session=True,
                preexec_fn=lambda: set_pdeathsig("SIGKILL"),
            )

    def _up_or_ended(self) -> str:
        assert self._process is not None
        if self._process.poll() is not None:
            return "ended"
        try:
            # Another program may have taken the port: only our own pid counts.
            info = self.client.info("default")
            return "up" if info["process_id"] == self._process.pid and not info.get("loading") else ""
        except redis.RedisError:
            return ""

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        assert process is not None, "the server is not running"
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a frozen process would not handle TERM
        process.wait(timeout=30)
        self._forget()

    def _forget(self) -> None:
        self._process = None


class Sentinel(ValkeyServer):
    """A sentinel that monitors *server* under the name *service*, with a *password* of its own if given.

    With *down_after_ms* it fails over by itself.
    """

    def __init__(
        self, folder: Path, server: ValkeyServer, service: str, password: str = "", *, down_after_ms: int = 30_000
    ) -> None:
        super().__init__(folder)
        self._watched, self._service, self._password = server, service, password
        self._down_after_ms = down_after_ms

    @property
    def url(self) -> str:
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self.port}" if self._password else super().url

    def _arguments(self) -> list[str]:
        config = self.folder / "sentinel.conf"  # the sentinel also writes to this file
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nsentinel monitor {self._service} 127.0.0.1 {self._watched.port} 1\n"
            f"sentinel down-after-milliseconds {self._service} {self._down_after_ms}\n"
            f"sentinel failover-timeout {self._service} 5000\n"
            + (f"requirepass {self._password}\n" if self._password else "")
        )
        return [str(config), "--sentinel"]
