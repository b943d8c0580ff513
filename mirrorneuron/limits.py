"""Limits and switches that several modules share, and that must not load the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MOST: Final = 10**12  #: upper bound of every integer setting: 31 years in ms, 1 TB in bytes
ALLOW_UNSANDBOXED: Final = "MIRROR_NEURON_ALLOW_UNSANDBOXED"
_TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})  # the words that Settings reads as true


def unsandboxed_allowed(environ: Mapping[str, str]) -> bool:
    """The setting `allow_unsandboxed` in *environ*, for validation, which does not load the other settings."""
    return environ.get(ALLOW_UNSANDBOXED, "").lower() in _TRUE
