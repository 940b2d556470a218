"""What an owner says to the other homes of its partitions, and says again until it is answered.

A number goes with each packet, and rises; a packet that is not answered is kept,
and repeated as it would be made then. A home that cannot follow is let go of, and
compared anew.

Invariant: what a home was sent and has not answered is in its `unanswered`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.antientropy import digest_of
from p2pmq.core.copies import UNANSWERED_BYTES_MAX, Contact, Copies, Home
from p2pmq.core.effects import Counted, Notify, Send
from p2pmq.core.looked_after import LookedAfter
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.packets.replicating import Compare, Replicate
from p2pmq.core.replica import BATCHES_MAX, RUNS_MAX, cut, up_to_date
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, PartitionKey, Run
    from p2pmq.core.intact import Intactness
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.publishing import Batch

RESEND_MS = 1_000
ASK_AGAIN_MS = 5_000
"""A home that was let go of is asked again after this."""


class Telling(LookedAfter):
    """What this node sends as an owner."""

    def __init__(
        self, own_id: NodeId, boot: int, owner: Owner, ownership: Ownership, intact: Intactness
    ) -> None:
        super().__init__(ownership, intact)
        self._own_id = own_id
        self._owner = owner
        self._timers: Timers[PartitionKey] = Timers()
        self.made = 0
        """How many partitions this node has ever begun to look after."""
        self._next_number = (boot << 32) + 1
        self.declared_hash: Callable[[str], bytes] = lambda _queue: bytes(8)
        """How this node knows a queue to be declared: homes tell it where they know otherwise."""

    def copies(self, key: PartitionKey, now: int) -> tuple[Copies, list[Effect]]:
        """The copies of an owned partition; at first every home in reach is asked for its state."""
        copies = self._copies.get(key)
        if copies is not None:
            return copies, []
        homes, wanted = self._ownership.homes_of(key)
        self.made += 1
        copies = self._copies[key] = Copies(self._own_id, homes, wanted)
        if wanted > 1:
            for run in self._owner.partition(key).unacked.runs():
                copies.unproven.put(run, (self._own_id,))
        return copies, self.reach_out(key, copies, now)

    def reach_out(self, key: PartitionKey, copies: Copies, now: int) -> list[Effect]:
        """Ask holders that have come into reach; let go of those that have left it."""
        effects: list[Effect] = []
        for home in copies.holders():
            alive = self._ownership.is_alive(home.node_id)
            if not alive and home.contact is not Contact.AWAY:
                home.lose()
            elif alive and home.contact is Contact.AWAY:
                effects += self.ask(key, home, now)
        return effects

    def ask(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Compare with a home or a stand-in; one that is merged stays so meanwhile."""
        if home.contact is not Contact.MERGED:
            home.contact = Contact.COMPARING
        partition = self._owner.partition(key)
        unproven = self._copies[key].unproven.runs() if key in self._copies else ()
        if_equal = tuple(part for run in unproven for part in partition.seen.overlap(run))
        home.begin(self._take_number(), partition, if_equal, now)
        self._timers.set_if_earlier(key, now + RESEND_MS)
        compare = Compare(
            key.queue,
            key.number,
            home.number,
            digest_of(partition),
            home.hint,
            declared=self.declared_hash(key.queue),
        )
        return [Send(home.node_id, compare)]

    def ask_all(self, key: PartitionKey, now: int) -> list[Effect]:
        """Compare with everybody in reach: there is more of it than could be taken before."""
        copies = self._copies.get(key)
        homes = copies.listening() if copies is not None else []
        return [e for home in homes if not home.number for e in self.ask(key, home, now)]

    def spread_acks(self, key: PartitionKey, runs: list[Run], now: int) -> list[Effect]:
        """Messages are gone for good, and nobody waits to hear it: tell every home in reach."""
        copies, effects = self.copies(key, now)
        if copies.homes:
            for at in range(0, len(runs), RUNS_MAX):
                acked = tuple(RunField(*run) for run in runs[at : at + RUNS_MAX])
                effects += self._send_all(key, copies, acked, (), now)[1]
        return effects

    def tell_horizon(
        self, key: PartitionKey, horizon: int, forgotten: list[Run], now: int
    ) -> list[Effect]:
        """What is older may be forgotten, and these dots are: every home in reach does the same."""
        copies, effects = self.copies(key, now)
        for at in range(0, max(1, len(forgotten)), RUNS_MAX):
            runs = tuple(RunField(*run) for run in forgotten[at : at + RUNS_MAX])
            packet = Replicate(
                key.queue, key.number, self._take_number(), horizon=horizon, forgotten=runs
            )
            for home in copies.listening():
                effects += self._send_to(key, home, packet, now)
        return effects

    def _send_all(
        self,
        key: PartitionKey,
        copies: Copies,
        acked: tuple[RunField, ...],
        batches: tuple[Batch, ...],
        now: int,
    ) -> tuple[int, list[Effect]]:
        packet = Replicate(key.queue, key.number, self._take_number(), acked, batches)
        effects: list[Effect] = []
        for home in copies.listening():
            effects += self._send_to(key, home, packet, now)
        return packet.number, effects

    def _send_to(self, key: PartitionKey, home: Home, packet: Replicate, now: int) -> list[Effect]:
        size = packet.size
        if home.unanswered_bytes + size > UNANSWERED_BYTES_MAX:
            home.lose()
            self._timers.set_if_earlier(key, now + ASK_AGAIN_MS)
            return [Notify(Counted("replica_too_slow"))]
        if not home.unanswered:
            home.sent_at = now
        home.unanswered[packet.number] = packet
        home.unanswered_bytes += size
        self._timers.set_if_earlier(key, now + RESEND_MS)
        return [Send(home.node_id, packet)]

    def _push(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Send what a home lacks, a piece at a time, as it answers."""
        effects: list[Effect] = []
        partition = self._owner.partition(key)
        while (home.to_push or home.acks_to_push) and len(home.unanswered) < BATCHES_MAX:
            acked: list[RunField] = []
            while home.acks_to_push and len(acked) < RUNS_MAX:
                acked.append(RunField(*home.acks_to_push.popleft()))
            batches = cut(partition, home.to_push)
            if not acked and not batches:
                continue  # acked meanwhile: that has been sent by itself
            number = self._take_number()
            packet = Replicate(key.queue, key.number, number, tuple(acked), batches)
            effects += self._send_to(key, home, packet, now)
        return effects

    def _send_again(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Repeat what a home has not answered; what is acked by now goes as an ack."""
        home.sent_at = now
        partition = self._owner.partition(key)
        for number, packet in home.unanswered.items():
            if packet.batches:
                home.unanswered[number] = up_to_date(packet, partition)
        home.unanswered_bytes = sum(sent.size for sent in home.unanswered.values())
        return [Send(home.node_id, packet) for packet in home.unanswered.values()]

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number
