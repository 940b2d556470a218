"""Firing: whoever owns a schedule's queue publishes its ticks, each once in the whole mesh.

A tick is published like any message, under a dot that is derived from the schedule, its
record's stamp, the day and the second of it (as `deadletters` derives those of letters).
So whoever publishes a tick again makes no second message of it: an owner of the other
side of a split, one that took over and cannot know, one whose clock was set back. Nothing
of this is written down. An owner that takes over, or was stopped, makes up for the ticks
of the last MISSED_S; what is older is skipped, and nothing is published for a moment before
the schedule was made.

The wall clock of the owner decides when a tick has come. Clocks of two owners that differ
by less than MISSED_S skip no tick and double none.

Invariant: at most MISSED_S // 60 + 1 ticks of a schedule are under way at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Counted, Notify, Send
from p2pmq.core.hlc import wall_ms_of
from p2pmq.core.ids import ID_BYTES, PartitionKey, Run
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.core.hlc import HybridClock
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Bodies, Confirm
    from p2pmq.core.packets.scheduling import ScheduleRecord
    from p2pmq.core.replication import Replication

MISSED_S = 300
"""So old may a tick be that nobody published in time: a failover takes seconds, a restart of
the whole mesh a minute or two, and clocks that no one looks after are off by minutes."""
DAY_S = 86_400
RESEND_MS = 1_000
RESEND_MAX_MS = 15_000
"""As letters are: each time twice as long."""
INACTIVE_MS = 1_000
"""An owner that reaches too few homes looks again so soon."""


class Clockwork(Protocol):
    """What the core cannot do itself: calendars, and bodies as bytes."""

    def next_tick(self, cron: str, after_s: int) -> int | None:
        """The first tick after that moment, in seconds since 1970; None: there is none."""
        ...

    def bodies(self, record: ScheduleRecord) -> Bodies:
        """The one body of a schedule."""
        ...


@dataclass(slots=True)
class Hand:
    """One schedule in force: up to where its ticks were looked at, and when the next is."""

    record: ScheduleRecord
    through_s: int = 0
    next_s: int | None = None


@dataclass(slots=True)
class Tick:
    """One tick on its way into its queue."""

    key: PartitionKey
    name: str
    at_s: int
    batch: Batch
    sent: int = 0


def tick_session(record: ScheduleRecord, day: int) -> Session:
    """The session under which the ticks of one day are published: so they can be forgotten."""
    name = record.name.encode("utf-8", "surrogatepass")
    data = b"%d/%s/%d/%s/%d/tick" % (len(name), name, record.stamp, record.author, day)
    return hashlib.blake2b(data, digest_size=ID_BYTES).digest()


class Firing:
    """The ticks of the schedules whose queues this node owns."""

    def __init__(
        self, own_id: NodeId, owner: Owner, copies: Replication, clock: HybridClock
    ) -> None:
        self.clockwork: Clockwork | None = None
        """Given by whoever runs the machine; without it nothing fires."""
        self._own_id = own_id
        self._owner = owner
        self._copies = copies
        self._clock = clock
        self._hands: dict[str, Hand] = {}
        self._ticks: dict[tuple[Session, int], Tick] = {}
        self._resends: Timers[tuple[Session, int]] = Timers()
        self._look_at: int | None = None

    def on_change(self, name: str, record: ScheduleRecord | None) -> None:
        """Another record is in force under the name."""
        self._hands.pop(name, None)
        if record is not None and not record.removed and record.queue:
            self._hands[name] = Hand(record)
        for dot in [dot for dot, tick in self._ticks.items() if tick.name == name]:
            self._done(dot)
        self._look_at = self._clock.now

    def on_confirm(self, packet: Confirm) -> None:
        """Some ticks are committed."""
        if not self._ticks:
            return
        confirmed = DotSet(Run(run.session, run.first, run.last) for run in packet.runs)
        for dot in [dot for dot in self._ticks if confirmed.has(*dot)]:
            self._done(dot)

    def on_world_changed(self, now: int) -> list[Effect]:
        """Owners have changed, or the wall clock was read."""
        if not self._hands:
            return []
        for dot in [dot for dot, tick in self._ticks.items() if not self._owner.owns(tick.key)]:
            self._done(dot)  # who owns now finds out by itself
        return self._look(now)

    def is_under_way(self, batch: Batch) -> bool:
        """Whether the batch is a tick that this node has published, and that is not committed."""
        return (batch.session, batch.first) in self._ticks

    def next_deadline(self) -> int | None:
        """When the next tick comes, or one is to be sent again."""
        times = (self._look_at, self._resends.next_deadline())
        return min((at for at in times if at is not None), default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """Publish what has come, and again what is not committed."""
        effects: list[Effect] = []
        while (dot := self._resends.pop_due(now)) is not None:
            effects += self._send(dot, now)
        if self._look_at is not None and now >= self._look_at:
            effects += self._look(now)
        return effects

    # -- within --

    def _look(self, now: int) -> list[Effect]:
        """Publish every tick that has come where this node owns, and find when the next comes."""
        wall_ms = self._clock.wall_ms
        effects: list[Effect] = []
        self._look_at = None
        for hand in self._hands.values():
            key = PartitionKey(hand.record.queue, 0)
            if not self._owner.owns(key):
                hand.through_s, hand.next_s = 0, None
                continue
            self._owner.partition(key)
            effects += self._copies.copies(key, now)[1]
            if self._copies.is_alone(key):
                self._look_by(now + INACTIVE_MS)
            else:
                effects += self._advance(hand, key, wall_ms // 1000, now)
                if hand.next_s is not None:
                    self._look_by(now + max(1, hand.next_s * 1000 - wall_ms))
        return effects

    def _advance(self, hand: Hand, key: PartitionKey, now_s: int, now: int) -> list[Effect]:
        """Move a schedule's hand to this second."""
        if self.clockwork is None:
            return []
        if hand.through_s and hand.next_s is None:
            return []  # it never ticks again
        if hand.next_s is not None and hand.through_s <= now_s < hand.next_s:
            hand.through_s = now_s
            return []
        record = hand.record
        through_s = min(hand.through_s, now_s)  # a clock that was set back: dots absorb repeats
        start_s = max(through_s, now_s - MISSED_S, wall_ms_of(record.stamp) // 1000)
        effects: list[Effect] = []
        tick_s = self.clockwork.next_tick(record.cron, start_s)
        while tick_s is not None and tick_s <= now_s:
            effects += self._fire(record, key, tick_s, now)
            tick_s = self.clockwork.next_tick(record.cron, tick_s)
        hand.through_s, hand.next_s = now_s, tick_s
        return effects

    def _fire(
        self, record: ScheduleRecord, key: PartitionKey, tick_s: int, now: int
    ) -> list[Effect]:
        assert self.clockwork is not None
        day, second = divmod(tick_s, DAY_S)
        session = tick_session(record, day)
        batch = Batch(
            session,
            second + 1,
            1,
            len(record.body),
            self.clockwork.bodies(record),
            ttl_ms=record.ttl_ms,
            priority=record.priority,
        )
        if self._owner.partition(key).seen.covers(Run(session, second + 1, second + 1)):
            return []
        dot = (session, second + 1)
        self._ticks[dot] = Tick(key, record.name, tick_s, batch)
        return [Notify(Counted("schedule_ticks")), *self._send(dot, now)]

    def _send(self, dot: tuple[Session, int], now: int) -> list[Effect]:
        tick = self._ticks[dot]
        if not self._owner.owns(tick.key):
            self._done(dot)
            return []
        late_s = self._clock.wall_ms // 1000 - tick.at_s
        if late_s > MISSED_S and tick.sent:
            self._done(dot)
            text = f"schedule {tick.name!r}: a tick was not committed in {late_s:,} s: given up"
            return [Notify(Counted("schedule_ticks_given_up", text=text, alarming=True))]
        self._resends.set(dot, now + min(RESEND_MAX_MS, RESEND_MS << min(tick.sent, 8)))
        tick.sent += 1
        # No tick waits for another: `previous` is 0, and each dot is final.
        publish = Publish(tick.key.queue, tick.key.number, 0, tick.batch)
        return [Send(self._own_id, publish)]

    def _done(self, dot: tuple[Session, int]) -> None:
        del self._ticks[dot]
        self._resends.clear(dot)

    def _look_by(self, at: int) -> None:
        self._look_at = at if self._look_at is None else min(at, self._look_at)
