"""Where a job starts: its entrypoints, and the initial inputs of its nodes."""

from __future__ import annotations

from typing import Any, Final

from mirrorneuron.bundle.manifest import ROOT_ROLES
from mirrorneuron.bundle.manifest_draft import Draft
from mirrorneuron.bundle.parse import below, kind
from mirrorneuron.message import seed

MAX_SEEDS: Final = 1_000_000  #: initial messages of a job; they are written in one step with the job's record


def entrypoints(raw: Any, draft: Draft) -> list[str]:
    """The given entrypoints, or the nodes with a root role if none are given; in order, without duplicates."""
    if isinstance(raw, str):
        raw, single = [raw], True
    else:
        single = False
    if raw is not None and not isinstance(raw, list):
        draft.issue("entrypoints", f"must be a list of node ids, not {kind(raw)}")
        return []
    if not raw:
        return _roots_by_role(draft)
    names: dict[str, None] = {}
    for index, name in enumerate(raw):
        if not isinstance(name, str) or name not in draft.ids:
            draft.unknown_node("entrypoints" if single else below("entrypoints", index), name)
        else:
            names[name] = None
    return list(names)


def _roots_by_role(draft: Draft) -> list[str]:
    roots = [node.get("node_id") for _, node, _ in draft.nodes if _role(node) in ROOT_ROLES]
    if not roots and draft.nodes:
        hint = 'set `entrypoints`, or give a node the role "root"'
        draft.issue("entrypoints", "the graph has no entrypoint", hint)
    return list(dict.fromkeys(name for name in roots if isinstance(name, str)))


def _role(node: dict[str, Any]) -> str:
    role = node.get("role")
    return role if isinstance(role, str) else ""


def initial_inputs(
    raw: Any, entrypoints: list[str], draft: Draft, where: str = "initial_inputs"
) -> dict[str, list[Any]]:
    """Node id -> payloads. An entrypoint without a payload gets one empty payload. *where* is the path of *raw*."""
    if isinstance(raw, list):
        for index, payload in enumerate(raw):
            _check_seed(payload, below(where, index), draft)
        hint = "a list goes to every entrypoint; use an object to give each node its own inputs"
        if too_many(len(raw) * len(entrypoints), draft, where, hint):
            return {}
        return {name: list(raw) or [{}] for name in entrypoints}
    if raw is not None and not isinstance(raw, dict):
        draft.issue(where, f"must be an object or a list, not {kind(raw)}")
        return {}
    inputs: dict[str, list[Any]] = {name: [{}] for name in entrypoints}
    for name, given in (raw or {}).items():
        path = below(where, name)
        if name not in draft.ids:
            draft.unknown_node(path, name)
        elif isinstance(given, list):
            for index, payload in enumerate(given):
                _check_seed(payload, below(path, index), draft)
            if given:
                inputs[name] = given
        elif given is not None:
            _check_seed(given, path, draft)
            inputs[name] = [given]
    too_many(sum(map(len, inputs.values())), draft, where)
    return inputs


def too_many(messages: int, draft: Draft, where: str, hint: str = "") -> bool:
    if messages > MAX_SEEDS:
        draft.issue(where, f"would make {messages} messages; at most {MAX_SEEDS} are allowed", hint)
    return messages > MAX_SEEDS


def _check_seed(payload: Any, path: str, draft: Draft) -> None:
    try:
        seed(payload, job_id="", to="", message_id="", timestamp="")
    except ValueError as error:
        draft.issue(path, str(error))
