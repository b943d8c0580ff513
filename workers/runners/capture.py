"""Keep what a command prints, within bounds."""

from __future__ import annotations

from collections.abc import Callable


class Capture:
    """The first and the last bytes of a stream, *cap* bytes together; what lies between is only counted.

    *echo* is told of each piece as it comes. The head shows what the command set out to do, the tail what went wrong.
    Holds at most 1.5 times *cap* and a chunk.
    """

    def __init__(self, cap: int, echo: Callable[[bytes], None] | None = None) -> None:
        self.total = 0  #: bytes seen
        self._cap = cap
        self._echo = echo
        self._tail_cap = cap // 2
        self._head_cap = cap - self._tail_cap
        self._head = bytearray()
        self._tail = bytearray()

    @property
    def cut(self) -> bool:
        return self.total > self._cap

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        if self._echo is not None:
            self._echo(chunk)
        room = self._head_cap - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk
        if len(self._tail) > 2 * self._tail_cap:  # in big steps: each byte is moved once or twice, not at every chunk
            self._forget()

    def text(self) -> str:
        """The stream as text, with U+FFFD for what is not UTF-8, and a line that says so where it was cut."""
        if not self.cut:
            return bytes(self._head + self._tail).decode(errors="replace")
        self._forget()
        marker = f"\n[... output cut: {self.total} bytes in all, {self._cap} kept ...]\n"
        return self._head.decode(errors="replace") + marker + self._tail.decode(errors="replace")

    def _forget(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_cap)]
