"""When a job needs its next look: as late as possible, but in time for whatever may be lost meanwhile."""

from __future__ import annotations

from typing import Final

from mirrorneuron.store.look_schedule import claim_bound_ms
from mirrorneuron.store.protocol import ReplyCode, SweepReply

FAR_MS: Final = 24 * 3_600_000  # for a job that only a change from outside can move; a net


def next_look_ms(swept: SweepReply, now_ms: int, lease_ms: int, reminder_s: float | None) -> int:
    """Return when a job is due, that was swept at *now_ms*. *reminder_s*: until waiting agents are announced again.

    A claim is looked at when its lease ends. The worker that renews it changes nothing that the sweeper needs to see.
    """
    moments = [now_ms + FAR_MS]
    if swept.look_ms is not None:
        moments.append(swept.look_ms)
    if swept.waiting or swept.word is ReplyCode.OPEN:
        moments.append(now_ms + claim_bound_ms(lease_ms))
    if reminder_s is not None:
        moments.append(now_ms + int(1_000 * reminder_s))
    return max(now_ms + 1, min(moments))
