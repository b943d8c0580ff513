"""router: forwards each body, with `emit_type` or the type it came with."""

from __future__ import annotations

from mirrorneuron.agent import Emit
from workers.agents.draft import DefaultEmit, Draft, received


def handle(draft: Draft) -> None:
    emit_type = draft.node.config.get("emit_type")
    taken = []
    for message in draft.until_full():
        action = Emit(emit_type, message.body) if emit_type else DefaultEmit(message.type, message.body)
        draft.apply(message, [action])
        taken.append(message)
    received(draft, taken)
