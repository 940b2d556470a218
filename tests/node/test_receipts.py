"""What a publisher gets back, and what one sees when one looks."""

from p2pmq import QueueDepth, Receipt
from p2pmq.core.membership import Member, MemberState
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.publishing import QueueStats
from p2pmq.node.receipts import depth_of, info_of


def test_a_receipt_names_the_message_as_its_consumer_will() -> None:
    receipt = Receipt("q", b"\x0a" * 8, 3, committed=True, stored=False, copies=1, owner="bank")
    assert receipt.message_id == "0a0a0a0a0a0a0a0a-3"
    assert receipt._replace(partition=7).message_id == "0a0a0a0a0a0a0a0a.7-3"


def test_a_message_that_nobody_waited_for_has_no_name_yet() -> None:
    receipt = Receipt("q", b"", 0, committed=False, stored=False, copies=0, owner=None)
    assert receipt.message_id == ""


def test_the_total_of_a_queue_is_all_its_messages() -> None:
    stats = QueueStats("q", 0, ready=1, in_flight=20, delayed=300, size=9, consumers=2)
    depth = depth_of("q", [stats], ["bank"], (3, 2))
    assert depth == QueueDepth("q", 1, 20, 300, 9, 2, "bank", 3, 2, owners=("bank",))
    assert depth.total == 321
    nothing = QueueDepth("q", 0, 0, 0, 0, 0, "bank", 1, 1, owners=("bank",))
    assert depth_of("q", [], ["bank"], (1, 1)) == nothing


def test_partitions_are_summed_and_their_consumers_counted_once() -> None:
    first = QueueStats("q", 0, ready=1, in_flight=2, delayed=3, size=4, consumers=2, scheduled=1)
    third = QueueStats("q", 2, ready=10, in_flight=20, delayed=30, size=40, consumers=3)
    owners = ["bank", "depot", "bank", None]
    assert depth_of("q", [first, third], owners, (3, 2)) == QueueDepth(
        "q", 11, 22, 33, 44, 3, "bank", 3, 2, 1, 4, ("bank", "depot")
    )


def test_a_member_is_shown_by_words() -> None:
    rumour = Rumour(
        b"\x01" * 8, MemberState.ALIVE, 1, name="leaf", addresses=("a:1",), zone="z", weight=0
    )
    member = Member(rumour, MemberState.SUSPECT, 0)
    info = info_of(member, b"\x02" * 8)
    assert (info.name, info.state, info.zone) == ("leaf", "suspect", "z")
    assert info.addresses == ("a:1",)
    assert info.leaf
    assert not info.is_self
    assert info_of(member, member.node_id).is_self
