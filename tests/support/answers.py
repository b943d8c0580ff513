"""Answers of commands, as a run reads them from a stream that was not cut."""

from __future__ import annotations

from workers.agents.executor_output import Answer, parse_answer
from workers.runners.answer import find_answer


def parse_output(stdout: str) -> Answer | None:
    """The answer on *stdout*; None for plain output. Raises ValueError for an answer that cannot be carried out."""
    text = find_answer(stdout)
    return None if text is None else parse_answer(text)
