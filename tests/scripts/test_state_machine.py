"""A Hypothesis state machine calls the scripts and the model in random order and compares them after each step.

Its rules are in `workers`, `operators` and `sweepers`, the invariants in `invariants`, the model in `model`, `controls`
and `recovery`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.scripts.machine.invariants import Invariants

SHORT = settings(
    max_examples=45,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def test_the_scripts_do_what_the_model_says(redis_url: str) -> None:
    chosen = settings() if settings.get_current_profile_name() == "long" else SHORT
    run_state_machine_as_test(type("Machine", (Invariants,), {"url": redis_url}), settings=chosen)
