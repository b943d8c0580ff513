"""aggregator: collects the bodies of messages until its rule holds, then fires: sends all of them in one message.

With `complete_after: n` the agent does not run until its mailbox holds n messages. The mailbox is the collection, so
collected bodies are not rewritten with each message. The state holds under `collected` only the fewer than n bodies
that remain after a run: because of a duplicate, an expired message, or more mail than one firing takes.
"""

from __future__ import annotations

from typing import Any, Final

from mirrorneuron.agent import Action, Complete, Emit
from mirrorneuron.job import EventType
from mirrorneuron.message import Message
from workers.agents.draft import Draft

KNOWN_IDS: Final = 100  # newest message ids kept in the state, to recognize redelivered messages after a firing


def handle(draft: Draft) -> None:
    """Collect the draft's messages, and fire as often as the rule holds. Raises RunFailed."""
    config, state = draft.node.config, draft.state
    on_message, threshold = bool(config.get("complete_on_message")), config.get("complete_after")
    collected: list[tuple[str, Any]] = [(name, body) for name, body in state.pop("collected", [])]
    recent: list[str] = state.get("recent", [])
    seen = {*recent, *(name for name, _ in collected)}
    fresh: list[str] = []
    for message in draft.until_full():
        if message.id in seen:
            draft.record(EventType.AGGREGATOR_DUPLICATE_IGNORED, {"message_id": message.id, "from": message.sender})
            continue
        seen.add(message.id)
        fresh.append(message.id)
        if not (on_message or threshold):
            continue  # without a rule the aggregator never fires and only counts
        collected.append((message.id, message.body))
        if on_message or len(collected) >= (threshold or 1):
            _fire(draft, message, [body for _, body in collected])
            collected = []
    state["received"] = state.get("received", 0) + len(fresh)
    state["recent"] = [*recent, *fresh][-KNOWN_IDS:]
    if threshold and not on_message:
        if collected:
            state["collected"] = collected
        draft.set_threshold(threshold - len(collected))
    draft.record(EventType.AGGREGATOR_RECEIVED, {"count": len(fresh), "collected": len(collected)})


def _fire(draft: Draft, cause: Message, bodies: list[Any]) -> None:
    config = draft.node.config
    output_type = config.get("output_message_type")
    output = {"messages": bodies, "count": len(bodies), "last_message": bodies[-1]}
    actions: list[Action] = []
    if output_type:
        actions.append(Emit(output_type, output))
    if config.get("complete_job", not output_type):
        actions.append(Complete(output))
    draft.state["fired"] = draft.state.get("fired", 0) + 1
    draft.apply(cause, actions)
