"""The text of each script in `lua/`, with the functions that it shares with others, and its SHA-1."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

UNDECLARED_KEYS: Final = "--!df flags=allow-undeclared-keys\n"  # for Dragonfly; a comment for Redis and Valkey

LIBRARIES: Final = {  # of functions, beside the prelude
    "limits": ("create", "commit", "deliver", "retry"),
    "ending": ("commit", "settle", "finish"),
}


def _load(name: str) -> str:
    lua = files("mirrorneuron.store") / "lua"
    parts = ["prelude", *(library for library, users in LIBRARIES.items() if name in users), name]
    return UNDECLARED_KEYS + "".join((lua / f"{part}.lua").read_text("utf-8") for part in parts)


NAMES: Final = (
    "create",
    "claim",
    "commit",
    "renew",
    "flush",
    "settle",
    "finish",
    "pause_resume",
    "deliver",
    "retry",
    "delete",
    "sweep",
    "log",
)
SOURCES: Final = {name: _load(name) for name in NAMES}
SHAS: Final = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SOURCES.items()}
