"""Stand-ins, one rule a test: who is chosen and when, what it is told, what it does with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pmq.config import Replication as Copying
from p2pmq.core.copies import Contact, Copies
from p2pmq.core.effects import Counted, Effect, Notify, Send
from p2pmq.core.events import ReplicaDurable, SettleDurable
from p2pmq.core.handover import STRAY_MS
from p2pmq.core.ids import NodeId, Run
from p2pmq.core.ownership import Ownership
from p2pmq.core.packets.delivering import Handover
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.packets.replicating import Compare, Compared, Replicate, Replicated
from p2pmq.core.ring import Place
from p2pmq.core.standins import HEIR_MS, LOOK_MS, STANDS_MS, Standing, StandIns
from tests.core.kit import KEY, S1, A, Rooms, batch_of, packets, rooms_of, writes

if TYPE_CHECKING:
    from p2pmq.core.packets.registry import Packet

AFTER_MS = 10_000
NODES = tuple(b"node-%03d" % number for number in range(6))


class Mesh(Ownership):
    """The real placement of three copies on six nodes; the test says who is there."""

    def __init__(self, copies: int = 3) -> None:
        super().__init__(Copying(copies))
        self.gone: dict[NodeId, int] = {}
        self.members = list(NODES)
        self.change()

    def change(self) -> None:
        self.refresh([Place(n) for n in self.members], lambda node_id: node_id not in self.gone)

    @property
    def homes(self) -> tuple[NodeId, ...]:
        return self.homes_of(KEY)[0]


class Rig:
    """The owner of the partition, with its rooms, and nobody but the test to answer it."""

    def __init__(self, copies: int = 3, after_ms: int = AFTER_MS) -> None:
        self.now = 100_000
        self.mesh = Mesh(copies)
        self.owner, *self.homes = self.mesh.homes
        self.line = self.mesh.in_line(KEY)
        self.rooms: Rooms = rooms_of(self.owner, 1, self.mesh)
        owner, replication, _ = self.rooms
        self.stand_ins = StandIns(owner, self.mesh, replication, self.mesh.gone.get, after_ms)
        self.copies, _ = replication.copies(KEY, self.now)
        for home in self.copies.homes.values():
            home.contact = Contact.MERGED

    def look(self) -> list[Effect]:
        """Somebody came or went: every room takes it in, as the machine has it."""
        self.mesh.change()
        self.rooms.replication.on_placement_changed(self.now)
        return self.stand_ins.on_placement_changed(self.now)

    def lose(self, *node_ids: NodeId) -> list[Effect]:
        self.mesh.gone |= dict.fromkeys(node_ids, self.now)
        return self.look()

    def find(self, *node_ids: NodeId) -> list[Effect]:
        for node_id in node_ids:
            del self.mesh.gone[node_id]
        return self.look()

    def run(self, duration_ms: int) -> list[Effect]:
        """Time passes, from one deadline of the room to the next."""
        effects: list[Effect] = []
        end = self.now + duration_ms
        while (due := self.stand_ins.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            effects += self.stand_ins.on_timeout(self.now)
        self.now = end
        return effects

    def answer(self, node_id: NodeId) -> None:
        """Tell the owner that a state is the same as its own."""
        holder = self.copies.holder(node_id)
        assert holder is not None
        same = Compared(*KEY, holder.number, equal=True)
        self.rooms.replication.on_compared(node_id, same, self.now)
        assert holder.contact is Contact.MERGED

    @property
    def chosen(self) -> list[NodeId]:
        return list(self.copies.stand_ins)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def sent(effects: list[Effect]) -> list[tuple[NodeId, Packet]]:
    return [(effect.peer, effect.packet) for effect in effects if isinstance(effect, Send)]


def asked(effects: list[Effect]) -> list[tuple[NodeId, bool]]:
    """Who is compared with, and whether it is to stand in."""
    return [(peer, packet.hint) for peer, packet in sent(effects) if isinstance(packet, Compare)]


def counted(effects: list[Effect]) -> dict[str, int]:
    return {
        effect.notice.what: effect.notice.count
        for effect in effects
        if isinstance(effect, Notify) and isinstance(effect.notice, Counted)
    }


# --------------------------------------------------------------------------------- the owner's part


def test_while_all_are_there_it_has_nothing_to_do(rig: Rig) -> None:
    assert rig.look() == []
    assert rig.stand_ins.next_deadline() is None


def test_a_home_that_is_away_for_long_enough_gets_the_next_in_line_as_stand_in(rig: Rig) -> None:
    assert asked(rig.lose(rig.homes[0])) == []
    assert asked(rig.run(AFTER_MS - 1)) == []
    effects = rig.run(1)
    assert asked(effects) == [(rig.line[0], True)]
    assert counted(effects) == {"standin_begun": 1}


def test_a_home_that_is_back_in_time_gets_none(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS - 1)
    rig.find(rig.homes[0])
    assert rig.run(10 * AFTER_MS) == []
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS - 1)
    assert rig.chosen == [], "its absence counts anew"


def test_another_that_is_away_is_nobodys_concern(rig: Rig) -> None:
    rig.lose(rig.line[0])
    rig.run(AFTER_MS + LOOK_MS)
    assert rig.chosen == []


def test_there_is_one_for_each_home_that_is_away_and_no_dead_one_is_chosen(rig: Rig) -> None:
    rig.lose(*rig.homes, rig.line[0])
    rig.run(AFTER_MS)
    assert rig.chosen == rig.line[1:]
    rig.find(rig.homes[0])
    assert rig.chosen == [rig.line[1]]


def test_who_comes_back_into_line_does_not_take_the_place_of_one_that_stands_in(rig: Rig) -> None:
    rig.lose(rig.homes[0], rig.line[0])
    rig.run(AFTER_MS)
    assert rig.chosen == [rig.line[1]]
    rig.find(rig.line[0])
    assert rig.chosen == [rig.line[1]]


def test_one_that_dies_is_replaced_at_once(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    effects = rig.lose(rig.line[0])
    assert asked(effects) == [(rig.line[1], True)]
    assert counted(effects) == {"standin_begun": 1, "standin_ended": 1}


def test_it_is_told_when_the_home_is_back(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    effects = rig.find(rig.homes[0])
    assert asked(effects) == [(rig.line[0], False)]
    assert counted(effects) == {"standin_ended": 1}
    assert rig.stand_ins.next_deadline() is None


def test_one_that_becomes_a_home_is_met_anew_as_one(rig: Rig) -> None:
    """What it holds did not count before: the owner has to hear of it once more."""
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    rig.answer(rig.line[0])
    rig.mesh.members.remove(rig.homes[0])
    del rig.mesh.gone[rig.homes[0]]
    rig.look()
    assert rig.chosen == []
    assert rig.copies.homes[rig.line[0]].contact is Contact.COMPARING
    assert not rig.copies.homes[rig.line[0]].hint


def test_it_is_compared_with_again_and_again(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    rig.answer(rig.line[0])
    assert asked(rig.run(LOOK_MS)) == [(rig.line[0], True)]


def test_a_queue_that_is_new_meanwhile_gets_one_at_once(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    del rig.rooms.replication._copies[KEY]
    rig.rooms.replication.copies(KEY, rig.now)
    assert asked(rig.run(0)) == [(rig.line[0], True)]


def test_an_owner_that_owns_no_more_has_no_stand_ins(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    rig.mesh.gone[rig.owner] = rig.now
    assert counted(rig.look()) == {"standin_ended": 1}


def test_0_ms_is_never() -> None:
    rig = Rig(after_ms=0)
    rig.lose(rig.homes[0])
    assert rig.stand_ins.next_deadline() is None
    assert rig.run(1_000 * AFTER_MS) == []


def test_more_copies_than_nodes_leave_nobody_in_line() -> None:
    rig = Rig(copies=9)
    rig.lose(*rig.homes)
    rig.run(AFTER_MS)
    assert rig.chosen == []


# ---------------------------------------------------------------------------- it counts for nothing


def test_copies_on_stand_ins_prove_nothing_and_make_no_owner_active() -> None:
    copies = Copies(A, (A, *NODES[:2]), 2)
    copies.unproven.put(Run(S1, 1, 4), ())
    copies.set_stand_ins(NODES[3:5])
    assert copies.note(Run(S1, 1, 4), A) == []
    for stand_in in copies.stand_ins.values():
        assert copies.note(Run(S1, 1, 4), stand_in.node_id) == []
        stand_in.contact = Contact.MERGED
    assert not copies.active()
    assert copies.in_reach() == []


def test_an_owner_with_stand_ins_only_takes_no_messages_and_confirms_no_acks(rig: Rig) -> None:
    rig.lose(*rig.homes)
    rig.run(AFTER_MS)
    for node_id in rig.chosen:
        rig.answer(node_id)
    assert len(rig.chosen) == 2
    assert rig.rooms.replication.is_alone(KEY)
    event = SettleDurable(KEY, A, b"consumer", 1)
    effects = rig.rooms.replication.on_settle(KEY, [Run(S1, 1, 1)], event, rig.now)
    (number,) = {p.number for p in packets(effects) if isinstance(p, Replicate)}
    assert not rig.rooms.replication.on_settle_durable(event)
    for node_id in rig.chosen:
        answer = Replicated(*KEY, number)
        assert rig.rooms.replication.on_replicated(node_id, answer, rig.now) == []


def test_it_is_sent_what_is_new_and_what_is_acked_like_a_home(rig: Rig) -> None:
    rig.lose(rig.homes[0])
    rig.run(AFTER_MS)
    rig.answer(rig.line[0])
    effects = rig.rooms.owner.on_publish(A, Publish(*KEY, 0, batch_of(S1, 1, 2)), rig.now)
    to = [peer for peer, packet in sent(effects) if isinstance(packet, Replicate)]
    assert to == [rig.homes[1], rig.line[0]]


# ------------------------------------------------------------------------------------ its own part


class Holder:
    """A node that is no home, and holds a copy of the partition."""

    def __init__(self) -> None:
        self.now = 100_000
        self.mesh = Mesh()
        self.owner, self.heir, _ = self.mesh.homes
        self.node_id = self.mesh.in_line(KEY)[0]
        self.rooms = rooms_of(self.node_id, 1, self.mesh)

    def store(self, peer: NodeId) -> None:
        replica, packet = (
            self.rooms.replication.replica,
            Replicate(*KEY, 1, (), (batch_of(S1, 1, 2),)),
        )
        for write in writes(replica.on_replicate(peer, packet, self.now)):
            assert isinstance(write.then, ReplicaDurable)
            replica.on_durable(write.then, self.now)
        self.rooms.handovers.on_copy(KEY, self.now)

    def compare(self, peer: NodeId, *, hint: bool) -> None:
        self.rooms.handovers.on_compare(peer, Compare(*KEY, 1, b"x" * 8, hint), self.now)

    def change(self) -> list[NodeId]:
        self.mesh.change()
        return given_to(self.rooms.handovers.on_placement_changed(self.now))

    def wait(self, duration_ms: int) -> list[NodeId]:
        """To whom it hands over meanwhile."""
        self.now += duration_ms
        return given_to(self.rooms.handovers.on_timeout(self.now))


def given_to(effects: list[Effect]) -> list[NodeId]:
    return [peer for peer, packet in sent(effects) if isinstance(packet, Handover)]


@pytest.fixture
def holder() -> Holder:
    made = Holder()
    made.compare(made.owner, hint=True)
    made.store(made.owner)
    return made


def test_a_stand_in_keeps_what_it_has_as_long_as_it_is_asked_to(holder: Holder) -> None:
    for _ in range(20):
        assert holder.wait(STANDS_MS - 1) == []
        assert holder.change() == []
        holder.compare(holder.owner, hint=True)


def test_it_hands_over_when_it_is_told_that_it_is_none(holder: Holder) -> None:
    holder.compare(holder.owner, hint=False)
    assert holder.wait(0) == [holder.owner]


def test_it_hands_over_when_it_hears_no_more_of_it(holder: Holder) -> None:
    assert holder.wait(STANDS_MS) == [holder.owner]


def test_the_word_of_another_than_its_owner_does_not_end_it(holder: Holder) -> None:
    holder.compare(holder.heir, hint=False)
    assert holder.wait(STRAY_MS) == []


def test_an_heir_that_does_not_ask_for_it_gets_what_it_has(holder: Holder) -> None:
    holder.mesh.gone[holder.owner] = holder.now
    assert holder.change() == []
    assert holder.wait(HEIR_MS - 1) == []
    assert holder.wait(1) == [holder.heir]


def test_an_heir_that_asks_for_it_keeps_it(holder: Holder) -> None:
    holder.mesh.gone[holder.owner] = holder.now
    holder.change()
    holder.compare(holder.heir, hint=True)
    assert holder.wait(STANDS_MS - 1) == []


def test_while_nobody_owns_it_keeps_what_it_has(holder: Holder) -> None:
    holder.mesh.gone |= dict.fromkeys(holder.mesh.homes, holder.now)
    assert holder.change() == []
    assert holder.wait(10 * STANDS_MS) == []
    del holder.mesh.gone[holder.heir]
    assert holder.change() == [holder.heir]


def test_being_asked_for_it_ends_a_handover(holder: Holder) -> None:
    holder.compare(holder.owner, hint=False)
    assert holder.wait(0) == [holder.owner]
    holder.compare(holder.owner, hint=True)
    assert holder.wait(STRAY_MS) == []


def test_one_that_leaves_hands_over_and_stands_in_for_nobody_more(holder: Holder) -> None:
    holder.mesh.members.remove(holder.node_id)
    assert holder.change() == [holder.owner]
    holder.compare(holder.owner, hint=True)
    assert holder.wait(2_000) == [holder.owner], "the repeat"


def test_a_late_copy_that_belongs_nowhere_near_is_brought_to_the_owner() -> None:
    holder = Holder()
    holder.store(holder.owner)
    assert holder.wait(STRAY_MS) == [holder.owner]


def test_an_owner_takes_nothing_from_whom_it_wants_to_keep_it(rig: Rig) -> None:
    """Else that one would delete a copy on which the owner counts."""
    handovers = rig.rooms.handovers
    packet = Handover(*KEY, 7, batches=(batch_of(S1, 1, 2),))
    assert handovers.on_handover(rig.homes[0], packet, rig.now) == []
    assert writes(handovers.on_handover(rig.line[0], packet, rig.now))


def test_a_post_ends_by_the_word_of_who_gave_it_or_by_time() -> None:
    standing = Standing()
    assert standing.begin(KEY, NODES[0], 0) == STANDS_MS
    assert not standing.end(KEY, NODES[1])
    assert standing.has_until(KEY, STANDS_MS - 1) == STANDS_MS
    assert standing.end(KEY, NODES[0])
    assert KEY not in standing
    standing.begin(KEY, NODES[0], 0)
    assert standing.has_until(KEY, STANDS_MS) is None
    assert KEY not in standing
