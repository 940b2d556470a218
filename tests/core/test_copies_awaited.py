"""A message waits for the copies of what its publisher sent before it; not for what is gone."""

from __future__ import annotations

import pytest

from p2pmq.core.copies import Contact
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.events import BatchDurable
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.owner import Owner
from p2pmq.core.packets.delivering import Attach, Delivery, Settle
from p2pmq.core.packets.publishing import Publish, RunField
from p2pmq.core.packets.replicating import Replicate, Replicated
from p2pmq.core.replication import Replication
from tests.core.kit import KEY, S1, A, B, C, Dot, View, batch_of, dots_of, rooms_of

CONSUMER, OTHER = b"consumer", b"consume2"


class ThreeHomes(View):
    """All are alive, and any two are enough."""

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        del key
        return (A, B, C), 2

    def is_alive(self, node_id: NodeId) -> bool:
        return node_id in (A, B, C)


class Rig:
    """The owner, whose other homes have answered; a consumer is attached."""

    owner: Owner
    replication: Replication

    def __init__(self) -> None:
        self.now = 10_000
        rooms = rooms_of(A, 1, ThreeHomes(A))
        self.owner, self.replication = rooms.owner, rooms.replication
        copies, _ = self.replication.copies(KEY, self.now)
        for home in copies.homes.values():
            home.contact = Contact.MERGED
        self.pushed: set[Dot] = set()
        self.take(self.owner.on_attach(B, Attach(*KEY, CONSUMER, 1, 10, 30_000), self.now))

    def publish(self, seq: int, *, copied: bool, refused: bool = False) -> BatchDurable:
        """One message comes, and is written here; `copied`: another home has it, too."""
        effects = self.owner.on_publish(A, Publish(*KEY, 0, batch_of(S1, seq, 1)), self.now)
        (durable,) = [
            effect.then
            for effect in effects
            if isinstance(effect, Persist) and isinstance(effect.then, BatchDurable)
        ]
        if not refused:
            self.take(self.owner.on_batch_durable(durable, self.now))
        if copied:
            for effect in effects:
                if isinstance(effect, Send) and isinstance(effect.packet, Replicate):
                    answer = Replicated(*KEY, effect.packet.number)
                    self.take(self.replication.on_replicated(effect.peer, answer, self.now))
        return durable

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.packet, Delivery):
                self.pushed |= dots_of(one.batch.run for one in effect.packet.segments)

    def look(self) -> None:
        """Time goes on, if the owner has something to do now."""
        deadline = self.owner.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.take(self.owner.on_timeout(self.now))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_message_waits_for_copies_of_its_publishers_earlier_one(rig: Rig) -> None:
    rig.publish(1, copied=False)
    rig.publish(2, copied=True)
    rig.look()
    assert rig.pushed == set()


def test_it_goes_out_once_the_earlier_one_is_acked_by_who_had_it_elsewhere(rig: Rig) -> None:
    """As after a split, in which another owner delivered the earlier one."""
    rig.publish(1, copied=False)
    rig.publish(2, copied=True)
    settle = Settle(*KEY, OTHER, 1, 1, 10, (RunField(S1, 1, 1),))
    rig.take(rig.owner.on_settle(C, settle, rig.now))
    rig.look()
    assert rig.pushed == {(S1, 2)}


def test_it_goes_out_once_another_home_says_that_the_earlier_one_is_acked(rig: Rig) -> None:
    rig.publish(1, copied=False)
    rig.publish(2, copied=True)
    removed, _ = rig.owner.partition(KEY).remove([Run(S1, 1, 1)])
    rig.owner.on_acked_elsewhere(KEY, removed)
    rig.look()
    assert rig.pushed == {(S1, 2)}


def test_it_goes_out_though_the_earlier_one_was_refused_by_a_full_disk(rig: Rig) -> None:
    refused = rig.publish(1, copied=True, refused=True)
    rig.publish(2, copied=True)
    assert rig.pushed == set()
    rig.owner.on_batch_refused(refused)
    rig.look()
    assert rig.pushed == {(S1, 2)}
