"""The manifest: its choices, its models, and their descriptions. `validate` decides which manifests are valid.

The models describe a validated manifest: aliases are resolved and defaults are filled in. The caller may change a
model and validate it again. Unknown keys are kept in `model_extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from mirrorneuron.bundle.conditions import normalise
from mirrorneuron.bundle.schema import Model
from mirrorneuron.limits import MOST

VERSION: Final = "1.0"
ROOT_ROLES: Final = frozenset({"root", "root_coordinator"})
ANY_TYPE: Final = "*"
EXECUTOR_RESULT: Final = "executor_result"  # default types that an executor and a sensor emit
SENSOR_READY: Final = "sensor_ready"
DEFAULT_BATCH: Final = 10  # messages of one run with the template `batch`


class AgentType(StrEnum):
    ROUTER = "router"
    EXECUTOR = "executor"
    AGGREGATOR = "aggregator"
    SENSOR = "sensor"
    MODULE = "module"

    @classmethod
    def _missing_(cls, value: object) -> AgentType | None:
        return AGENT_TYPE_ALIASES.get(value) if isinstance(value, str) else None


class Template(StrEnum):
    GENERIC = "generic"
    MAP = "map"
    REDUCE = "reduce"
    STREAM = "stream"
    BATCH = "batch"

    @classmethod
    def _missing_(cls, value: object) -> Template | None:
        return TEMPLATE_ALIASES.get(value) if isinstance(value, str) else None


class RoutingMode(StrEnum):
    BROADCAST = "broadcast"  #: every matching edge gets the message
    FIRST_MATCH = "first_match"  #: only the first matching edge in manifest order gets the message
    ROUND_ROBIN = "round_robin"  #: one matching edge gets the message, in turn


class RecoveryMode(StrEnum):
    LOCAL_RESTART = "local_restart"
    CLUSTER_RECOVER = "cluster_recover"  #: any runtime node runs the agent again
    MANUAL_RECOVER = "manual_recover"  #: the job is paused until `resume`


class OnIdle(StrEnum):
    WAIT = "wait"
    COMPLETE = "complete"
    FAIL = "fail"


AGENT_TYPE_ALIASES: Final = {
    "relay": AgentType.ROUTER,
    "sandbox_worker": AgentType.EXECUTOR,
    "collector": AgentType.AGGREGATOR,
}
TEMPLATE_ALIASES: Final = {"accumulator": Template.REDUCE}
TEMPLATES: Final[dict[AgentType, frozenset[Template]]] = {  # agent type -> its allowed templates
    AgentType.ROUTER: frozenset({Template.GENERIC, Template.MAP}),
    AgentType.EXECUTOR: frozenset(Template),
    AgentType.MODULE: frozenset(Template),
    AgentType.AGGREGATOR: frozenset({Template.GENERIC, Template.REDUCE}),
    AgentType.SENSOR: frozenset({Template.GENERIC}),
}

_Text = Annotated[str, ("min_length", 1)]
_Milliseconds = Annotated[int, ("ge", 1), ("le", MOST)]


@dataclass(kw_only=True)
class Conditions(Model):
    expr: str | None = None  #: JMESPath over the message, or the `${payload.x} == "low"` form


@dataclass(kw_only=True)
class Edge(Model):
    from_node: str
    to_node: str
    message_type: _Text  #: `*` matches any type
    edge_id: str | None = None
    routing_mode: RoutingMode = RoutingMode.BROADCAST
    conditions: Conditions | None = None

    @property
    def expr(self) -> str | None:
        """The condition as plain JMESPath; None if the edge has no condition."""
        if self.conditions is None or self.conditions.expr is None:
            return None
        return normalise(self.conditions.expr)


@dataclass(kw_only=True)
class Node(Model):
    node_id: str
    agent_type: AgentType
    type: Template = Template.GENERIC
    role: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tool_bindings: Any = None  #: this key and the next three are kept but not used
    retry_policy: Any = None
    checkpoint_policy: Any = None
    spawn_policy: Any = None


@dataclass(kw_only=True)
class Policies(Model):
    recovery_mode: RecoveryMode = RecoveryMode.LOCAL_RESTART
    placement_policy: _Text = "local"
    #: a message whose run was lost with its worker this many times fails the job
    max_agent_restart_attempts: Annotated[int, ("ge", 0), ("le", 1_000_000)] = 3
    job_timeout_ms: _Milliseconds | None = None  #: the job fails at this age
    #: None before validation; validation fills in the default, which depends on the graph
    on_idle: OnIdle | None = None
    idle_timeout_ms: _Milliseconds | None = None  #: a job that is idle for longer fails


@dataclass(kw_only=True)
class Manifest(Model):
    manifest_version: str
    graph_id: Annotated[str, ("min_length", 1), ("max_length", 200)]
    job_name: str = ""  #: validation fills in `graph_id`
    daemon: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    entrypoints: list[str] = field(default_factory=list)  #: not empty after validation
    #: node id -> payloads; after validation, at least one payload for each entrypoint
    initial_inputs: dict[str, list[Any]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    policies: Policies = field(default_factory=Policies)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read a manifest in any of the forms that a file may have. Raises ManifestError with every error.

        Only the shape is checked. `validate_manifest` checks the rest, and fills in the defaults.
        """
        return super().from_dict(_one_form(raw) if isinstance(raw, Mapping) else raw)


