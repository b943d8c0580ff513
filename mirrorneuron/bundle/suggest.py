"""Suggestions for unknown words: `did you mean "aggregate"?`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final

CUTOFF: Final = 0.75  #: similarity from 0 to 1 at which a word is suggested


@lru_cache(maxsize=1024)
def did_you_mean(word: str, known: tuple[str, ...], cutoff: float = CUTOFF) -> str:
    """`did you mean "aggregate"?`, or "" if no word of *known* (a small, fixed choice) is similar."""
    return _nearest(word, known, cutoff)


def one_of(word: str, known: tuple[str, ...]) -> str:
    """A suggestion from *known*, or the list of all its words if none is similar."""
    return did_you_mean(word, known) or f"one of: {', '.join(known)}"


class Suggestions:
    """Suggests names from large choices, with a limit on the comparisons in total.

    Without the limit, a graph in which every edge is wrong would compare every edge with every node.
    """

    BUDGET = 20_000  #: comparisons, about a tenth of a second

    def __init__(self) -> None:
        self._left = self.BUDGET

    def near(self, word: str, known: Iterable[str]) -> str:
        """`did you mean "aggregate"?`, or ""."""
        if self._left <= 0:
            return ""
        sample = list(islice(known, self._left))
        self._left -= max(1, len(sample))
        return _nearest(word, sample)


def _nearest(word: str, known: Sequence[str], cutoff: float = CUTOFF) -> str:
    near = difflib.get_close_matches(word[:200], known, n=1, cutoff=cutoff)
    return f'did you mean "{near[0]}"?' if near else ""
