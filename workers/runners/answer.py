"""The answer of an executor's command: a JSON object with one of `KEYS`, on stdout or in a file.

On stdout the last answer counts, whatever is printed around it. It is one JSON object on one or more lines; other text
may stand before it on its first line, but not after it on its last one. Text that is intended as an answer but cannot
be read is an error: otherwise what it asks for would be lost silently.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mirrorneuron.message import decode
from workers.runners.protocol import RunRefused

ANSWER_FILE: Final = "MIRROR_NEURON_ANSWER_FILE"
KEYS: Final = ("complete_job", "complete_job?", "emit_messages", "events", "next_state")

_ADVICE: Final = (
    "print one JSON object (in Python, with json.dumps) and no other text behind it on its line, or write it to the"
    f" file that {ANSWER_FILE} names"
)
_WORDS: Final = ("complete_job", "emit_messages", "events", "next_state")
_KEY: Final = r"(complete_job\??|emit_messages|next_state)"  # `events` is a common word and counts only before a list
#: Behind a brace that does not begin a JSON value, one of these shows that an answer was intended: a Python dict, a
#: JavaScript object, JSON with a mistake. A blank line ends the reach of the brace.
_SIGN: Final = re.compile(
    rf"""\n[ \t\r]*\n|["']{_KEY}["']\s*(?::|=>)|\{{\s*["']{_KEY}["']|\{{\s*:?{_KEY}\s*(?::|=>)"""
    r"""|\{\s*["'](events)["']\s*(?::|=>)(?=\s*\[)"""
)
_BEGIN: Final = re.compile(r'[{[]|^[ \t]*"', re.MULTILINE)
#: a bracket, or all that JSON may have between two brackets; possessive, so that nothing is read twice
_TOKEN: Final = re.compile(
    r"""[{}\[\]]|(?:[:, \t\r\n]++|"(?:[^"\\\x00-\x1f]++|\\.)*+"|-?\d[\d.eE+-]*+|true|false|null|NaN|-?Infinity)++"""
)
_PRINTED_KEY: Final = re.compile(
    rb"""[{,]\s*["'](complete_job\??|emit_messages|next_state)["']\s*:|\n\s*\{\s*["'](events)["']\s*:\s*\["""
)
_LOOKBACK: Final = 64  # bytes; longer than any match without unusual white space


