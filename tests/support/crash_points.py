"""The values of `FAULT` for `tests.support.crashing`, which only a worker imports: it changes the workers' modules."""

from __future__ import annotations

KILLING = ("claimed", "ran", "before_commit", "after_commit", "before_publish", "after_publish")
SHARED = ("claimed", "ran", "before_commit", "before_early_commit", "after_early_commit")  # while runs share a claim
LASTING = ("calls_twice", "tasks_twice", "tasks_dropped", "clock_ahead", "clock_behind")
