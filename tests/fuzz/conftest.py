"""How often a property is tried. `tests.fuzz` says how to try it longer."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from mirrorneuron.store import connection

# As in tests/scripts, so that it does not matter which of the two is read last.
settings.register_profile("long", max_examples=5_000, stateful_step_count=100, deadline=None, print_blob=True)


def fuzzed(examples: int) -> settings:
    """*examples* tries in the suite, as many as the profile says by hand."""
    always = settings(deadline=None, suppress_health_check=list(HealthCheck))
    if settings.get_current_profile_name() == "long":
        return always
    # The same values at each run: the suite guards what was found once, and a run that fails for others fails for all.
    return settings(always, max_examples=examples, derandomize=True, database=None)


def is_one_line(error: Exception) -> None:
    """*error* says what is wrong, as a person wants to read it."""
    assert len(str(error).splitlines()) == 1


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """No client gives a server up that is merely slow: an example must fail for its values, and each time it is tried.

    A time-out that hits one try and not the next, or at another line, ends a property as flaky, whatever it says.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONNECT_TIMEOUT_S", "COMMAND_TIMEOUT_S"):
            patch.setattr(connection, name, 100.0)
        yield


@pytest.fixture(scope="module")
def leaving() -> Iterator[None]:
    """For tests that make many clients, as a process makes one: what they leave open is closed when the module ends."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
