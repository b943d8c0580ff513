"""Insert values into shell text, so that the shell takes each for plain text whatever characters are in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+", re.ASCII)  # means the same to a shell with and without quotes


def substitute(text: str, pattern: re.Pattern[str], values: Callable[[re.Match[str]], tuple[str, str, str]]) -> str:
    """Replace each match of *pattern* in *text*.

    *values* returns a value, a shell expansion without quotes that yields the same value, like `${NAME}`, and text to
    append unchanged. A plain value is inserted as it is, any other by its expansion, in quotes as its place requires:
    the shell never parses the result of an expansion, so even text that this module misreads executes nothing.
    """
    parts: list[str] = []
    quote, done = "", 0
    for match in pattern.finditer(text):
        quote = _quote_after(text[done : match.start()], quote)
        value, expansion, rest = values(match)
        parts += (text[done : match.start()], _inserted(value, expansion, quote), rest)
        done = match.end()
    return "".join(parts) + text[done:]


def _inserted(value: str, expansion: str, quote: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return {"": f'"{expansion}"', '"': expansion, "'": f"'\"{expansion}\"'"}[quote]


def _quote_after(text: str, quote: str) -> str:
    """Return the quote that is open after *text*, which begins within *quote* ("" is none)."""
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'":
            position += 1
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char == "#" and (position == 0 or text[position - 1].isspace()):  # a comment
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        position += 1
    return quote
