"""Responding: requests that came, those that run, those that wait in line, and their ends.

Each responder has so many handlers at a time and a line of bounded length
before them; what finds no place is refused at once, so that its caller can go
elsewhere. A request ends with its deadline, with its caller's cancellation or
death, whichever is first: who waits in line is dropped, a handler that runs is
stopped. Its place is free only when it has ended.

Invariant: no request is handled twice, and no responder runs more handlers
than it was allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Handle, Notify, Send, StopHandling
from p2pmq.core.ids import JobId
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.packets.requesting import (
    FAILED_NOBODY,
    FAILED_OVERLOADED,
    FAILED_RAISED,
    Reply,
    Request,
    RequestCancelled,
    RequestFailed,
)
from p2pmq.core.recent import Recent
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Container

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import RequestHandled, RespondEnded, RespondRequested
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.interests import Interests
    from p2pmq.core.packets.publishing import Bodies


@dataclass(slots=True)
class Responder:
    """One name that this node answers to. The oldest in `line` is next."""

    name: str
    concurrency: int
    waiting_max: int
    running: dict[JobId, None] = field(default_factory=dict)
    line: dict[JobId, None] = field(default_factory=dict)


@dataclass(slots=True)
class Job:
    """One request that was taken."""

    responder: Responder
    bodies: Bodies
    deadline: int
    stopped: bool = False
    """Nobody waits for its answer any more."""


class Responding:
    """The responders of this node. `roster` has every member that is not gone."""

    def __init__(self, own_id: NodeId, interests: Interests, roster: Container[NodeId]) -> None:
        self._own_id = own_id
        self._interests = interests
        self._roster = roster
        self._responders: dict[str, Responder] = {}
        self._jobs: dict[JobId, Job] = {}
        self._recent: dict[NodeId, tuple[Session, Recent]] = {}
        self._timers: Timers[JobId] = Timers()

    def answers(self, name: str) -> bool:
        """Whether this node answers to a name."""
        return name in self._responders

    # -- the user's responders --

    def on_respond(self, event: RespondRequested) -> None:
        """Answer to a name from now on."""
        self._responders[event.responder] = Responder(
            event.responder, event.concurrency, event.waiting_max
        )

    def on_respond_ended(self, event: RespondEnded) -> list[Effect]:
        """Answer no more: who waits in line is sent elsewhere, what runs may end."""
        responder = self._responders.pop(event.responder, None)
        if responder is None:
            return []
        refused: list[Effect] = []
        for job_id in list(responder.line):
            self._forget(job_id)
            refused.append(_failed(job_id, FAILED_NOBODY))
        return refused

    def on_handled(self, event: RequestHandled, now: int) -> list[Effect]:
        """A handler has ended: tell its caller, and begin with the next in line."""
        job = self._jobs.get(event.job_id)
        if job is None:
            return []
        self._forget(event.job_id)
        effects: list[Effect] = []
        if not job.stopped:
            effects.append(_answer(event))
        return effects + self._begin_next(job.responder, now)

    def _begin_next(self, responder: Responder, now: int) -> list[Effect]:
        effects: list[Effect] = []
        while responder.line and len(responder.running) < responder.concurrency:
            job_id = next(iter(responder.line))
            del responder.line[job_id]
            effects += self._begin(job_id, self._jobs[job_id], now)
        return effects

    def _begin(self, job_id: JobId, job: Job, now: int) -> list[Effect]:
        job.responder.running[job_id] = None
        left_ms = max(0, job.deadline - now)
        return [Handle(job_id, job.responder.name, job.bodies, left_ms)]

    # -- packets --

    def on_request(self, peer: NodeId, packet: Request, now: int) -> list[Effect]:
        """A request came: begin with it, put it in line, or refuse it."""
        batch = packet.batch
        if batch.count != 1 or not batch.ttl_ms:
            return [Notify(Counted("requests_malformed"))]
        job_id = JobId(peer, batch.session, batch.first)
        if peer != self._own_id and peer not in self._roster:
            return [Notify(Counted("requests_of_strangers")), _failed(job_id, FAILED_NOBODY)]
        if not self._is_new(job_id):
            return [Notify(Counted("requests_repeated"))]
        effects = self._interests.on_version(peer, packet.interests, now)
        responder = self._responders.get(packet.responder)
        if responder is None:
            return [*effects, _failed(job_id, FAILED_NOBODY)]
        job = Job(responder, batch.bodies, now + batch.ttl_ms)
        if len(responder.running) < responder.concurrency:
            effects += self._begin(job_id, job, now)
        elif len(responder.line) < responder.waiting_max:
            responder.line[job_id] = None
        else:
            refused = Notify(Counted("requests_refused"))
            return [*effects, refused, _failed(job_id, FAILED_OVERLOADED)]
        self._jobs[job_id] = job
        self._timers.set(job_id, job.deadline)
        return effects

    def on_cancelled(self, peer: NodeId, packet: RequestCancelled) -> list[Effect]:
        """Its caller waits no more; a request that comes after its cancellation is not taken."""
        job_id = JobId(peer, packet.session, packet.number)
        if job_id in self._jobs:
            return self._stop(job_id)
        if peer == self._own_id or peer in self._roster:
            self._is_new(job_id)
        return []

    def _is_new(self, job_id: JobId) -> bool:
        known = self._recent.get(job_id.peer)
        if known is None or known[0] != job_id.session:
            known = self._recent[job_id.peer] = (job_id.session, Recent())
        return known[1].is_new(job_id.number)

    # -- members and time --

    def on_roster(self, alive: Container[NodeId]) -> list[Effect]:
        """Whoever is not alive waits for no answer."""
        for peer in [peer for peer in self._recent if peer not in self._roster]:
            del self._recent[peer]
        gone = {job.peer: None for job in self._jobs if job.peer not in alive}
        effects: list[Effect] = []
        for peer in gone:
            if peer != self._own_id:
                effects += self.on_restarted(peer)
        return effects

    def on_restarted(self, peer: NodeId) -> list[Effect]:
        """The process that asked is no more."""
        effects: list[Effect] = []
        for job_id in [job_id for job_id in self._jobs if job_id.peer == peer]:
            effects += self._stop(job_id)
        return effects

    def next_deadline(self) -> int | None:
        """When a request's time is up."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """End requests whose time is up: their callers have gone."""
        effects: list[Effect] = []
        while (job_id := self._timers.pop_due(now)) is not None:
            effects.append(Notify(Counted("requests_expired")))
            effects += self._stop(job_id)
        return effects

    # -- the end of a request --

    def _stop(self, job_id: JobId) -> list[Effect]:
        """Nobody wants it any more: out of the line, or its handler is stopped."""
        job = self._jobs[job_id]
        self._timers.clear(job_id)
        if job_id not in job.responder.running:
            self._forget(job_id)
            return []
        if job.stopped:
            return []
        job.stopped = True
        return [StopHandling(job_id)]

    def _forget(self, job_id: JobId) -> None:
        job = self._jobs.pop(job_id)
        self._timers.clear(job_id)
        job.responder.running.pop(job_id, None)
        job.responder.line.pop(job_id, None)


def _failed(job_id: JobId, reason: int, kind: str = "", text: str = "") -> Effect:
    return Send(job_id.peer, RequestFailed(job_id.session, job_id.number, reason, kind, text))


def _answer(event: RequestHandled) -> Effect:
    job_id = event.job_id
    if event.bodies is None:
        return _failed(job_id, FAILED_RAISED, event.kind, event.text)
    return Send(
        job_id.peer, Reply(Batch(job_id.session, job_id.number, 1, event.size, event.bodies))
    )
