"""Limits that several modules share."""

from __future__ import annotations

from typing import Final

MOST: Final = 10**12  #: upper bound of every integer setting: 31 years in ms, 1 TB in bytes
