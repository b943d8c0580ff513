"""Keep what a command prints, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorneuron.message import encode

SPREAD: Final = 1.9  # times the cap that a stream may take as JSON: both of them, twice, are to fit in one message
ALWAYS_BYTES: Final = 4_096  # however little the cap is


class Capture:
    """The first and the last bytes of a stream, *cap* bytes together; what lies between is only counted.

    Of what JSON blows up, binary data above all, less is kept: see `SPREAD`.
    *echo* is told of each piece as it comes. The head shows what the command set out to do, the tail what went wrong.
    Holds at most 1.5 times *cap* and a chunk.
    """

    def __init__(self, cap: int, echo: Callable[[bytes], None] | None = None) -> None:
        self.total = 0  #: bytes seen
        self._most_json = max(ALWAYS_BYTES, int(SPREAD * cap))
        self._echo = echo
        self._tail_cap = cap // 2
        self._head_cap = cap - self._tail_cap
        self._head = bytearray()
        self._tail = bytearray()

    @property
    def cut(self) -> bool:
        return self.total > self._head_cap + self._tail_cap

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
        while len(encode(text := self._text())) > self._most_json:
            self._halve()
        return text

    def _text(self) -> str:
        if not self.cut:
            return bytes(self._head + self._tail).decode(errors="replace")
        self._forget()
        kept = self._head_cap + self._tail_cap
        marker = f"\n[... output cut: {self.total} bytes in all, {kept} kept ...]\n"
        return self._head.decode(errors="replace") + marker + self._tail.decode(errors="replace")

    def _halve(self) -> None:
        both = bytes(self._head + self._tail)  # they may lie otherwise than the smaller caps have it
        self._head_cap, self._tail_cap = self._head_cap // 2, self._tail_cap // 2
        self._head, self._tail = bytearray(both[: self._head_cap]), bytearray(both[len(both) - self._tail_cap :])

    def _forget(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_cap)]
