"""router: forwards each body, with `emit_type` or the type it came with."""

from __future__ import annotations

from mirrorneuron.agent import Emit
from workers.step import Draft, Quiet, received


def handle(draft: Draft) -> None:
    received(draft)
    emit_type = draft.node.config.get("emit_type")
    for message in draft.messages:
        action = Emit(emit_type, message.body) if emit_type else Quiet(message.type, message.body)
        draft.answer(message, [action])
