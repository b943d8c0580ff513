"""The plan: what the runtime derives from a manifest. Edges by node and type, pools, thresholds, linear runs.

A plan is a pure function of the manifest. Each process computes its own; a plan is never stored or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from jmespath.parser import ParsedResult

from mirrorneuron.bundle.conditions import compile_condition
from mirrorneuron.bundle.manifest import (
    ANY_TYPE,
    DEFAULT_BATCH,
    AgentType,
    Manifest,
    Node,
    OnIdle,
    Policies,
    RoutingMode,
    Template,
)
from mirrorneuron.message import encode
from mirrorneuron.pools import DEFAULT_POOL, LIGHT

LONGEST_RUN: Final = 16  # nodes in one Celery chain; a task message with 1,000 would have 366 KB
LIGHT_TYPES: Final = frozenset({AgentType.ROUTER, AgentType.AGGREGATOR, AgentType.SENSOR})


@dataclass(frozen=True, slots=True)
class PlannedEdge:
    """One outgoing edge of a node."""

    position: int  #: index in the manifest's list of edges
    to: str
    mode: RoutingMode
    condition: ParsedResult | None  #: None matches every message


@dataclass(frozen=True)
class PlannedNode:
    """One node, with everything that a worker needs to run its agent."""

    node_id: str
    agent_type: AgentType
    template: Template
    role: str | None
    config: Mapping[str, Any]
    pool: str  #: LIGHT, or the pool whose slots the agent takes
    threshold: int | None  #: messages that the agent needs before it is ready; None means one
    batch_max: int | None  #: most messages of one claim; None means all in the mailbox
    edges: Mapping[str, tuple[PlannedEdge, ...]] = field(repr=False)  #: by message type, in manifest order
    out_degree: int  #: outgoing edges
    _matching: dict[str, tuple[PlannedEdge, ...]] = field(repr=False, default_factory=dict)

    def edges_for(self, message_type: str) -> tuple[PlannedEdge, ...]:
        """The edges that match *message_type*, wildcards included, in manifest order."""
        wildcards = self.edges.get(ANY_TYPE, ())
        if message_type not in self.edges or message_type == ANY_TYPE:
            return wildcards
        if not wildcards:
            return self.edges[message_type]
        if message_type not in self._matching:  # merged on first use, because types times wildcards may be many
            both = sorted((*self.edges[message_type], *wildcards), key=lambda edge: edge.position)
            self._matching[message_type] = tuple(both)
        return self._matching[message_type]

    @property
    def slots(self) -> int:
        """How many slots of its pool a run takes."""
        return int(self.config.get("pool_slots", 1))

    @property
    def light(self) -> bool:
        return self.pool == LIGHT

    @property
    def shares_claims(self) -> bool:
        """True for a module that handles single messages: its runs may share a claim and a commit with others."""
        module = self.agent_type is AgentType.MODULE and self.threshold is None and self.slots == 1
        return module and not self.config.get("commit_alone")

    @property
    def plain(self) -> bool:
        """True if the store needs no settings for the agent, because the store's defaults apply."""
        return self.light and self.threshold is None and self.batch_max is None


