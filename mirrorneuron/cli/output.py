"""Write to stdout: JSON, tables and fields. A terminal gets colours; a pipe or file gets plain aligned text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeAlias

from mirrorneuron.text import printable

_UNSAFE: Final = re.compile(r"[^ -~\n]")


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the monitor."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    spare: Sequence[str] = ()  #: columns that a narrow terminal drops, in this order


Sections: TypeAlias = list[str | Section]


def on_terminal() -> bool:
    return sys.stdout.isatty()


def line(text: str) -> None:
    """Print one line (or several) and flush. Whatever a terminal could misread is escaped."""
    sys.stdout.write("\n".join(map(printable, text.split("\n"))) + "\n")
    sys.stdout.flush()


def document(value: Any) -> None:
    """Print one indented JSON document and flush: the command may run on while a reader waits for the document."""
    line(_json(value, indent=2))


def record(value: Any) -> None:
    """Print one JSON value on one line and flush."""
    line(_json(value))


def compact(value: Any) -> str:
    """Return JSON on one line for people, with control characters escaped."""
    return printable(json.dumps(value, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], spare: Sequence[str] = ()) -> None:
    """Print a table; None and "" are shown as `-`.

    A terminal shows the age of a time instead of the time; a narrow one drops the columns *spare*.
    """
    cells = [texts(row) for row in rows]
    if on_terminal():
        _pretty().table(columns, cells, spare)
        return
    heads = [name.upper() for name in columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for row in (heads, *cells):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def fields(values: Mapping[str, Any]) -> None:
    """Print names and values, one pair on each line."""
    cells = dict(zip(values, texts(values.values()), strict=True))
    if on_terminal():
        _pretty().fields(cells)
        return
    width = max(map(len, cells))
    for name, text in cells.items():
        sys.stdout.write(f"{name.ljust(width)}  {text}\n")


def result(value: Any, more: str) -> None:
    """Print a job's result as JSON; a terminal shows the start of a long one, and the command *more* for the rest."""
    text = _json(value, indent=2)
    if on_terminal():
        _pretty().json([printable(part) for part in text.splitlines()], more)
    else:
        sys.stdout.write(text + "\n")


def _json(value: Any, indent: int | None = None) -> str:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=indent, ensure_ascii=not unicode, allow_nan=False)
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """The character as a JSON escape, or unchanged if a terminal shows it as it is."""
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f")


def texts(values: Iterable[Any]) -> list[str]:
    """Return the cells that tables and fields show for *values*."""
    return ["-" if value is None or value == "" else printable(str(value)) for value in values]


def _pretty() -> Any:
    return import_module("mirrorneuron.cli.terminal.widgets")
