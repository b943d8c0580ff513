"""The end of a command in the copy of a warm interpreter: it leaves out what nobody could notice.

At its end an interpreter clears all modules and frees all objects. In a copy that writes to most pages of its memory,
which are shared until then, and takes longer than all the rest. If no object is left whose end could show (one with
`__del__`, an open file, a generator that is suspended, a callback on a weak reference), and no code that is not Python,
but for known modules of the standard library, the copy exits as soon as the exit handlers have run. Else, and whenever
anything is unusual, the interpreter ends as always. The frames of this file are hidden, too. Only audit hooks could
tell the difference, and in Python 3.11 a profile function that is still set at the end.

This file is part of the program of `workers.runners.warm_server`, and imports no module that stays.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST_OBJECTS = 50_000  # to be looked at; with more, the interpreter's own end is not what takes long
_HAS_GC = 1 << 14  # flag of types whose objects the garbage collector knows
#: Modules of the standard library that are not written in Python, and keep nothing that must be written at the end.
# fmt: off
_HARMLESS = frozenset(
    {
        "_asyncio", "_bisect", "_blake2", "_bz2", "_contextvars", "_csv", "_datetime", "_decimal",
        "_elementtree", "_hashlib", "_heapq", "_json", "_lzma", "_md5", "_opcode", "_pickle",
        "_posixsubprocess", "_queue", "_random", "_sha1", "_sha2", "_sha256", "_sha3", "_sha512", "_socket",
        "_ssl", "_statistics", "_struct", "_typing", "_uuid", "_zoneinfo", "array", "binascii", "cmath",
        "fcntl", "grp", "math", "pyexpat", "resource", "select", "termios", "unicodedata", "zlib",
    }
)
# fmt: on
_ends: "dict[type, bool]" = {}  # type -> whether the end of its objects may be noticed
#: Modules of the standard library whose callbacks on weak references only tidy up their own tables.
_TIDY = ("_weakrefset", "functools", "logging", "weakref")
_TIDY_FUNCTIONS = ("_destroy", "_localdummy_destroyed")  # the same, not written in Python: of `_abc` and `_thread`
#: The attributes of a class itself: a metaclass may define others of these names.
_bases_of, _names_of, _flags_of = (type.__dict__[name].__get__ for name in ("__mro__", "__dict__", "__flags__"))


class Ending:
    """Around the command: notices the exit status, and may exit with it after the other exit handlers."""

    def __init__(self) -> None:
        modules = set(sys.modules)
        import atexit  # noqa: PLC0415 - after the line above
        import gc  # noqa: PLC0415

        for name in set(sys.modules) - modules:
            del sys.modules[name]
        self._gc = gc
        self._leave = os._exit
        self._thread = sys.modules["_thread"].get_ident
        self._status: int | None = None
        self._streams = (sys.stdout, sys.stderr)
        self._modules: set[str] = set()
        self._collections: list[int] = []
        self._known: list[Any] = []  #: kept here, so that no other object gets the id of one
        if not atexit._ncallbacks():  # handlers of start-up code would come later
            atexit.register(self._exit)

    def settle(self) -> None:
        """Make all objects old, before the copies: what is young at their end is of their commands."""
        self._gc.collect()
        self._known = list(filter(_shows, self._gc.get_objects()))

    def begin(self) -> None:
        """The command begins: what has been there until now needs no attention."""
        self._modules = set(sys.modules)
        self._collections = self._old_collections()

    def __enter__(self) -> "Ending":
        return self

    def __exit__(self, kind: "type[BaseException] | None", error: "BaseException | None", _traceback: object) -> None:
        if kind is None:
            self._status = 0
        elif kind is SystemExit:
            value = getattr(error, "code", error)
            if value is None or (type(value) is int and 0 <= value < 1 << 31):
                self._status = (value or 0) & 0xFF
        elif not issubclass(kind, SystemExit | KeyboardInterrupt):  # the second ends the process by a signal
            self._status = 1

    def _exit(self) -> None:
        """The exit handler that runs last."""
        try:
            if self._status is not None and self._nothing_is_left():
                for stream in self._streams:
                    stream.flush()
                self._leave(self._status)
        except Exception:  # such as a full disk: the interpreter finds it, too, and reports it
            return

    def _old_collections(self) -> list[int]:
        """How often the collector has moved objects out of the young generations."""
        return [row["collections"] for row in self._gc.get_stats()[1:]]

    def _nothing_is_left(self) -> bool:
        if sys.gettrace() or sys.getprofile() or set(sys._current_frames()) - {self._thread()}:  # other threads
            return False
        if (sys.stdout, sys.stderr) != self._streams or sys.excepthook is not sys.__excepthook__:
            return False
        if sys.unraisablehook is not sys.__unraisablehook__ or self._gc.get_freeze_count():
            return False
        if not all(map(_is_harmless, set(sys.modules) - self._modules)):
            return False
        # To look at old objects costs the pages that they are in. The module `gc` may make young ones old.
        if self._old_collections() == self._collections and "gc" not in sys.modules:
            objects = self._gc.get_objects(generation=0) + self._gc.get_objects(generation=1)
        else:
            objects = self._gc.get_objects()
        return len(objects) <= _MOST_OBJECTS and set(map(id, filter(_shows, objects))) <= set(map(id, self._known))


def _is_harmless(module: str) -> bool:
    if module in _HARMLESS or type(sys.modules[module]) is not type(sys):
        return True
    origin = getattr(sys.modules[module].__dict__.get("__spec__"), "origin", None)
    return not (type(origin) is str and origin.endswith(".so"))


def _shows(thing: "Any") -> bool:
    """True if the end of *thing* may be noticed."""
    kind = type(thing)
    if kind not in _ends:
        _ends[kind] = any(map(_defines_end, _bases_of(kind)))
    if _ends[kind]:
        return True
    if issubclass(kind, type):  # a class whose objects the collector does not know
        return not _flags_of(thing) & _HAS_GC and any(map(_defines_end, _bases_of(thing)))
    if issubclass(kind, sys.modules["_weakref"].ref):
        callback = thing.__callback__
        if type(callback) is type(len) and callback.__name__ in _TIDY_FUNCTIONS:
            return False
        return callback is not None and getattr(callback, "__module__", "") not in _TIDY
    return False


def _defines_end(kind: type) -> bool:
    return "__del__" in _names_of(kind)
