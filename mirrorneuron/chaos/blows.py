"""Carry out one strike of the crash test, and schedule what undoes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from mirrorneuron.chaos import descriptors, process_tree, producer, victims
from mirrorneuron.chaos.feed import Feed
from mirrorneuron.chaos.graphs import Graph
from mirrorneuron.chaos.repairs import AGAIN_S, Repair, Repairs
from mirrorneuron.chaos.schedule import CHOICES, Kind, Strike
from mirrorneuron.chaos.server import REFUSALS
from mirrorneuron.chaos.stage import LEASE_MS, Actor, Stage
from mirrorneuron.chaos.victims import Victim
from mirrorneuron.text import count

# How long something lasts, in seconds: the minimum, and the range above it.
DOWN_S: Final = (0.2, 1.0)  #: a killed node or server stays down
FROZEN_S: Final = (0.3, 2.2)  #: the server stays frozen
HUNG_S: Final = (LEASE_MS / 1000 + 0.5, 2.0)  #: a worker stays stopped: its claims are taken over meanwhile
SLOW_S: Final = (1.0, 3.0)  #: the network of a node stays slow
BACK_S: Final = (0.5, 2.5)  #: of the server's writes are lost
REFUSED_S: Final = (0.5, 2.5)  #: something is refused
STEP_S: Final = (180.0, 420.0)  #: the clock steps by this; longer than `STUCK_S`, so that what waits for it is stuck
DELAY_S: Final = 0.25  #: of a slow network, in each direction


class Blows:
    """Hits *stage*. *jobs* holds the jobs of the schedule by their ids. Single-threaded, like the stage."""

    def __init__(self, stage: Stage, name: str, jobs: Mapping[str, Graph], repairs: Repairs) -> None:
        self.feeds: list[Feed] = []
        self.resubmitted = 0  #: jobs that a server with older data did not have
        self.refused_writes = 0
        self._stage = stage
        self._name = name
        self._jobs = jobs
        self._repairs = repairs
        self._travels = False  #: is a copy of the data waiting to be used?

    def hit(self, strike: Strike) -> str:
        """Carry out one strike. Returns a line that describes it, or "" if there is no victim."""
        match strike.kind:
            case Kind.SERVER | Kind.FREEZE | Kind.TRAVEL | Kind.CLOCK:
                return self._hit_server(strike) if self._stage.server.answers else ""
            case Kind.CLIENT:
                return self._hit_client()
            case Kind.FEED:
                return self._hit_feed(strike)
            case Kind.HALF_OPEN | Kind.CUT | Kind.SLOW:
                return self._hit_network(strike)
            case Kind.REFUSE:
                return self._refuse(strike)
            case _:
                return self._hit_process(strike)

    def go_on(self) -> None:
        """Send the messages that are due."""
        for feed in self.feeds:
            if self._stage.server.takes_writes:
                feed.go_on()

    def refused(self) -> Counter[str]:
        """Return how often what was refused, as far as it is known."""
        opens = sum(descriptors.count_refused(node) for node in self._stage.nodes)
        return Counter({"writes": self.refused_writes, "descriptors": opens})

    def _hit_process(self, strike: Strike) -> str:
        found = victims.on_nodes(strike.kind, self._stage)
        if not found:
            return ""
        victim = found[strike.which % len(found)]
        if strike.kind is Kind.HANG:
            return self._hang(strike, victim)
        victim.kill()
        if strike.kind is Kind.NODE:
            self._repairs.later(DOWN_S, strike, self._restart_nodes)
        return f"killed {victim.name}"

    def _hit_server(self, strike: Strike) -> str:
        server = self._stage.server
        match strike.kind:
            case Kind.FREEZE:
                server.freeze()
                frozen_s = self._repairs.later(FROZEN_S, strike, server.thaw)
                return f"froze the server for {frozen_s:.1f} s"
            case Kind.TRAVEL:
                return self._travel(strike)
            case Kind.CLOCK:
                by_s = (STEP_S[0] + STEP_S[1] * strike.which / CHOICES) * (1 if strike.which % 2 else -1)
                server.clock.step(by_s)
                return f"set the clock of the server by {by_s:+.0f} s"
            case _:
                server.kill()
                down_s = self._repairs.later(DOWN_S, strike, server.start)
                return f"killed the server, restart in {down_s:.1f} s"

    def _travel(self, strike: Strike) -> str:
        """Copy the data of the server. Some seconds later it is killed, and starts again with the copy."""
        if self._travels:
            return ""
        self._travels = True
        past = self._stage.server.remember()
        back_s = self._repairs.later(BACK_S, strike, self._once_up(partial(self._go_back, strike, past)))
        return f"copied the data of the server, which goes back to them in {back_s:.1f} s"

    def _go_back(self, strike: Strike, past: Path) -> None:
        self._stage.server.kill()
        self._stage.server.go_back(past)
        self._travels = False
        self._repairs.later(DOWN_S, strike, self._arrive)

    def _arrive(self) -> str:
        """Start the server with the older data; what it has lost is submitted and sent again."""
        stage = self._stage
        if stage.producer.alive:  # it believes that what it has submitted is there
            stage.producer.kill()
        stage.server.start()
        submitted = producer.submitted(stage.folder)
        gone = [job_id for job_id in submitted if stage.store.read_job(job_id) is None]
        producer.forget(stage.folder, [*gone, *(job_id for job_id in submitted if self._jobs[job_id].feed)])
        for feed in self.feeds:
            feed.again()
        self.resubmitted += len(gone)
        return f"the server has its older data: {count(len(gone), 'job')} of {len(submitted)} to be submitted again"

    def _refuse(self, strike: Strike) -> str:
        """Let the server refuse writes, or a worker open no files. The end of one blow on a worker ends all of them."""
        nodes = self._stage.nodes if descriptors.POSSIBLE else []
        choices: list[str | Actor] = [*REFUSALS, *nodes]
        chosen = choices[strike.which % len(choices)]
        if isinstance(chosen, Actor):
            return self._refuse_files(strike, chosen)
        server = self._stage.server
        if not server.takes_writes:
            return ""
        server.refuse_writes(chosen)
        refused_s = self._repairs.later(REFUSED_S, strike, self._once_up(self._take_writes))
        return f"let the server refuse writes ({chosen}) for {refused_s:.1f} s"

    def _refuse_files(self, strike: Strike, node: Actor) -> str:
        if not node.alive or not descriptors.take_from(node):
            return ""
        refused_s = self._repairs.later(REFUSED_S, strike, partial(descriptors.give_back, node))
        return f"let the pool worker of node {node.name} open no files for {refused_s:.1f} s"

    def _take_writes(self) -> None:
        self.refused_writes += self._stage.server.take_writes()

    def _once_up(self, repair: Repair) -> Repair:
        """Return a repair that waits until the server answers, and then does *repair*."""

        def repair_or_wait() -> object:
            if self._stage.server.answers:
                return repair()
            self._repairs.after(AGAIN_S, repair_or_wait)
            return None

        return repair_or_wait

    def _hang(self, strike: Strike, victim: Victim) -> str:
        if not process_tree.stop(victim.pid):
            return ""
        hung_s = self._repairs.later(HUNG_S, strike, partial(process_tree.resume, victim.pid))
        return f"stopped {victim.name} for {hung_s:.1f} s"

    def _hit_network(self, strike: Strike) -> str:
        """Disturb the connections of one node. One that is slow already would become fast too early."""
        number = strike.which % len(self._stage.nodes)
        node, network = self._stage.nodes[number], self._stage.networks[number]
        if not self._stage.server.answers or (strike.kind is Kind.SLOW and network.is_slow):
            return ""
        match strike.kind:
            case Kind.HALF_OPEN:
                changed = network.make_dead()
                said = f"made {count(changed, 'connection')} of node {node.name} half-open"
            case Kind.CUT:
                changed, said = network.cut_replies(), f"cut the next replies to node {node.name}"
            case _:
                changed = network.slow_down(DELAY_S)
                slow_s = self._repairs.later(SLOW_S, strike, partial(network.slow_down, 0))
                said = f"slowed {count(changed, 'connection')} of node {node.name} for {slow_s:.1f} s"
        return said if changed else ""

    def _hit_feed(self, strike: Strike) -> str:
        """Start a job whose announcement is lost. It is not one of the jobs of the schedule."""
        if not self._stage.server.takes_writes:
            return ""
        feed = Feed(self._stage, f"{self._name}-feed-{len(self.feeds)}", opening=strike.which % 2 == 0)
        feed.submit()
        self.feeds.append(feed)
        return f"lost an announcement of job {feed.job_id}, which gets messages all the time"

    def _hit_client(self) -> str:
        """Kill the producer if it is submitting a job now."""
        if not producer.trying(self._stage.folder).exists() or not self._stage.producer.alive:
            return ""
        self._stage.producer.kill()
        return "killed the producer while it submitted"

    def _restart_nodes(self) -> None:
        for node in self._stage.nodes:
            if not node.alive:
                node.start()
