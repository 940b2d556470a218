"""Whose copies count after a disk was lost: the rules of one owner, and how refilling ends."""

from __future__ import annotations

import pytest

from p2pmq.core.copies import Contact, Copies
from p2pmq.core.effects import Persist, Send
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.intact import Intactness
from p2pmq.core.packets.replicating import Holdings, HoldingsRequest, PartitionField, Replicate
from p2pmq.core.records import PartitionFilled, RefillingChanged
from p2pmq.core.refill import FIRST_ROUND_MS, LISTED_MAX, ROUND_MS, Refill
from p2pmq.core.replica import Replica
from tests.core.kit import KEY, S1, A, B, C, View, rooms_of

OTHER = PartitionKey("other", 0)


def copies_of(merged: dict[bytes, bool], homes: int = 3, wanted: int = 2) -> Copies:
    """A owns, and has merged these homes, of which those with True are intact."""
    ids = (A, B, C, b"node-ddd", b"node-eee")[:homes]
    copies = Copies(A, ids, wanted)
    for node_id, intact in merged.items():
        copies.homes[node_id].contact = Contact.MERGED
        copies.homes[node_id].intact = intact
    return copies


# ------------------------------------------------------------------------------- who counts


def test_a_refilling_home_does_not_make_its_owner_active() -> None:
    assert copies_of({B: True}).active()
    assert not copies_of({B: False}).active()


def test_a_refilling_owner_needs_others_that_count() -> None:
    assert not copies_of({B: True}).active(intact=False)
    assert copies_of({B: True, C: True}).active(intact=False)
    assert copies_of({B: True}, homes=5, wanted=3).active() is False


def test_when_all_homes_are_merged_they_count_whatever_became_of_their_disks() -> None:
    assert copies_of({B: False, C: False}).active(intact=False)
    assert copies_of({B: False, C: False}).knows_enough(intact=False)
    assert copies_of({}, homes=1, wanted=1).active(intact=False)


@pytest.mark.parametrize(
    ("homes", "wanted", "intact_merged", "enough"),
    [(3, 2, 1, False), (3, 2, 2, True), (5, 3, 2, False), (5, 3, 3, True), (5, 4, 2, True)],
)
def test_it_takes_one_more_intact_home_than_a_commit_can_do_without(
    homes: int, wanted: int, intact_merged: int, enough: bool
) -> None:
    """R - W + 1: so that one of any W is among them."""
    others = (B, C, b"node-ddd", b"node-eee")[:intact_merged]
    copies = copies_of(dict.fromkeys(others, True), homes, wanted)
    assert copies.knows_enough(intact=False) is enough


def test_an_owner_that_only_homes_out_of_reach_could_help_says_so_to_publishers() -> None:
    assert copies_of({B: False}).is_stuck(intact=True)
    assert not copies_of({B: True}).is_stuck(intact=True)
    comparing = copies_of({B: False})
    comparing.homes[C].contact = Contact.COMPARING
    assert not comparing.is_stuck(intact=True)


def test_a_home_is_level_when_all_that_it_lacked_was_answered_for() -> None:
    home = copies_of({B: False}).homes[B]
    home.late.add(Run(S1, 1, 1))
    assert not home.is_level(7), "what is being written here is still to come"
    home.late.remove(Run(S1, 1, 1))
    home.unanswered[6] = home.unanswered[9] = Replicate(*KEY, 6)
    assert not home.is_level(7)
    del home.unanswered[6]
    assert home.is_level(12), "what came after it was level is no matter"
    home.lose()
    assert not home.is_level(12)


# ------------------------------------------------------------------------------- what is kept


def test_a_new_node_counts_for_nothing_until_it_has_met_somebody() -> None:
    intact = Intactness()
    intact.unsure = True
    assert not intact.holds(KEY)
    intact.unsure = False
    assert intact.holds(KEY)
    assert intact.fill(KEY) == [], "there is nothing to note"


def test_a_refilling_node_counts_for_what_was_filled_and_only_that() -> None:
    intact = Intactness()
    begun = intact.begin()
    assert Persist((RefillingChanged(refilling=True),)) in begun
    assert intact.fill(KEY) == [PartitionFilled(KEY)]
    assert (intact.holds(KEY), intact.holds(OTHER)) == (True, False)
    intact.on_dropped(KEY)
    assert not intact.holds(KEY), "it was handed over, and what came after is not here"


def test_what_was_filled_is_known_after_a_restart() -> None:
    intact = Intactness()
    intact.recover([KEY], refilling=True)
    assert (intact.holds(KEY), intact.holds(OTHER)) == (True, False)