def find_answer(text: str, *, strict: bool = False) -> str | None:
    """Return the last answer in *text* as JSON text; None for plain output. Raises ValueError for an unusable answer.

    With *strict*, only an object that begins its line counts, and one that has more than `events`.
    """
    if not any(word in text for word in _WORDS):
        return None
    place, stop, key, done, brace = -1, -1, "", 0, -1
    for start, end, value in _values(text):
        for sign in _SIGN.finditer(text, done, start):
            if sign.lastindex is None:
                brace = -1
            elif brace >= 0 or sign[0].startswith("{"):
                place, stop, key = brace if brace >= 0 else sign.start(), -1, sign[sign.lastindex]
        before = text[done:start]
        alone = not before.rpartition("\n")[2].strip() and ("\n" in before or text[done - 1 : done] in ("", "\n"))
        if end == start:  # no JSON value begins here
            brace = start
        elif (found := _answer_key(value, alone)) and (
            not strict or (alone and text[start - 1 : start] in ("", "\n") and found != "events")
        ):
            place, stop, key = start, -1 if isinstance(value, str) else end, found
        done = end
    if place < 0:
        return None
    if stop < 0 or text[stop - 1] != "\n":
        line_end = text.find("\n", stop)
        if stop < 0 or text[stop : line_end if line_end >= 0 else len(text)].strip():
            stop = len(text)
    _check(text, place, stop, key)
    return text[place:stop].strip()


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield begin, end and value of each JSON object, array and string in *text* that is in no other.

    For a brace that begins no JSON value, and for the end of the text, both places are the same. Linear: each part of
    the text is read once to find where values end, and at most once to parse one.
    """
    place = 0
    while match := _BEGIN.search(text, place):
        start = match.end() - 1
        place, found = _value_at(text, start)
        if found:
            yield start, place, found[0]
        elif text[start] == "{":
            yield start, start, None
    yield len(text), len(text), None


def _value_at(text: str, start: int) -> tuple[int, list[Any]]:
    """Where the JSON value that begins at *start* ends, and the value in a list, which is empty if there is none."""
    if start == 0 or text[start - 1] == "\n":  # mostly the rest of the line, or all of the text, is the value
        line_end = text.find("\n", start) + 1 or len(text)
        for end in (line_end, len(text))[: 2 if start == 0 else 1]:
            with suppress(ValueError):
                return end, [decode(text[start:end])]
    end, whole = _end_of_value(text, start)
    with suppress(ValueError):
        return end, [decode(text[start:end])] if whole else []
    return end, []


def _end_of_value(text: str, start: int) -> tuple[int, bool]:
    """Where the value that begins at *start* ends, by its brackets alone; or the first place that is no JSON, False."""
    closers: list[str] = []
    place = start
    while token := _TOKEN.match(text, place):
        char = text[place]
        if char in "{[":
            closers.append("}" if char == "{" else "]")
        elif char in "}]" and closers.pop() != char:
            break
        place = token.end()
        if not closers:
            return place, True
    return max(place, start + 1), False


def _answer_key(value: Any, alone: bool) -> str:
    """The key that makes *value* an answer, or a string that holds one; "" for other values."""
    if isinstance(value, str) and any(word in value for word in _WORDS):
        try:
            value = decode(value)
        except ValueError:
            return ""
    if not isinstance(value, dict):
        return ""
    found = [key for key in KEYS if key in value]
    if found == ["events"] and not alone and not isinstance(value["events"], list):
        return ""  # a line of a log with a number of events
    return next((key for key in found if key != "events"), "events" if found else "")


def _check(text: str, place: int, stop: int, key: str) -> None:
    """Raise ValueError if the part of *text* is not one JSON object, with the line and column in the whole text."""
    try:
        value = decode(re.sub(r"[^\n]", " ", text[:place]) + text[place:stop])
    except ValueError as error:
        raise ValueError(f"contains {key}, but is not valid JSON: {error}; {_ADVICE}") from None
    if isinstance(value, str):
        raise ValueError(f"contains {key}, but within a JSON string: the answer was encoded twice; {_ADVICE}")


def decode_file(data: bytes) -> str:
    """The text of an answer file. Raises ValueError if it is not a JSON object with one of the keys, or empty: `{}`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    if not text.strip():
        raise ValueError("is empty; write a JSON object, or no file")
    try:
        value = decode(text)
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}; was it written completely, and with json.dumps?") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    if value and not any(key in value for key in KEYS):
        keys = ", ".join(KEYS)
        raise ValueError(f'has none of the keys {keys}; the output of the job is written as {{"complete_job": ...}}')
    return text


def read_file(path: Path, limit: int) -> bytes | None:
    """The bytes of an answer file; None if the command wrote none. Raises RunRefused."""
    try:
        # Neither a pipe nor a link is followed: the first blocks, the second may name any file of this machine.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = "is not a regular file" if error.errno in (errno.ELOOP, errno.ENXIO) else error.strerror
        raise RunRefused(f"{ANSWER_FILE}: {reason}") from None
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise RunRefused(f"{ANSWER_FILE}: is not a regular file")
        with open(file, "rb", closefd=False) as stream:
            data = stream.read(limit + 1) if about.st_size <= limit else b""
    finally:
        os.close(file)
    if about.st_size > limit or len(data) > limit:
        size = max(about.st_size, len(data))
        raise RunRefused(f"{ANSWER_FILE}: has {size} bytes, more than MIRROR_NEURON_MAX_MESSAGE_BYTES ({limit})")
    return data


class AnswerWatch:
    """Notices answer keys in a stream, of which only the first and the last bytes are kept."""

    def __init__(self) -> None:
        self.key = ""  #: the last one
        self._last = b"\n"

    def add(self, chunk: bytes) -> None:
        text = self._last + chunk
        if any(word.encode() in text for word in _WORDS):
            for match in _PRINTED_KEY.finditer(text):
                self.key = (match[1] or match[2]).decode()
        self._last = text[-_LOOKBACK:]