def _one_form(raw: Mapping[str, Any]) -> dict[str, Any]:
    """*raw* with a list of entrypoints, lists of payloads for each node, and without aliases."""
    found = {key: value for key, value in raw.items() if value is not None}
    if isinstance(found.get("long_lived"), bool):
        found.setdefault("daemon", found.pop("long_lived"))
    if isinstance(found.get("entrypoints"), str):
        found["entrypoints"] = [found["entrypoints"]]
    inputs = found.get("initial_inputs")
    if isinstance(inputs, list):
        found["initial_inputs"] = {name: list(inputs) for name in _entrypoints(found)}
    elif isinstance(inputs, Mapping):
        found["initial_inputs"] = {
            name: given if isinstance(given, list) else [given] for name, given in inputs.items() if given is not None
        }
    return found


def _entrypoints(raw: Mapping[str, Any]) -> list[str]:
    """The entrypoints that *raw* names, by themselves or by the roles of nodes."""
    named, nodes = raw.get("entrypoints"), raw.get("nodes")
    if not named:
        rows = [node for node in nodes if isinstance(node, Mapping)] if isinstance(nodes, list) else []
        named = [node.get("node_id") for node in rows if str(node.get("role")) in ROOT_ROLES]
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


#: model -> key -> one line of Markdown for the manifest reference; a test checks that no key is missing
EFFECTS: Final[dict[type[Model], dict[str, str]]] = {
    Manifest: {
        "manifest_version": f"Version of the manifest format; must be `{VERSION}`.",
        "graph_id": "Name of the graph; job ids start with it by default.",
        "job_name": "Name of the job in lists and in the monitor.",
        "daemon": "The job is expected to run until it is cancelled: `on_idle` is then `wait` by default.",
        "metadata": "Any JSON object of at most 16 KiB; in the job map and in lists, which can be filtered by it.",
        "entrypoints": "Ids of the nodes at which the job starts.",
        "initial_inputs": "First messages: an object of node id to payload or list of payloads,"
        " or a list that goes to every entrypoint.",
        "nodes": "The agents of the graph; at least one.",
        "edges": "The connections between nodes.",
        "policies": "Recovery, time limits and what happens when the job is idle.",
    },
    Node: {
        "node_id": "Id of the node, unique in the manifest; at most 200 characters, without `{`, `}` and control"
        " characters; not beginning with `-`.",
        "agent_type": "What the agent does with a message.",
        "type": "Template: how the agent's messages are counted and grouped.",
        "role": "`root` or `root_coordinator` makes the node an entrypoint if `entrypoints` is absent;"
        " other values are only shown.",
        "config": "Settings of the agent; the keys depend on `agent_type`.",
        "tool_bindings": "Kept, not used by the runtime.",
        "retry_policy": "Kept, not used by the runtime; retries are set in `config`.",
        "checkpoint_policy": "Kept, not used by the runtime.",
        "spawn_policy": "Kept, not used by the runtime.",
    },
    Edge: {
        "from_node": "Id of the node that sends.",
        "to_node": "Id of the node that receives.",
        "message_type": f"Type of the messages that the edge carries; `{ANY_TYPE}` matches any type.",
        "edge_id": "Name of the edge, for people; not used by the runtime.",
        "routing_mode": "Which of the matching edges of a node carry a message.",
        "conditions": '`{"expr": "..."}`: the edge carries a message only if the expression holds.',
    },
    Conditions: {
        "expr": "JMESPath over the message, like `body.outputs.branch == 'low'`;"
        ' `${payload.outputs.branch} == "low"` means the same.',
    },
    Policies: {
        "recovery_mode": "What happens to an agent whose worker was lost.",
        "placement_policy": "Kept in the job map, not used by the runtime.",
        "max_agent_restart_attempts": "A message whose run was lost with its worker this many times fails the job;"
        " `0` counts as `1`.",
        "job_timeout_ms": "The job fails at this age, counted from its submission or its last retry, pauses included.",
        "on_idle": "What happens when the job is idle: nothing runs, and no agent is ready or due later.",
        "idle_timeout_ms": "A job that is idle longer than this fails.",
    },
}
#: types and defaults that the models do not show: validation accepts more, or derives the value from other keys
ACCEPTED: Final[dict[str, str]] = {
    "entrypoints": "list of node ids, or one node id",
    "initial_inputs": "object or list",
    "nodes": "list of nodes",
    "edges": "list of edges",
}
DERIVED_DEFAULTS: Final[dict[str, str]] = {
    "job_name": "`graph_id`",
    "entrypoints": "the nodes with role `root` or `root_coordinator`",
    "initial_inputs": "one empty payload `{}` for each entrypoint",
    "nodes": "required",
    "policies": "`{}`",
    "on_idle": "`wait` if `daemon` is true or the graph has an aggregator or a sensor, else `complete`",
}
ALIASES: Final = {"daemon": "long_lived"}
#: each word of a closed choice -> one line of Markdown
MEANINGS: Final[dict[StrEnum, str]] = {
    AgentType.ROUTER: "Forwards each body along its edges.",
    AgentType.EXECUTOR: "Runs a command for each message.",
    AgentType.AGGREGATOR: "Collects bodies and emits them as one message.",
    AgentType.SENSOR: "Emits each message that it gets, from edges and from `send_message`.",
    AgentType.MODULE: "Runs a Python class for each message, with a state that is kept.",
    Template.GENERIC: "Counts nothing.",
    Template.MAP: "Counts `processed` messages.",
    Template.REDUCE: "Counts `processed` messages.",
    Template.STREAM: "Counts `chunks_received` (messages) and `items_seen` (items of bodies that are lists).",
    Template.BATCH: "Runs once for `batch_size` messages, and for the rest before the job is idle."
    " The body is the list of their bodies.",
    RoutingMode.BROADCAST: "Every matching edge carries the message.",
    RoutingMode.FIRST_MATCH: "Of these edges, the first matching one in manifest order carries the message.",
    RoutingMode.ROUND_ROBIN: "Of these edges, one matching edge in turn carries the message.",
    RecoveryMode.LOCAL_RESTART: "Any runtime node runs the agent again.",
    RecoveryMode.CLUSTER_RECOVER: "Any runtime node runs the agent again.",
    RecoveryMode.MANUAL_RECOVER: "The job is paused until it is resumed.",
    OnIdle.WAIT: "The job stays `running`, with `idle_since` in its job map.",
    OnIdle.COMPLETE: "The job ends as `completed` with the last bodies of the nodes without outgoing edges.",
    OnIdle.FAIL: "The job ends as `failed`.",
}
