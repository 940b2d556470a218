"""Requests that wait: statistics from all owners, a flush, a leave.

Each ends when what it waits for is so, or when its time is up; nothing here
waits for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pmq.core.effects import Done, Flushed, Resolve, Send, Stats
from p2pmq.core.packets.publishing import QueueStats, StatsReply, StatsRequest
from p2pmq.core.stats import stats_of

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import FlushRequested, LeaveRequested, StatsRequested
    from p2pmq.core.handover import Handovers
    from p2pmq.core.ids import NodeId
    from p2pmq.core.outbox import Outbox
    from p2pmq.core.owner import Owner
    from p2pmq.core.settling import Settling

U32_MASK = 2**32 - 1


@dataclass(slots=True)
class Asking:
    """A question to several owners: who has not answered, and what came so far."""

    token: int
    deadline: int
    waiting: dict[NodeId, None]
    queues: list[QueueStats] = field(default_factory=list)


@dataclass(slots=True)
class Waiting:
    """A flush or a leave that waits until nothing is left, or until its deadline."""

    token: int
    deadline: int
    leaving: bool
    spilling: bool = False


class Requests:
    """The waiting requests of this node."""

    def __init__(
        self, outbox: Outbox, owner: Owner, settling: Settling, handovers: Handovers
    ) -> None:
        self._outbox = outbox
        self._owner = owner
        self._settling = settling
        self._handovers = handovers
        self._asking: dict[int, Asking] = {}
        self._waiting: list[Waiting] = []
        self._next_number = 1

    def on_stats(self, request: StatsRequested, owners: list[NodeId], now: int) -> list[Effect]:
        """Ask the owners; their answers, or the deadline, end it."""
        number = self._next_number
        self._next_number = (self._next_number + 1) & U32_MASK
        waiting: dict[NodeId, None] = dict.fromkeys(owners)
        self._asking[number] = Asking(request.token, now + request.timeout_ms, waiting)
        packets: list[Effect] = [Send(peer, StatsRequest(number, request.queue)) for peer in owners]
        return packets or self._finish_asking(number)

    def on_stats_request(self, peer: NodeId, packet: StatsRequest) -> list[Effect]:
        """Answer a question."""
        reply = StatsReply(packet.number, tuple(stats_of(self._owner, packet.queue)))
        return [Send(peer, reply)]

    def on_stats_reply(self, peer: NodeId, packet: StatsReply) -> list[Effect]:
        """Take an answer."""
        asking = self._asking.get(packet.number)
        if asking is None or peer not in asking.waiting:
            return []
        del asking.waiting[peer]
        asking.queues += packet.queues
        return [] if asking.waiting else self._finish_asking(packet.number)

    def on_flush(self, request: FlushRequested, now: int) -> list[Effect]:
        """Wait until the outbox is empty and settles are confirmed."""
        deadline = now + request.timeout_ms
        self._waiting.append(Waiting(request.token, deadline, leaving=False))
        return self.check(now)

    def on_leave(self, request: LeaveRequested, now: int) -> list[Effect]:
        """Wait until every partition here has been handed over."""
        deadline = now + request.timeout_ms
        self._waiting.append(Waiting(request.token, deadline, leaving=True))
        return self.check(now)

    def check(self, now: int) -> list[Effect]:
        """End what has nothing left to wait for."""
        if not self._waiting:
            return []
        effects: list[Effect] = []
        for waiting in list(self._waiting):
            if waiting.leaving:
                effects += self._check_leave(waiting, now)
            else:
                effects += self._check_flush(waiting, now)
        return effects

    def next_deadline(self) -> int | None:
        """When a request's time is up."""
        if not self._asking and not self._waiting:
            return None  # as nearly always, and it is asked after every event
        deadlines = [asking.deadline for asking in self._asking.values()]
        deadlines += [waiting.deadline for waiting in self._waiting if not waiting.spilling]
        return min(deadlines, default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """End what has waited long enough."""
        effects = self.check(now)
        for number, asking in list(self._asking.items()):
            if asking.deadline <= now:
                effects += self._finish_asking(number)
        return effects

    def _check_flush(self, waiting: Waiting, now: int) -> list[Effect]:
        settles = self._settling.unconfirmed
        if not self._outbox.messages and not settles:
            self._waiting.remove(waiting)
            return [Resolve(waiting.token, Flushed(0, 0))]
        if now < waiting.deadline:
            return []
        if not waiting.spilling:
            waiting.spilling = True
            effects = self._outbox.spill_all()
            if effects:
                return effects
        if self._outbox.writing:
            return []
        self._waiting.remove(waiting)
        outbox = self._outbox
        return [Resolve(waiting.token, Flushed(outbox.messages, settles, outbox.unstored))]

    def _check_leave(self, waiting: Waiting, now: int) -> list[Effect]:
        if self._owner.partitions and now < waiting.deadline:
            return []
        self._waiting.remove(waiting)
        return [Resolve(waiting.token, Done())]

    def _finish_asking(self, number: int) -> list[Effect]:
        asking = self._asking.pop(number)
        return [Resolve(asking.token, Stats(tuple(asking.queues), tuple(asking.waiting)))]
