"""sensor: emits the body of each message; with `complete_job`, completes the job after `complete_after` messages."""

from __future__ import annotations

from mirrorneuron.agent import Complete, Emit
from mirrorneuron.bundle.manifest import SENSOR_READY
from mirrorneuron.job import EventType
from workers.agents.draft import DefaultEmit, Draft


def handle(draft: Draft) -> None:
    """Emit the draft's messages as observations, and complete the job if asked to. Raises RunFailed."""
    config = draft.node.config
    output_type = config.get("output_message_type")
    for message in draft.until_full():
        count = draft.state["observations"] = draft.state.get("observations", 0) + 1
        draft.record(EventType.SENSOR_OBSERVED, {"message_id": message.id, "type": message.type, "count": count})
        action = Emit(output_type, message.body) if output_type else DefaultEmit(SENSOR_READY, message.body)
        draft.apply(message, [action])
        if config.get("complete_job") and count >= config.get("complete_after", 1):
            draft.apply(message, [Complete({"count": count, "last_message": message.body})])
