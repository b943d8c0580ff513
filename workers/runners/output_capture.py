"""Keep what a command prints, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorneuron.message import encode

SPREAD: Final = (
    1.9  # cap on a stream's size as JSON, in caps: both streams, each written twice, must fit in one message
)
ALWAYS_BYTES: Final = 4_096  # a stream may take this many bytes as JSON, however small the cap is
_MARKER_END: Final = " kept ...]\n"


def whole_lines_of_tail(text: str) -> str:
    """What is behind the marker in the text of a cut stream, without the first line, which may be incomplete."""
    return text.rpartition(_MARKER_END)[2].partition("\n")[2]


class HeadAndTail:
    """The first *head_cap* and the last *tail_cap* bytes of a stream; the bytes between them are only counted.

    Holds at most `head_cap + 2 * tail_cap` bytes and a chunk.
    """

    def __init__(self, head_cap: int, tail_cap: int, head: bytes = b"", tail: bytes = b"") -> None:
        self.head_cap = head_cap
        self.tail_cap = tail_cap
        self.head = bytearray(head)
        self.tail = bytearray(tail)
        self.dropped = 0  #: bytes between head and tail

    def add(self, chunk: bytes) -> None:
        room = max(0, self.head_cap - len(self.head))
        self.head += chunk[:room]
        self.tail += chunk[room:]
        if len(self.tail) > 2 * self.tail_cap:  # in big steps: each byte is moved once or twice, not at every chunk
            self.trim()

    def trim(self) -> None:
        """Drop what is in the tail beyond *tail_cap*."""
        spare = max(0, len(self.tail) - self.tail_cap)
        del self.tail[:spare]
        self.dropped += spare

    def halved(self) -> HeadAndTail:
        """A copy with half the caps."""
        both = bytes(self.head + self.tail)  # the tail's first bytes may belong to the smaller head, and vice versa
        head_cap, tail_cap = self.head_cap // 2, self.tail_cap // 2
        return HeadAndTail(head_cap, tail_cap, both[:head_cap], both[len(both) - tail_cap :])


class Capture:
    """The first and the last bytes of a stream, *cap* bytes together; the bytes between them are only counted.

    The head shows what the command set out to do, the tail what went wrong. Less is kept of a stream that grows much
    as JSON, above all binary data: see `SPREAD`. *echo* is called with each chunk as it comes.
    """

    def __init__(self, cap: int, echo: Callable[[bytes], None] | None = None) -> None:
        self.total = 0  #: bytes seen
        self._max_json_bytes = max(ALWAYS_BYTES, int(SPREAD * cap))
        self._echo = echo
        self._kept = HeadAndTail(cap - cap // 2, cap // 2)

    @property
    def cut(self) -> bool:
        return self.total > self._kept.head_cap + self._kept.tail_cap

    @property
    def is_utf8(self) -> bool:
        """Whether `text` replaces no byte."""
        try:
            (self._kept.head + self._kept.tail).decode()
        except UnicodeDecodeError:
            return False
        return True

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        if self._echo is not None:
            self._echo(chunk)
        self._kept.add(chunk)

    def text(self) -> str:
        """The stream as text: U+FFFD replaces what is not UTF-8, and a line marks where bytes were cut."""
        while len(encode(text := self._text())) > self._max_json_bytes:
            self._kept = self._kept.halved()
        return text

    def _text(self) -> str:
        kept = self._kept
        if not self.cut:
            return bytes(kept.head + kept.tail).decode(errors="replace")
        kept.trim()
        marker = f"\n[... output cut: {self.total} bytes in all, {kept.head_cap + kept.tail_cap}{_MARKER_END}"
        return kept.head.decode(errors="replace") + marker + kept.tail.decode(errors="replace")
