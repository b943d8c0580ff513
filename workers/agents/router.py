"""router: forwards the body of each message, with the type `emit_type` or else the message's own type."""

from __future__ import annotations

from mirrorneuron.agent import Emit
from workers.agents.draft import DefaultEmit, Draft, record_received


def handle(draft: Draft) -> None:
    """Forward the draft's messages. Raises RunFailed."""
    emit_type = draft.node.config.get("emit_type")
    forwarded = []
    for message in draft.until_full():
        action = Emit(emit_type, message.body) if emit_type else DefaultEmit(message.type, message.body)
        draft.apply(message, [action])
        forwarded.append(message)
    record_received(draft, forwarded)
