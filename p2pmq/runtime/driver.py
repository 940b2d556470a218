"""The driver: feeds events to one machine and carries its effects out, in order.

The same code runs in both worlds: on a real loop over ZeroMQ, LMDB and mDNS,
and on the simulator's virtual loop over its fakes. It holds no protocol: a
decision that is taken here could not be simulated by the core's own tests.

Invariant: the machine is never entered twice at once, and what follows a
write runs only after the store has said that it is durable.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, assert_never

from p2pmq.core import effects, events
from p2pmq.core.ids import Run
from p2pmq.core.records import BatchStored, StoredBodies
from p2pmq.errors import StoreCorruptError, StoreFullError
from p2pmq.runtime.resolve import (
    batches_of,
    resolved_batch,
    resolved_packet,
    resolved_records,
    resolved_segments,
)

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from collections.abc import Callable

    from p2pmq.core.events import Event
    from p2pmq.core.ids import ConsumerId, JobId, NodeId
    from p2pmq.core.machine import Machine
    from p2pmq.core.packets.delivering import Segment
    from p2pmq.core.packets.link import Hello
    from p2pmq.core.packets.publishing import Batch, Bodies
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.records import Record
    from p2pmq.errors import StoreError
    from p2pmq.runtime.links import Links
    from p2pmq.store.base import Store

log = logging.getLogger(__name__)

WALL_CLOCK_INTERVAL_S = 5.0


class DriverEvents(Protocol):
    """Who the driver calls: the node above it."""

    def on_deliver(self, consumer: ConsumerId, segments: tuple[Segment, ...]) -> None:
        """Messages for one of our consumers, bodies at hand."""

    def on_emitted(self, peer: NodeId, topics: tuple[str, ...], bodies: Bodies) -> None:
        """Events came, a topic for each body."""

    def on_handle(self, request: effects.Handle) -> None:
        """A request came for one of our responders."""

    def on_stop_handling(self, job_id: JobId) -> None:
        """Nobody waits for the answer to a request any more."""

    def on_resolve(self, token: int, outcome: effects.Outcome) -> None:
        """A request has ended."""

    def on_notice(self, notice: effects.Notice) -> None:
        """Something for logs, metrics and listeners."""

    def on_refused(self, reason: int, text: str, address: str) -> None:
        """A peer does not want us."""

    def on_failed(self, error: BaseException) -> None:
        """The node cannot go on: its disk failed, or it found a bug of its own."""


class Driver:
    """One node's loop: `feed` takes an event, everything else follows."""

    def __init__(
        self,
        store: Store,
        node: DriverEvents,
        loop: AbstractEventLoop,
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._node = node
        self._loop = loop
        self._wall_clock = wall_clock
        self._machine: Machine
        self._links: Links
        self._queue: deque[Event] = deque()
        self._running = False
        self._stopped = True
        self._timer: TimerHandle | None = None
        self._timer_at: int | None = None
        self._arming = False
        self._wall_timer: TimerHandle | None = None

    def start(self, machine: Machine, links: Links, started: events.Started) -> None:
        """Begin: the store is open and the transport listens. Until now nothing was fed."""
        self._machine = machine
        self._links = links
        self._stopped = False
        self.feed(started)
        self._read_wall_clock()

    def stop(self) -> None:
        """Feed nothing more; what is under way in the store may end."""
        self._stopped = True
        for timer in (self._timer, self._wall_timer):
            if timer is not None:
                timer.cancel()

    def now(self) -> int:
        """The core's clock: the loop's, in whole milliseconds."""
        return int(self._loop.time() * 1000)

    def wall_offset_ms(self) -> int:
        """What to add to `now` to have the wall clock, in ms since 1970."""
        return int(self._wall_clock() * 1000) - self.now()

    def feed(self, event: Event) -> None:
        """Give the machine an event, and carry out what comes of it."""
        if self._stopped:
            return
        self._queue.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._queue and not self._stopped:
                for effect in self._machine.handle(self._queue.popleft(), self.now()):
                    self._carry_out(effect)
        except Exception as error:  # noqa: BLE001  whatever it is, the node's state is in doubt
            self._fail(error)
        finally:
            self._running = False
        if not self._arming:
            self._arming = True
            self._loop.call_soon(self._arm)

    def _carry_out(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send(peer, packet):
                self._links.send(peer, packet)
            case effects.Persist(records):
                self._persist(effect, records)
            case effects.Deliver(consumer, _, segments):
                self._deliver(consumer, segments)
            case effects.Emitted(peer, topics, bodies):
                self._node.on_emitted(peer, topics, bodies)
            case effects.Handle():
                self._node.on_handle(effect)
            case effects.StopHandling(job_id):
                self._node.on_stop_handling(job_id)
            case effects.Resolve(token, outcome):
                self._resolve(token, outcome)
            case effects.Learn(peer, addresses):
                self._links.learn(peer, addresses)
            case effects.Notify(notice):
                self._node.on_notice(notice)
            case _:
                assert_never(effect)

    # -- writes --

    def _persist(self, persist: effects.Persist, records: tuple[Record, ...]) -> None:
        try:
            at_hand = resolved_records(records, self._store)
        except (StoreCorruptError, KeyError):
            stored = tuple(record.batch for record in records if isinstance(record, BatchStored))
            self._report_unreadable(stored)
            self._loop.call_soon(self.feed, events.WriteRefused(persist.then, records))
            return
        done = partial(self._on_written, persist)
        self._store.write(at_hand, done, patient=persist.patient)

    def _on_written(self, persist: effects.Persist, error: StoreError | None) -> None:
        if error is None:
            if persist.then is not None:
                self.feed(persist.then)
        elif isinstance(error, StoreFullError):
            self.feed(events.WriteRefused(persist.then, persist.records))
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._stopped:
            self.stop()
            self._node.on_failed(error)

    # -- bodies --

    def _resolve(self, token: int, outcome: effects.Outcome) -> None:
        if type(outcome) is effects.Page:
            try:
                at_hand = tuple(resolved_batch(batch, self._store) for batch in outcome.batches)
            except (StoreCorruptError, KeyError):
                self._report_unreadable(outcome.batches)
                at_hand = ()  # and `more`: they are asked for again
            more = outcome.more or len(at_hand) < len(outcome.batches)
            outcome = replace(outcome, batches=at_hand, more=more)
        self._node.on_resolve(token, outcome)

    def _deliver(self, consumer: ConsumerId, segments: tuple[Segment, ...]) -> None:
        try:
            at_hand = resolved_segments(segments, self._store)
        except (StoreCorruptError, KeyError):
            batches = tuple(segment.batch for segment in segments)
            self._report_unreadable(batches)
            failed = events.DeliveryFailed(consumer, tuple(batch.run for batch in batches))
            self._loop.call_soon(self.feed, failed)
            return
        self._node.on_deliver(consumer, at_hand)

    def resolved(self, packet: Packet) -> Packet | None:
        """The packet with its bodies read from the store; None if they cannot be read."""
        try:
            return resolved_packet(packet, self._store)
        except (StoreCorruptError, KeyError):
            self._report_unreadable(batches_of(packet))
            return None

    def _report_unreadable(self, batches: tuple[Batch, ...]) -> None:
        """Find which bodies are damaged, and tell the core."""
        for batch in batches:
            bodies = batch.bodies
            if not isinstance(bodies, StoredBodies):
                continue
            try:
                self._store.read(bodies)
            except StoreCorruptError as error:
                for position in error.bad:
                    seq = batch.first + position
                    run = Run(batch.session, seq, seq)
                    event = events.BodyUnreadable(bodies.space, bodies.key, run)
                    self._loop.call_soon(self.feed, event)
            except KeyError:
                continue  # settled, and so deleted, while the packet waited for its turn

    # -- time --

    def _arm(self) -> None:
        """Set the one timer to the machine's next deadline."""
        self._arming = False
        if self._stopped:
            return
        deadline = self._machine.next_deadline()
        if deadline is None or (self._timer_at is not None and self._timer_at <= deadline):
            return  # the timer that stands comes first, and arms anew
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        # Half a millisecond late rather than early: `now` is cut to whole milliseconds. One that
        # has passed and stands still is looked at again, but never without a pause.
        at = max(deadline / 1000 + 0.0005, self._loop.time() + 0.001)
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = None
        self.feed(events.TimePassed())

    def _read_wall_clock(self) -> None:
        self.feed(events.WallClockRead(self.wall_offset_ms()))
        if self._stopped:
            return
        self._wall_timer = self._loop.call_later(WALL_CLOCK_INTERVAL_S, self._read_wall_clock)

    # -- what links tell --

    def on_packet(self, peer: NodeId, packet: Packet) -> None:
        """A well-formed packet came."""
        self.feed(events.PacketReceived(peer, packet))

    def on_peer_connected(self, hello: Hello) -> None:
        """A link is up, or its peer has restarted."""
        self.feed(
            events.PeerConnected(hello.node_id, hello.boot, hello.name, hello.addresses, hello.leaf)
        )

    def on_peer_disconnected(self, peer: NodeId) -> None:
        """The last connection to the peer is gone."""
        self.feed(events.PeerDisconnected(peer))

    def on_refused(self, reason: int, text: str, address: str) -> None:
        """A peer does not want us."""
        self._node.on_refused(reason, text, address)

    def counted(self, what: str, count: int = 1) -> None:
        """Something worth a metric happened."""
        self._node.on_notice(effects.Counted(what, count))

    def on_malformed(self, reason: str, text: str) -> None:
        """A peer's packet did not decode: its fault, dropped, and worth a look."""
        what = f"packet_malformed_{reason.replace('-', '_')}"
        self._node.on_notice(effects.Counted(what, text=text, alarming=True))

    def name_holder(self, name: str, node_id: NodeId) -> str | None:
        """The address of a living member with that name, this node too; None for who was one.

        A node whose name was given away while it was cut off is let in: what it holds is needed.
        """
        swim = self._machine.swim
        if swim.has_known(node_id):
            return None
        own = swim.members[self._machine.node_id]
        member = own if own.name == name else swim.name_holder(name)
        if member is None:
            return None
        return member.addresses[0] if member.addresses else "an unknown address"