@dataclass(frozen=True)
class Plan:
    """A manifest, ready to run."""

    graph_id: str
    nodes: Mapping[str, PlannedNode]
    entrypoints: tuple[str, ...]
    policies: Policies
    on_idle: OnIdle
    _next: Mapping[str, str] = field(repr=False)  #: node -> the next node of its linear run

    @cached_property
    def pools(self) -> tuple[str, ...]:
        return tuple(sorted({node.pool for node in self.nodes.values()} | {LIGHT}))

    @cached_property
    def opening_pool(self) -> str:
        """The pool whose worker opens a job: that of its entrypoint, so that the same task runs it."""
        return self.nodes[self.entrypoints[0]].pool if len(self.entrypoints) == 1 else LIGHT

    @cached_property
    def batches(self) -> tuple[str, ...]:
        """The agents with the template `batch`; their part-filled batches are flushed before the job counts as idle."""
        return tuple(n.node_id for n in self.nodes.values() if n.template == Template.BATCH)

    @cached_property
    def names_json(self) -> bytes:
        """The ids of all nodes, as the store keeps them in the record of each job."""
        return encode(list(self.nodes))

    @cached_property
    def settings_text(self) -> str:
        """A line of agent, pool, threshold and batch_max, with tabs between, for each agent that is not `plain`.

        None of them contains a tab or the end of a line.
        """
        return "".join(
            f"{name}\t{node.pool}\t{node.threshold or ''}\t{node.batch_max or ''}\n"
            for name, node in self.nodes.items()
            if not node.plain
        )

    @cached_property
    def sinks(self) -> tuple[str, ...]:
        return tuple(n.node_id for n in self.nodes.values() if not n.out_degree)

    @cached_property
    def sharing_pools(self) -> frozenset[str]:
        """The pools of which all agents may share a claim."""
        nodes = self.nodes.values()
        return frozenset({node.pool for node in nodes} - {node.pool for node in nodes if not node.shares_claims})

    def slots(self, pool: str) -> int:
        """The most slots of *pool* that one run takes."""
        return max((node.slots for node in self.nodes.values() if node.pool == pool), default=1)

    def downstream_of(self, start: str) -> list[str]:
        """*start* and every node that its messages can reach along edges."""
        found, at = {start: None}, [start]
        while at:
            node = self.nodes[at.pop()]
            for edge in (edge for group in node.edges.values() for edge in group):
                if edge.to not in found:
                    found[edge.to] = None
                    at.append(edge.to)
        return list(found)

    def linear_run(self, start: str) -> list[str]:
        """The nodes from *start* up to the next fork or join; at most LONGEST_RUN nodes."""
        run = [start]
        while len(run) < LONGEST_RUN and (following := self._next.get(run[-1])) and following not in run:
            run.append(following)
        return run


def make_plan(manifest: Manifest) -> Plan:
    """Plan a validated manifest. Linear in nodes and edges."""
    outgoing: dict[str, list[tuple[str, PlannedEdge]]] = {node.node_id: [] for node in manifest.nodes}
    indegree = dict.fromkeys(outgoing, 0)
    for position, edge in enumerate(manifest.edges):
        condition = compile_condition(edge.expr) if edge.expr else None
        planned = PlannedEdge(position, edge.to_node, edge.routing_mode, condition)
        outgoing[edge.from_node].append((edge.message_type, planned))
        indegree[edge.to_node] += 1
    following = {
        node: edges[0][1].to for node, edges in outgoing.items() if len(edges) == 1 and indegree[edges[0][1].to] == 1
    }
    return Plan(
        graph_id=manifest.graph_id,
        nodes={node.node_id: _plan_node(node, outgoing[node.node_id]) for node in manifest.nodes},
        entrypoints=tuple(manifest.entrypoints),
        policies=manifest.policies,
        on_idle=manifest.policies.on_idle or OnIdle.WAIT,
        _next=following,
    )


def _plan_node(node: Node, edges: list[tuple[str, PlannedEdge]]) -> PlannedNode:
    config = node.config
    light = node.agent_type in LIGHT_TYPES
    threshold, batch_max = None, None if light else 1
    if node.agent_type == AgentType.AGGREGATOR and not config.get("complete_on_message"):
        threshold = config.get("complete_after")
    elif node.type == Template.BATCH:
        threshold = batch_max = int(config.get("batch_size", DEFAULT_BATCH))
    by_type: dict[str, list[PlannedEdge]] = {}
    for kind, edge in edges:
        by_type.setdefault(kind, []).append(edge)
    return PlannedNode(
        node_id=node.node_id,
        agent_type=node.agent_type,
        template=node.type,
        role=node.role,
        config=config,
        pool=LIGHT if light else str(config.get("pool", DEFAULT_POOL)),
        threshold=threshold if threshold and threshold > 1 else None,
        batch_max=batch_max,
        edges={kind: tuple(group) for kind, group in by_type.items()},
        out_degree=len(edges),
    )
