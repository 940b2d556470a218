"""No attachment stands twice."""

from __future__ import annotations

from p2pmq.core.delivery import Bearer, Consumer
from p2pmq.core.letgo import REMEMBERED_MAX, LetGo
from p2pmq.core.packets.delivering import Attached, Delivery
from p2pmq.core.packets.publishing import Moved
from tests.core.kit import KEY, A, B, C
from tests.core.test_owner import ME, Rig, kinds, pushed


def consumer(number: int, attachment: int) -> Consumer:
    return Consumer(Bearer(A, number.to_bytes(8)), attachment, 10, 30_000, heard_at=0)


def test_attachments_up_to_the_one_let_go_are_covered_and_newer_ones_are_not() -> None:
    let_go = LetGo()
    let_go.note(KEY, consumer(1, 5))
    bearer = consumer(1, 5).bearer
    assert [let_go.covers(KEY, bearer, number) for number in (4, 5, 6)] == [True, True, False]
    assert not let_go.covers(KEY, consumer(2, 5).bearer, 1)


def test_only_so_many_are_remembered_the_oldest_is_forgotten_first() -> None:
    let_go = LetGo()
    for number in range(REMEMBERED_MAX):
        let_go.note(KEY, consumer(number, 1))
    let_go.note(KEY, consumer(0, 2))  # the oldest is the newest now
    let_go.note(KEY, consumer(REMEMBERED_MAX, 1))
    kept = [let_go.covers(KEY, consumer(number, 1).bearer, 1) for number in (0, 1, 2)]
    assert kept == [True, False, True]


def test_a_late_repeat_of_an_attachment_that_was_let_go_is_told_to_attach_anew() -> None:
    """Else it would be given its prefetch once more."""
    rig = Rig()
    rig.write(rig.publish(1, 5))
    assert len(pushed(rig.attach(1, 2))) == 2
    rig.owner.on_node_gone(B, rig.now)
    assert kinds(rig.attach(1, 2)) == [Moved]
    assert kinds(rig.attach(2, 2)) == [Attached, Delivery]


def test_an_owner_that_owns_again_does_not_take_up_an_attachment_of_before() -> None:
    rig = Rig()
    rig.attach(1)
    for owner in (C, ME):
        rig.view.owner = owner
        rig.rooms.on_placement_changed(rig.now)
    assert kinds(rig.attach(1)) == [Moved]
    assert kinds(rig.attach(2)) == [Attached]
