"""The number of examples of each property. `tests.fuzz` says how to run more."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from mirrorneuron.store import connection

# The same as in tests/scripts, so that the order in which the two are loaded does not matter.
settings.register_profile("long", max_examples=5_000, stateful_step_count=100, deadline=None, print_blob=True)


def fuzzed(examples: int) -> settings:
    """Run *examples* examples in the suite, and as many as the profile says in a run by hand."""
    # Without shrinking and explanation: on Python 3.11 Hypothesis traces each line for them, which takes minutes.
    always = settings(
        deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.reuse, Phase.generate)
    )
    if settings.get_current_profile_name() == "long":
        return always
    # The same values in every run: the suite guards against known faults, and its result must not depend on chance.
    return settings(always, max_examples=examples, derandomize=True, database=None)


def is_one_line(error: Exception) -> None:
    """Check that the text of *error* is one readable line."""
    assert len(str(error).splitlines()) == 1


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """Make clients wait for a slow server: an example must fail because of its values, and every time.

    A timeout in one try and not in the next makes Hypothesis report the property as flaky.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONNECT_TIMEOUT_S", "COMMAND_TIMEOUT_S"):
            patch.setattr(connection, name, 100.0)
        yield


@pytest.fixture(scope="module")
def leaving() -> Iterator[None]:
    """For tests that make many clients: close what they leave open when the module ends."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