def test_losing_the_place_again_takes_every_mark_away() -> None:
    intact = Intactness()
    intact.begin()
    intact.fill(KEY)
    intact.begin()
    assert not intact.holds(KEY)


# ------------------------------------------------------------------------------- the rounds


class Asking:
    """A, which is refilling, and of whose rounds the test is everybody else."""

    def __init__(self, *others: bytes) -> None:
        self.intact = Intactness()
        self.intact.begin()
        self.others = others
        self.view = View(A)
        rooms = rooms_of(A, 1, self.view)
        self.refill = Refill(
            A, 1, self.intact, self.view, rooms.replication.replica, lambda: [A, *self.others]
        )
        self.refill.begin(0)
        self.now = 0

    def round(self) -> int:
        """Let the next round begin; its number."""
        due = self.refill.next_deadline()
        assert due is not None
        self.now = due
        sent = [e for e in self.refill.on_timeout(due) if isinstance(e, Send)]
        numbers = {e.packet.number for e in sent if isinstance(e.packet, HoldingsRequest)}
        assert sorted(e.peer for e in sent) == sorted(self.others)
        (number,) = numbers
        return number

    def answer(self, peer: bytes, number: int, *keys: PartitionKey) -> None:
        fields = tuple(PartitionField(*key) for key in keys)
        self.refill.on_holdings(peer, Holdings(number, fields), self.now)


def test_a_round_ends_when_all_have_answered_and_nothing_is_missing() -> None:
    asking = Asking(B, C)
    number = asking.round()
    asking.intact.fill(KEY)
    asking.answer(B, number, KEY)
    assert asking.intact.refilling
    asking.answer(C, number)
    assert not asking.intact.refilling
    assert asking.refill.next_deadline() is None


def test_a_partition_that_is_listed_and_not_filled_takes_another_round() -> None:
    asking = Asking(B)
    asking.answer(B, asking.round(), KEY)
    assert asking.intact.refilling
    assert asking.refill.next_deadline() == FIRST_ROUND_MS + ROUND_MS
    asking.intact.fill(KEY)
    asking.refill.on_timeout(FIRST_ROUND_MS + ROUND_MS)
    assert not asking.intact.refilling, "what was answered holds still"


def test_what_belongs_elsewhere_need_not_be_here() -> None:
    asking = Asking(B)
    asking.view.owner = B
    asking.answer(B, asking.round(), KEY)
    assert not asking.intact.refilling


def test_answers_of_strangers_and_of_earlier_rounds_count_for_nothing() -> None:
    asking = Asking(B, C)
    former = asking.round()
    asking.answer(B, former)
    number = asking.round()
    asking.answer(C, number)
    asking.answer(B, former)
    asking.answer(b"stranger", number)
    assert asking.intact.refilling
    asking.answer(B, number)
    assert not asking.intact.refilling


def test_an_answer_in_parts_counts_when_all_of_it_is_there_in_any_order() -> None:
    asking = Asking(B)
    number = asking.round()
    asking.refill.on_holdings(B, Holdings(number, (), 1), asking.now)
    assert asking.intact.refilling
    asking.refill.on_holdings(B, Holdings(number, (), 0, more=True), asking.now)
    assert not asking.intact.refilling


def test_one_that_joins_during_a_round_is_to_answer_too() -> None:
    asking = Asking(B)
    number = asking.round()
    asking.others = (B, C)
    asking.answer(B, number)
    assert asking.intact.refilling


def test_alone_there_is_nobody_to_wait_for() -> None:
    asking = Asking()
    asking.refill.on_timeout(FIRST_ROUND_MS)
    assert not asking.intact.refilling


def test_a_node_says_of_which_partitions_something_is_there_in_pieces() -> None:
    asking = Asking(B)
    owner = rooms_of(B, 1, asking.view).owner
    keys = [PartitionKey(f"q{number}", 0) for number in range(LISTED_MAX + 1)]
    for key in keys:
        owner.partition(key).remove([Run(S1, 1, 1)])
    owner.partition(PartitionKey("empty", 0))
    replica = Replica(B, owner, asking.view, Intactness())
    answering = Refill(B, 1, Intactness(), asking.view, replica, list)
    answers = [e.packet for e in answering.on_request(A, HoldingsRequest(5)) if isinstance(e, Send)]
    held = [p for p in answers if isinstance(p, Holdings)]
    assert [(p.number, p.part, p.more) for p in held] == [(5, 0, True), (5, 1, False)]
    assert [PartitionKey(f.queue, f.partition) for p in held for f in p.partitions] == keys
