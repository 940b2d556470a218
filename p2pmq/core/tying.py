"""Tying: what a handler publishes with its ack is committed first, and the ack is sent then.

An output is published like any message, under a dot that is derived from its
input's (as dead letters' are): whoever processes the input again, here or
elsewhere, publishes the same dots, and the queue takes each of them once. A session
is derived for each place among a message's outputs, with the input's own seq, so
that consecutive inputs leave consecutive outputs.

What is under way is not written down: after a crash the input was not acked,
comes again, and its handler publishes the same again. Meanwhile the input is kept
hidden from other consumers.

Invariant: a tie ends when all of its outputs are committed, not before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pmq.core.effects import Send
from p2pmq.core.ids import ID_BYTES, PartitionKey, Run
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.core.spreading import of_derived
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import Output, TieRequested
    from p2pmq.core.ids import ConsumerId, NodeId, Session
    from p2pmq.core.packets.publishing import Confirm

OUTPUTS_MAX = 64
"""Of one message."""
RESEND_MS = 1_000
RESEND_MAX_MS = 15_000
"""As the outbox does: each time twice as long, so that repeats do not stand in the way."""
HIDDEN_PART = 3
"""The input is hidden anew this often within its visibility timeout."""

Place = tuple[PartitionKey, "Session"]


def output_session(key: PartitionKey, session: Session, queue: str, place: int) -> Session:
    """The session of the outputs in one place, into one queue, of one session's messages."""
    names = [name.encode("utf-8", "surrogatepass") for name in (key.queue, queue)]
    data = b"%d/%d/%s/%d/%s/%s/%d/out" % (
        len(names[0]),
        key.number,
        names[0],
        len(names[1]),
        names[1],
        session,
        place,
    )
    return hashlib.blake2b(data, digest_size=ID_BYTES).digest()


def batches_of(
    key: PartitionKey, run: Run, outputs: tuple[Output, ...]
) -> list[tuple[PartitionKey, Batch]]:
    """The outputs of a message as batches of one, and where they go."""
    found: list[tuple[PartitionKey, Batch]] = []
    for place, output in enumerate(outputs):
        queue = output.key.queue
        session = output_session(key, run.session, queue, place)
        number = of_derived(session, run.first, output.partitions)
        batch = Batch(
            session,
            run.first,
            1,
            output.size,
            output.bodies,
            ttl_ms=output.ttl_ms,
            priority=output.priority,
        )
        found.append((PartitionKey(queue, number), batch))
    return found


@dataclass(slots=True)
class Tie:
    """One message, the consumers that are to ack it, and its outputs that are not committed."""

    key: PartitionKey
    run: Run
    consumers: dict[ConsumerId, int]
    """… each with its visibility timeout in ms."""
    left: dict[Place, Batch]
    sent: int = 0
    sent_to: dict[Place, NodeId | None] = field(default_factory=dict)


class Tying:
    """The ties of this node that are under way."""

    def __init__(self, owner_of: Callable[[PartitionKey], NodeId | None]) -> None:
        self._owner_of = owner_of
        self._ties: dict[tuple[PartitionKey, Run], Tie] = {}
        self._places: dict[Place, dict[int, Tie]] = {}
        """By place and seq."""
        self._timers: Timers[tuple[PartitionKey, Run]] = Timers()

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._ties)

    def awaited(self) -> list[tuple[PartitionKey, list[PartitionKey]]]:
        """Of each that is under way, where its message lies and where outputs are to go yet."""
        return [(tie.key, [to for to, _ in tie.left]) for tie in self._ties.values()]

    def find(self, key: PartitionKey, run: Run) -> list[Tie]:
        """Those that are under way of the messages of a run."""
        if not self._ties:
            return []
        dots = (Run(run.session, seq, seq) for seq in range(run.first, run.last + 1))
        return [tie for dot in dots if (tie := self._ties.get((key, dot))) is not None]

    def of(self, consumer: ConsumerId) -> list[Tie]:
        """Those that end with an ack of the consumer's."""
        return [tie for tie in self._ties.values() if consumer in tie.consumers]

    def begin(self, event: TieRequested, visibility_ms: int, now: int) -> list[Effect]:
        """Publish the outputs of a message that is not under way."""
        tie = Tie(
            event.key,
            event.run,
            {event.consumer: visibility_ms},
            {
                (to, batch.session): batch
                for to, batch in batches_of(event.key, event.run, event.outputs)
            },
        )
        self._ties[event.key, event.run] = tie
        for place in tie.left:
            self._places.setdefault(place, {})[event.run.first] = tie
        return self._send(tie, now)

    def on_confirm(self, packet: Confirm, key: PartitionKey) -> list[Tie]:
        """Some of a queue is committed; the ties that end by it."""
        ended: list[Tie] = []
        for run in packet.runs if self._ties else ():
            place = key, run.session
            waiting = self._places.get(place, {})
            for seq in [seq for seq in waiting if run.first <= seq <= run.last]:
                tie = waiting.pop(seq)
                del tie.left[place]
                if not tie.left:
                    del self._ties[tie.key, tie.run]
                    self._timers.clear((tie.key, tie.run))
                    ended.append(tie)
            if not waiting:
                self._places.pop(place, None)
        return ended

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Send to whoever owns the outputs' queues now."""
        effects: list[Effect] = []
        for tie in list(self._ties.values()):
            if any(self._owner_of(to) != tie.sent_to.get((to, s)) for to, s in tie.left):
                tie.sent = 0
                effects += self._send(tie, now)
        return effects

    def next_deadline(self) -> int | None:
        """When something is to be sent again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> tuple[list[Effect], list[Tie]]:
        """Send again what is not committed; the ties whose inputs are to be hidden anew."""
        effects: list[Effect] = []
        due: list[Tie] = []
        while (name := self._timers.pop_due(now)) is not None:
            tie = self._ties[name]
            effects += self._send(tie, now)
            due.append(tie)
        return effects, due

    def _send(self, tie: Tie, now: int) -> list[Effect]:
        pause_ms = min(RESEND_MAX_MS, RESEND_MS << min(tie.sent, 8))
        pause_ms = min(pause_ms, *(ms // HIDDEN_PART for ms in tie.consumers.values()))
        self._timers.set((tie.key, tie.run), now + pause_ms)
        tie.sent += 1
        effects: list[Effect] = []
        for place, batch in tie.left.items():
            to = place[0]
            owner = tie.sent_to[place] = self._owner_of(to)
            if owner is not None:
                # No output waits for another: `previous` is 0, and each dot is final.
                effects.append(Send(owner, Publish(to.queue, to.number, 0, batch)))
        return effects
