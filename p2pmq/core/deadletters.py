"""Dead letters: messages that leave a queue without an ack, on their way to `<queue>.dlq`.

A letter is published like any message, under a dot that is derived from the
original's: two owners that bury one message at once make one letter. Only when
the letter is committed is the original acked, here and at the other homes. Until
then it stays where it is, and is not delivered: *condemned*, if it is pending
here; with whoever else holds it, if it was never taken in. What is under way is
not written down: after a crash the next owner judges anew, and the dot is the same.

Invariant: at most UNDER_WAY_MAX letters are under way, and as much of foreign
bodies as HELD_BYTES_MAX allows beyond one; the rest waits where it lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Buried, Notify, Persist, Send
from p2pmq.core.ids import ID_BYTES, PartitionKey, Run
from p2pmq.core.names import dead_letters_of
from p2pmq.core.packets.publishing import Death, Publish
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.publishing import Batch, Confirm
    from p2pmq.core.replication import Replication

STALE_REPLICA = Death("stale-replica")
"""Its holder was away for so long that nobody knows whether it was acked."""
MAX_DELIVERIES = "max-deliveries"
"""It has failed too often."""
REJECTED = "rejected"
"""Its consumer said that it can never be processed."""
UNDER_WAY_MAX = 64
"""Letters (batches) on their way: as many as one packet from another home may bring."""
LOOK = 0
"""The number of no letter: its timer is for what is condemned and just being written."""
HELD_BYTES_MAX = 8 * 1024 * 1024
"""Bodies that lie nowhere here but in memory, while their letters are on their way."""
RESEND_MS = 1_000
RESEND_MAX_MS = 15_000
"""As the outbox does: each time twice as long, so that repeats do not stand in the way."""
WRITTEN_SOON_MS = 100
"""How soon to look again where the original is just being written here."""


@dataclass(slots=True)
class Letter:
    """The messages `run` of a partition, on their way into the queue `to` as `batch`.

    `left` is what of them is not committed there yet. `here`: their bodies lie here.
    """

    key: PartitionKey
    run: Run
    batch: Batch
    death: Death
    to: PartitionKey
    left: DotSet
    here: bool
    why: str = ""
    sent: int = 0
    sent_to: NodeId | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes of bodies that only this keeps."""
        return 0 if self.here else self.batch.size


def letter_session(key: PartitionKey, session: Session) -> Session:
    """The session under which a partition's dead letters of another session are published."""
    queue = key.queue.encode("utf-8", "surrogatepass")
    data = b"%d/%d/%s/%s/dlq" % (len(queue), key.number, queue, session)
    return hashlib.blake2b(data, digest_size=ID_BYTES).digest()


def _is_trace(batch: Batch) -> bool:
    return batch.retained or bool(batch.ids)


