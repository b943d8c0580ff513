"""The manifest: its words and its models. Which manifests are right is decided in `validation`.

The models are what a manifest *is* once it has been checked: aliases are resolved and defaults filled in. They can be
changed by the caller and checked again; unknown keys are kept in `model_extra`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final

from mirrorneuron.bundle.conditions import normalise
from mirrorneuron.bundle.schema import Model
from mirrorneuron.limits import MOST

VERSION: Final = "1.0"
ROOT_ROLES: Final = frozenset({"root", "root_coordinator"})
ANY_TYPE: Final = "*"
EXECUTOR_RESULT: Final = "executor_result"  # what an executor and a sensor emit unless their config names another type
SENSOR_READY: Final = "sensor_ready"


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
    FIRST_MATCH = "first_match"  #: the first matching edge in manifest order
    ROUND_ROBIN = "round_robin"  #: one matching edge in turn


class RecoveryMode(StrEnum):
    LOCAL_RESTART = "local_restart"
    CLUSTER_RECOVER = "cluster_recover"  #: any node runs the agent again
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
TEMPLATES: Final[dict[AgentType, frozenset[Template]]] = {  # which templates an agent type can have
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
        """The condition as plain JMESPath; None where the edge has none."""
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
    tool_bindings: Any = None  #: this and the next three are passed through
    retry_policy: Any = None
    checkpoint_policy: Any = None
    spawn_policy: Any = None


@dataclass(kw_only=True)
class Policies(Model):
    recovery_mode: RecoveryMode = RecoveryMode.LOCAL_RESTART
    placement_policy: _Text = "local"
    #: a message whose run has killed its worker this often fails the job
    max_agent_restart_attempts: Annotated[int, ("ge", 0), ("le", 1_000_000)] = 3
    job_timeout_ms: _Milliseconds | None = None  #: the job fails at this age
    #: None only before validation, which puts the default of the graph here
    on_idle: OnIdle | None = None
    idle_timeout_ms: _Milliseconds | None = None  #: fails a job that is idle longer


@dataclass(kw_only=True)
class Manifest(Model):
    manifest_version: str
    graph_id: Annotated[str, ("min_length", 1), ("max_length", 200)]
    job_name: str = ""  #: after validation `graph_id` unless it was given
    daemon: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    entrypoints: list[str] = field(default_factory=list)  #: after validation never empty
    #: after validation node id -> payloads, at least one an entrypoint
    initial_inputs: dict[str, list[Any]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    policies: Policies = field(default_factory=Policies)
