"""An agent that counts by sending messages to itself."""

from __future__ import annotations

from mirrorneuron import Agent


class Counter(Agent):
    """Count up to `limit`, one message a step; record an event every `report_every` steps."""

    def handle(self, message, context):  # noqa: ARG002
        count = self.state.get("count", 0) + 1
        self.state["count"] = count
        if count % context.config["report_every"] == 0:
            context.event("counter_progress", {"count": count})
        if count >= context.config["limit"]:
            context.complete_job({"count": count})
        else:
            context.emit("tick", {"count": count})
