"""router: forwards each body, with `emit_type` or the type it came with."""

from __future__ import annotations

from mirrorneuron.agent import Emit
from workers.agents.draft import Draft, Quiet, received


def handle(draft: Draft) -> None:
    emit_type = draft.node.config.get("emit_type")
    taken = []
    for message in draft.each():
        action = Emit(emit_type, message.body) if emit_type else Quiet(message.type, message.body)
        draft.answer(message, [action])
        taken.append(message)
    received(draft, taken)
