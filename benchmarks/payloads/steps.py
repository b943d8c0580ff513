"""Module agents whose work is that of `benchmarks.work.step`."""

from __future__ import annotations

from mirrorneuron import Agent


class Step(Agent):
    """Count `n` up; end the job if `config.last`."""

    def handle(self, message, context):
        value = {**message.body, "n": message.body["n"] + 1}
        if context.config.get("last"):
            context.complete_job(value)
        else:
            context.emit("next", value)