class DeadLetters:
    """The letters of every partition that this node owns."""

    def __init__(self, owner: Owner, ownership: Ownership, replication: Replication) -> None:
        self._owner = owner
        self._ownership = ownership
        self._copies = replication
        self._letters: dict[int, Letter] = {}
        self._of_session: dict[tuple[PartitionKey, Session], dict[int, None]] = {}
        self._timers: Timers[int] = Timers()
        self._next_number = LOOK + 1
        self._held_bytes = 0
        self._waiting: dict[PartitionKey, None] = {}
        """Partitions with more to bury than there was room for."""

    # -- burying --

    def condemn(
        self, key: PartitionKey, runs: Iterable[Run], death: Death, now: int
    ) -> list[Effect]:
        """Messages that are pending here are delivered no more, but buried."""
        condemned = self._copies.condemned(key)
        if condemned is None:
            return []
        for run in runs:
            for part in condemned.missing(run):
                condemned.put(part, death)
        return self._fill(key, now)

    def bury(
        self, key: PartitionKey, batches: Iterable[Batch], death: Death, now: int
    ) -> list[Effect]:
        """Bury messages that another node holds, and that are not taken in here."""
        effects: list[Effect] = []
        under_way = self.under_way(key)
        for batch in batches:
            for run in under_way.missing(batch.run):
                room = not self._letters or self._held_bytes + batch.size <= HELD_BYTES_MAX
                if len(self._letters) < UNDER_WAY_MAX and room:
                    part = batch.part(run.first, run.last)
                    effects += self._begin(key, part, death, here=False, now=now)
                else:
                    self._waiting[key] = None
        return effects

    def under_way(self, key: PartitionKey) -> DotSet:
        """The messages of the partition whose letters are on their way."""
        return DotSet(letter.run for letter in self._letters.values() if letter.key == key)

    def original_of(self, key: PartitionKey, run: Run) -> Run:
        """The dots that a letter was made of, if these are a letter's; else these."""
        for letter in self._letters.values():
            if letter.key == key and letter.batch.session == run.session:
                return run._replace(session=letter.run.session)
        return run

    # -- what others say --

    def on_confirm(self, packet: Confirm, key: PartitionKey, now: int) -> list[Effect]:
        """Some of a dead-letter queue is committed: the originals may go."""
        effects: list[Effect] = []
        for run in packet.runs if self._letters else ():
            for number in list(self._of_session.get((key, run.session), ())):
                letter = self._letters[number]
                letter.left.remove(Run(run.session, run.first, run.last))
                if not letter.left:
                    effects += self._finish(number, letter, now)
        return effects

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Whoever owns a partition buries its dead; their letters go to whoever owns that queue."""
        if not self._letters and not self._waiting:
            return []
        effects: list[Effect] = []
        for key in [key for key in self._waiting if not self._owner.owns(key)]:
            del self._waiting[key]
        for number, letter in list(self._letters.items()):
            if not self._owner.owns(letter.key):
                self._drop(number, letter)
        for number, letter in list(self._letters.items()):
            if letter.left and self._ownership.owner_of(letter.to) != letter.sent_to:
                letter.sent = 0
                effects += self._send(number, letter, now)
        return effects + self._go_on(now)

    def next_deadline(self) -> int | None:
        """When a letter is to be sent again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Send again what is not committed."""
        effects: list[Effect] = []
        while (number := self._timers.pop_due(now)) is not None:
            if number == LOOK:
                effects += self._go_on(now)
                continue
            letter = self._letters[number]
            if letter.left:
                effects += self._send(number, letter, now)
            else:
                effects += self._finish(number, letter, now)
        return effects

    # -- within --

    def _begin(
        self, key: PartitionKey, batch: Batch, death: Death, *, here: bool, now: int
    ) -> list[Effect]:
        """Write a letter and send it; where there is no queue for it, only let the original go."""
        number = self._next_number
        self._next_number += 1
        into, why = ("", "it is a trace") if _is_trace(batch) else dead_letters_of(key.queue)
        session = letter_session(key, batch.session)
        dead = replace(
            batch,
            session=session,
            stamp=0,
            ttl_ms=0,
            delay_ms=0,
            dead=(replace(death, dead_queue=key.queue),),
        )
        left = DotSet([dead.run] if into else [])
        to = PartitionKey(into, 0)
        letter = Letter(key, batch.run, dead, death, to, left, here, why)
        self._letters[number] = letter
        self._of_session.setdefault((to, session), {})[number] = None
        self._held_bytes += letter.held_bytes
        if not into:
            self._timers.set(number, now)
            return []
        return self._send(number, letter, now)

    def _send(self, number: int, letter: Letter, now: int) -> list[Effect]:
        partition = self._owner.partition(letter.key)
        if letter.here and not partition.unacked.covers(letter.run):
            self._drop(number, letter)  # a consumer did it after all; the rest is looked at anew
            return self._fill(letter.key, now) + self._go_on(now)
        self._timers.set(number, now + min(RESEND_MAX_MS, RESEND_MS << min(letter.sent, 8)))
        letter.sent += 1
        owner = letter.sent_to = self._ownership.owner_of(letter.to)
        if owner is None:
            return []
        # No letter waits for another: `previous` is 0, and each dot is final.
        return [Send(owner, Publish(letter.to.queue, letter.to.number, 0, letter.batch))]

    def _finish(self, number: int, letter: Letter, now: int) -> list[Effect]:
        """The letter is committed: let go of the original, wherever it lies."""
        key, run = letter.key, letter.run
        partition = self._owner.partition(key)
        if partition.is_appending([run]):
            self._timers.set(number, now + WRITTEN_SOON_MS)
            return []
        self._drop(number, letter)
        told = Notify(Buried(key, (run,), letter.death.reason, letter.to.queue, letter.why))
        removed, records = partition.remove([run])
        self._owner.forget(key, removed)
        effects: list[Effect] = [
            Persist((*self._owner.take_owed(key), *records), patient=True),
            *self._copies.spread_acks(key, [run], now),
            *([] if _is_trace(letter.batch) else [told]),
        ]
        return effects + self._go_on(now)

    def _go_on(self, now: int) -> list[Effect]:
        """There is room again."""
        effects: list[Effect] = []
        if len(self._letters) > UNDER_WAY_MAX // 2:
            return effects
        waiting, self._waiting = self._waiting, {}
        for key in waiting:
            effects += self._fill(key, now) + self._copies.ask_all(key, now)
        return effects

    def _fill(self, key: PartitionKey, now: int) -> list[Effect]:
        """Write letters of what is condemned, as many as there is room for."""
        effects: list[Effect] = []
        condemned = self._copies.condemned(key)
        if not condemned:
            return effects
        partition = self._owner.partition(key)
        under_way = self.under_way(key)
        for run, death in list(condemned.items()):
            if partition.appending.overlap(run):
                self._waiting[key] = None
                self._timers.set_if_earlier(LOOK, now + WRITTEN_SOON_MS)
            for rest in under_way.missing(run):
                for part, stored in partition.pending.overlap(rest):
                    if len(self._letters) >= UNDER_WAY_MAX:
                        self._waiting[key] = None
                        return effects
                    batch = partition.batch(part, stored)
                    effects += self._begin(key, batch, death, here=True, now=now)
        return effects

    def _drop(self, number: int, letter: Letter) -> None:
        del self._letters[number]
        self._timers.clear(number)
        self._held_bytes -= letter.held_bytes
        name = letter.to, letter.batch.session
        del self._of_session[name][number]
        if not self._of_session[name]:
            del self._of_session[name]
