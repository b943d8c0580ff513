"""Fixtures of the script tests. To run the state machine for longer:

pytest tests/scripts --hypothesis-profile=long --timeout=0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.store.scripts import NO_LIMITS, Limits
from tests.scripts.machine.stage import WIDE, Kind, Stage

settings.register_profile("long", max_examples=5_000, stateful_step_count=100, deadline=None, print_blob=True)


@pytest.fixture
def stage(redis_url: str) -> Iterator[Callable[..., Stage]]:
    """Make stages, each in a separate namespace: `stage(x=EXECUTOR)`, with policies if needed."""
    made: list[Stage] = []

    def make(policies: Policies = NO_LIMITS, limits: Limits = WIDE, **kinds: Kind) -> Stage:
        made.append(Stage(redis_url, kinds, policies, limits))
        return made[-1]

    yield make
    for one in made:
        one.redis.close()
